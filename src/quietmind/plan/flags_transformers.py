"""The words of a plan for our child around transformers, ``key=value`` each; ``engine.transformers_model`` reads them.

    model        the folder of the checkpoint
    context      tokens that a prompt and its answer may have
    batch        tokens of a prompt computed at once
    dtype        what the weights are loaded as
    device_map   "cpu", or as JSON the device of each module: a GPU's number, "mps", "cpu", "disk"
    max_memory   as JSON the bytes that each device has
    threads      of the host's cores
    config       as JSON what config.json is overridden with

The folder for what goes to the disk is for whoever starts the child to name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import DEFAULT_MICRO_BATCH, Ask
from quietmind.plan.overrides import config_overrides, served_path
from quietmind.plan.place import available
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.yarn import Yarn

_ENDS = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")
_COMPACT = (",", ":")

Target = int | str


def transformers_flags(
    machine: Machine, card: ModelCard, ask: Ask, placement: Placement, context: int, yarn: Yarn | None
) -> tuple[str, ...]:
    """Return the words after the child's module."""
    targets = _targets(machine)
    experts = None if ask.experts_used is None else card.experts_used
    overrides = config_overrides(card, context, experts, yarn)
    limits = {str(target): room for target, room in _limits(machine, placement, targets)}
    return (
        f"model={served_path(card)}",
        f"context={context}",
        f"batch={min(ask.micro_batch or DEFAULT_MICRO_BATCH, context)}",
        "dtype=bfloat16",
        f"device_map={_device_map(placement, targets)}",
        *((f"max_memory={json.dumps(limits, separators=_COMPACT)}",) if limits else ()),
        *((f"threads={ask.threads}",) if ask.threads else ()),
        *((f"config={overrides}",) if overrides else ()),
    )


def _targets(machine: Machine) -> dict[str, Target]:
    """Return what Accelerate calls each device."""
    targets: dict[str, Target] = {"cpu": "cpu", DISK: DISK}
    for device in machine.accelerators:
        number = device.key.removeprefix(device.kind)
        targets[device.key] = int(number) if number.isdecimal() else "mps"
    return targets


def _device_map(placement: Placement, targets: dict[str, Target]) -> str:
    homes = {*placement.dense, placement.output}
    if homes == {"cpu"}:
        return "cpu"
    if len(homes) == 1:
        return json.dumps({"": targets[placement.output]}, separators=_COMPACT)
    modules: dict[str, Target] = dict.fromkeys(_ENDS, targets[placement.output])
    modules |= {f"model.layers.{layer}": targets[home] for layer, home in enumerate(placement.dense)}
    return json.dumps(modules, separators=_COMPACT)


def _limits(machine: Machine, placement: Placement, targets: dict[str, Target]) -> Iterator[tuple[Target, int]]:
    for device in machine.devices:
        room = available(device)
        if device.key in placement.devices and room is not None:
            yield targets[device.key], room
