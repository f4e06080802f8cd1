"""From a model's name to a running engine: found, planned, refused or started as planned, its speed noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.base.errors import DoesNotFit, EngineMissing, WorkspaceError
from quietmind.base.units import format_bytes
from quietmind.engine.adapters import capabilities_of, start_engine
from quietmind.engine.installed import find, wheel_sees_accelerators
from quietmind.engine.llamacpp import LlamaCppOptions
from quietmind.engine.port import Engine
from quietmind.machine.machine import Machine
from quietmind.machine.probe import probe
from quietmind.model.card import ModelCard
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.model.open import open_card
from quietmind.plan.engines import engine_kind
from quietmind.plan.kv import padded
from quietmind.plan.measured import Measurement, What, machine_id, run_id
from quietmind.plan.placement import Placement, everything_on
from quietmind.plan.plan import Ask, DeviceUse, Plan, plan
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
        """Where the engine puts things: as planned; on the host, where the plan leaves it to the engine."""
        if self.plan.placement is not None:
            return self.plan.placement
        layers = frozenset(int(t.name.split(".", 2)[1]) for t in self.card.tensors if "_exps" in t.name)
        return everything_on("cpu", self.card.layers, layers)

    def speed(self, depth: int, *, corrected: bool = True) -> Speed | None:
        """Return the prediction at ``depth``; None where no bandwidth is known and nothing of this run was measured.

        Of an engine that shards, what its plan says at the full context.
        """
        if not self.measurable:
            return self.plan.speed
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
    def served_name(self) -> str:
        """The name that requests to the engine use: llama.cpp's is the file's, so that two quantizations differ."""
        return self.card.path.stem if "gguf" in engine_kind(self.plan.engine_key).formats else self.card.name

    @property
    def measurable(self) -> bool:
        """Whether this run's speed can be noted and corrected: the engines that place a model as llama.cpp does."""
        return engine_kind(self.plan.engine_key).placing == "offload"

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

    def engine(self, logs: Path) -> Engine:
        """Start the engine as planned. Raises DoesNotFit with the ledger, or EngineError."""
        if self.plan.verdict == "does not fit":
            use = next((use for use in self.plan.devices if _too_full(use)), self.plan.devices[0])
            where = "this machine" if use.device == "cpu" else use.name
            raise DoesNotFit(
                f"{self.plan.model} takes {format_bytes(use.needed_bytes)} at a context of {self.plan.context:,}, "
                f"{where} has {format_bytes(use.capacity_bytes or 0)}; choose a smaller model, a smaller --context or "
                "--kv q8_0",
                ledger=render(self.plan),
            )
        return start_engine(self.plan, self.card, logs=logs)


def prepare(name: str, ask: Ask, workspace: Path | None = None, warn: Callable[[str], None] | None = None) -> Start:
    """Find the model that answers to ``name`` and plan it on this machine, with what ``workspace`` remembers of it.

    With ``warn``, what cannot run as asked is changed so that it can, and ``warn`` is told: fewer threads, a smaller
    context, or the person's own llama-server for what our llama.cpp cannot do. Without, it is planned as asked.

    Raises ModelNotFound, ModelFileDamaged, ModelNotUnderstood, or UsageError for an ask that makes no sense.
    """
    card = read_card(locate(name)) if "gguf" in engine_kind(ask.engine).formats else open_card(name)
    if warn is not None:
        ask = _runnable(card, ask, warn)
    machine = _usable(probe(), ask.engine, warn or (lambda _: None))
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
    return started(prepare(name, ask, workspace, warn), logs, workspace, warn)


def started(
    start: Start, logs: Path, workspace: Path | None = None, warn: Callable[[str], None] = lambda _: None
) -> Engine:
    """Start what was planned; see :func:`launch`. Raises DoesNotFit, EngineError."""
    if start.plan.verdict == "tight":
        warn(f"memory is tight: {start.plan.model} takes nearly all that is free now; see `quietmind plan`")
    for warning in start.plan.warnings:
        warn(warning)
    engine = start.engine(logs)
    if workspace is None or not start.measurable:
        return engine

    def note(measurements: Sequence[Measurement]) -> None:
        with suppress(WorkspaceError):  # an answer is worth more than how long it took
            remember(workspace, measurements)

    return Noting(engine, start.label, note)


def _runnable(card: ModelCard, ask: Ask, warn: Callable[[str], None]) -> Ask:
    """Return ``ask`` as an engine that is here can run it, saying what had to be changed."""
    ask = _able(card, ask, warn)
    native, cores = card.native_context, probe().host.logical_cores
    if ask.context is not None and ask.context > padded(native) and not capabilities_of(ask.engine).yarn:
        warn(
            f"context {ask.context:,} is past the model's native {native:,}, which is used instead; "
            "llama-server can reach past it with YaRN: install it"
        )
        ask = replace(ask, context=native)
    if ask.threads is not None and cores is not None and ask.threads > cores:
        warn(f"{ask.threads:,} threads are more than this machine's {cores} cores, which are used instead")
        ask = replace(ask, threads=cores)
    # The sign of life of a prefill, and cancelling it, are as coarse as a batch: see LlamaCppOptions.
    return replace(ask, batch=LlamaCppOptions.batch) if engine_kind(ask.engine).placing == "offload" else ask


def _able(card: ModelCard, ask: Ask, warn: Callable[[str], None]) -> Ask:
    """Return ``ask`` for the person's llama-server where our own llama.cpp cannot do it and there is one."""
    if ask.engine != "llama.cpp":
        return ask
    can, wanted = capabilities_of(ask.engine), []
    if ask.experts_used is not None and not can.experts_override:
        wanted.append(f"{ask.experts_used:,} experts a token")
    if ask.context is not None and ask.context > padded(card.native_context) and not can.yarn:
        wanted.append(f"a context of {ask.context:,}")
    if not wanted:
        return ask
    try:
        find("llama-server")
    except EngineMissing:
        return ask  # the context gives way, and starting refuses experts in one line
    warn(f"your own llama-server runs the model: llama.cpp in our child cannot do {' and '.join(wanted)}")
    return replace(ask, engine="llama-server")


def _usable(machine: Machine, engine: str, warn: Callable[[str], None]) -> Machine:
    """Return the machine as ``engine`` sees it: a build for processors alone computes on no accelerator."""
    if engine != "llama.cpp" or not machine.accelerators or wheel_sees_accelerators() is not False:
        return machine
    warn(
        f"xllamacpp is built for the processor alone here, so that {machine.accelerators[0].name} is left out; install "
        "a llama-server for it and give --engine llama-server"
    )
    return replace(machine, devices=(machine.cpu,), links=())


def _too_full(use: DeviceUse) -> bool:
    return use.capacity_bytes is not None and use.needed_bytes > use.capacity_bytes
