"""From a model's name to a running engine: found, planned, refused or started as planned, its speed noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.base.errors import DoesNotFit, WorkspaceError
from quietmind.base.units import format_bytes
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Engine
from quietmind.machine.machine import Machine
from quietmind.machine.probe import probe
from quietmind.model.card import ModelCard
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.plan.measured import Measurement, What, machine_id, run_id
from quietmind.plan.placement import Placement, everything_on
from quietmind.plan.plan import Ask, Plan, plan
from quietmind.plan.render import render
from quietmind.plan.speed import Speed, predict
from quietmind.workspace.measurements import Noting, RunLabel, remember, remembered


@dataclass(frozen=True)
class Start:
    """A model that was found and planned, and can be started. ``measured`` is what is known of this machine."""

    machine: Machine
    card: ModelCard
    plan: Plan
    ask: Ask
    measured: tuple[Measurement, ...] = ()

    @property
    def placement(self) -> Placement:
        """Where the engine that we start puts things: it computes on the host alone."""
        layers = frozenset(int(t.name.split(".", 2)[1]) for t in self.card.tensors if "_exps" in t.name)
        return everything_on("cpu", self.card.layers, layers)

    def speed(self, depth: int, *, corrected: bool = True) -> Speed | None:
        """Return the prediction at ``depth``; None where no bandwidth is known and nothing of this run was measured."""
        return predict(
            self.machine,
            self.card,
            self.placement,
            kv_type=self.plan.kv_type,
            micro_batch=self.plan.micro_batch,
            depth=depth,
            threads=self.plan.threads,
            measured=self.measured if corrected else (),
        )

    @property
    def label(self) -> RunLabel:
        """Under what this run's measurements are filed."""
        run = run_id(
            self.machine,
            self.card,
            self.placement,
            kv_type=self.plan.kv_type,
            micro_batch=self.plan.micro_batch,
            threads=self.plan.threads,
        )
        return RunLabel(run, machine_id(self.machine), self.plan.micro_batch, self._predicted)

    def _predicted(self, what: What, depth: int) -> float | None:
        speed = self.speed(depth, corrected=False)
        if speed is None:
            return None
        interval = speed.prefill if what == "prefill" else speed.decode
        return None if interval is None else interval.mid

    def engine(self, logs: Path) -> LlamaCpp:
        """Start the engine as planned. Raises DoesNotFit with the ledger, or EngineError."""
        if self.plan.verdict == "does not fit":
            use = self.plan.devices[0]
            raise DoesNotFit(
                f"{self.plan.model} takes {format_bytes(use.needed_bytes)} at a context of {self.plan.context:,}, this "
                f"machine has {format_bytes(use.capacity_bytes or 0)}; choose a smaller model, a smaller --context or "
                "--kv q8_0",
                ledger=render(self.plan),
            )
        options = LlamaCppOptions(
            model_path=self.card.path,
            context=self.plan.context,
            kv_type=self.plan.kv_type,
            threads=self.plan.threads,
            batch=self.plan.batch,
            micro_batch=self.plan.micro_batch,
        )
        return LlamaCpp.start(options, logs)


def prepare(name: str, ask: Ask, workspace: Path | None = None) -> Start:
    """Find the model that answers to ``name`` and plan it on this machine, with what ``workspace`` remembers of it.

    Raises ModelNotFound, ModelFileDamaged, ModelNotUnderstood, or UsageError for an ask that makes no sense.
    """
    machine = probe()
    card = read_card(locate(name))
    measured: tuple[Measurement, ...] = ()
    if workspace is not None:
        with suppress(WorkspaceError):  # a plan is made without its memory rather than not at all
            measured = remembered(workspace, machine_id(machine))
    return Start(machine, card, plan(machine, card, ask, measured), ask, measured)


def launch(
    name: str, ask: Ask, logs: Path, workspace: Path | None = None, warn: Callable[[str], None] = lambda _: None
) -> Engine:
    """Start the model that answers to ``name`` as planned; what its runs show is appended to ``workspace``.

    ``warn`` is told, in a line each, what the person should know of the plan. Raises what ``prepare`` raises,
    DoesNotFit, EngineError.
    """
    start = prepare(name, _runnable(name, ask, warn), workspace)
    if start.plan.verdict == "tight":
        warn(f"memory is tight: {start.plan.model} takes nearly all that is free now; see `quietmind plan`")
    for warning in start.plan.warnings:
        warn(warning)
    engine = start.engine(logs)
    if workspace is None:
        return engine

    def note(measurements: Sequence[Measurement]) -> None:
        with suppress(WorkspaceError):  # an answer is worth more than how long it took
            remember(workspace, measurements)

    return Noting(engine, start.label, note)


def _runnable(name: str, ask: Ask, warn: Callable[[str], None]) -> Ask:
    """Return ``ask`` as the engine that we start can run it, saying what had to be changed."""
    native, cores = read_card(locate(name)).native_context, probe().host.logical_cores
    if ask.context is not None and ask.context > native:
        warn(f"context {ask.context:,} is past the model's native {native:,}, which is used instead")
        ask = replace(ask, context=native)
    if ask.threads is not None and cores is not None and ask.threads > cores:
        warn(f"{ask.threads:,} threads are more than this machine's {cores} cores, which are used instead")
        ask = replace(ask, threads=cores)
    return replace(ask, batch=LlamaCppOptions.batch)
