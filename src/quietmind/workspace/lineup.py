"""What plans are made of, by the names that people give: a model in its quantizations, and machines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from quietmind.base.errors import WorkspaceError
from quietmind.machine.load import catalogue_names, load_machine
from quietmind.machine.machine import Device, Machine
from quietmind.machine.probe import probe
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan.measured import Measurement, machine_id
from quietmind.plan.plan import plan
from quietmind.plan.search import Planner
from quietmind.workspace.measurements import remembered

# The recipes that a search weighs and that publishers upload, most bits first.
QUANTIZATIONS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
# Models are trained in these themselves: more bits would hold nothing more.
_TRAINED_IN = ("MXFP4_MOE",)
# f16, int8 and int4, as people call them.
COMPARED_QUANTIZATIONS = ("F16", "Q8_0", "Q4_K_M")
# A Mac and a server without a GPU, for "what if it were another machine".
COMPARED_MACHINES = ("mac-studio-m3-ultra-512", "2x-epyc-9575f-1.5tb")
# Machines whose GPU is sold as a card for any computer; those of the others sit on boards of their own.
_MACHINES_WITH_CARDS = ("rtx-3090", "rtx-4090", "rtx-5090", "rtx-pro-6000-128")


def machine_named(name: str | None) -> Machine:
    """Return the machine of the catalogue or of a TOML file; None: this one. Raises UsageError for an unknown name."""
    return probe() if name is None else load_machine(name)


def machines_named(names: Sequence[str] = ()) -> list[Machine]:
    """Return machines of the catalogue, called by what ``--machine`` takes. No names: all of them."""
    return [replace(load_machine(name), name=name) for name in names or catalogue_names()]


def planner_for(machine: Machine, workspace: Path) -> Planner:
    """Return how to plan: with what the workspace remembers of runs on ``machine``. Other machines are not affected."""
    measured: tuple[Measurement, ...] = ()
    with suppress(WorkspaceError):  # a plan is made without its memory rather than not at all
        measured = remembered(workspace, machine_id(machine))
    return partial(plan, measured=measured)


def gpu_cards() -> list[Device]:
    """Return the GPUs of the catalogue that can be bought as cards and put into a computer."""
    return [load_machine(name).accelerators[0] for name in _MACHINES_WITH_CARDS]


def quantized(model: str, quantizations: Sequence[str] = QUANTIZATIONS) -> list[ModelCard]:
    """Return ``model`` in each of ``quantizations``. A file is what it is, and so are weights trained in 4 bits.

    Raises what open_card raises for the model as it stands.
    """
    own = open_card(model)
    if own.exact or own.quantization in _TRAINED_IN:
        return [own]
    return [open_card(model, name) for name in quantizations]
