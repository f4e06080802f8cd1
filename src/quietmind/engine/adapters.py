"""The one place that knows which adapter runs which engine: from a plan to a running model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.base.errors import EngineStartFailed, UsageError
from quietmind.base.paths import shown_path
from quietmind.engine import llamacpp, sglang, transformers, vllm
from quietmind.engine.installed import Installed, find, knows, require_flags
from quietmind.engine.llama_server import LlamaServer
from quietmind.engine.llamacpp import LlamaCpp
from quietmind.engine.openai_http import Patience
from quietmind.engine.openai_server import Serving
from quietmind.engine.port import Engine
from quietmind.model.card import ModelCard
from quietmind.plan.engines import Capabilities, engine_kind
from quietmind.plan.overrides import served_path
from quietmind.plan.plan import Plan

# A disk that was slow ten years ago, and what importing an engine and compiling its kernels takes beside it.
_SLOW_DISK_BYTES_PER_S = 100e6
_PREPARING_SECONDS = 900.0

# How much slower than planned a prefill may be before it counts as silence.
_SLACK = 4.0

# The flag that carries each capability, where an engine has them on its command line.
_CARRIERS = {
    "llama-server": {"snapshots": "--slot-save-path", "lora": "--lora", "experts_override": "--override-kv"},
    "vllm": {"experts_override": "--hf-overrides", "yarn": "--hf-overrides", "lora": "--enable-lora"},
    "sglang": {
        "experts_override": "--json-model-override-args",
        "yarn": "--json-model-override-args",
        "lora": "--enable-lora",
    },
}


@dataclass(frozen=True)
class Start:
    """How to start: where logs go (None: nowhere), which program (None: the one that is found), how closed off."""

    logs: Path | None = None
    program: Path | Installed | None = None
    sealed: bool = True
    memory_limit: int | None = None


def start_engine(
    plan: Plan,
    card: ModelCard,
    *,
    logs: Path | None = None,
    program: Path | Installed | None = None,
    sealed: bool = True,
    memory_limit: int | None = None,
) -> Engine:
    """Start what ``plan`` names with the plan's flags and wait until it serves.

    ``logs`` is the folder for its log; ``program`` its program or the Python that it is installed in, None to look for
    it; ``memory_limit`` in bytes. Raises EngineMissing, EngineTooOld for a flag that the installed version lacks,
    EngineStartFailed, of it OutOfMemoryAtStart, and UsageError for what is not started here: an address, or several
    machines.
    """
    key = plan.engine_key
    start = Start(logs, program, sealed, memory_limit)
    if key == "endpoint":
        raise UsageError(f"{engine_kind(key).title} is not started here; connect to it")
    if plan.split is not None and plan.split.nodes > 1:
        raise UsageError(
            f"{plan.model}: a plan over {plan.split.nodes} machines is started on each of them; "
            "`quietmind launch` writes the files"
        )
    if key == "llama.cpp":
        return LlamaCpp.run(plan.flags, logs, sealed=sealed, memory_limit=memory_limit)
    if key == "llama-server":
        return LlamaServer.run(plan.flags, logs, program=program, sealed=sealed, memory_limit=memory_limit)
    installed = program if isinstance(program, Installed) else find(key, program)
    return {"vllm": _vllm, "sglang": _sglang, "transformers": _transformers}[key](plan, card, installed, start)


def capabilities_of(key: str, installed: Installed | None = None) -> Capabilities:
    """Return what the engine ``key`` can do, in the version that is installed where that is known."""
    can = llamacpp.CAPABILITIES if key == "llama.cpp" else engine_kind(key).capabilities
    if installed is None:
        return can
    lacking = [name for name, flag in _CARRIERS.get(key, {}).items() if not knows(installed, flag)]
    return replace(can, **dict.fromkeys(lacking, False))


def _vllm(plan: Plan, card: ModelCard, installed: Installed, start: Start) -> Engine:
    require_flags(installed, (*plan.flags, *vllm.NEEDED))
    command = (*installed.program, "serve", *plan.flags)
    return vllm.start(_serving(plan, card, installed, start, command, vllm.LOG_NAME), installed.flags)


def _sglang(plan: Plan, card: ModelCard, installed: Installed, start: Start) -> Engine:
    require_flags(installed, (*plan.flags, *sglang.NEEDED))
    command = (*installed.program, *plan.flags)
    return sglang.start(_serving(plan, card, installed, start, command, sglang.LOG_NAME), installed.flags)


def _transformers(plan: Plan, card: ModelCard, installed: Installed, start: Start) -> Engine:
    command = (*installed.program[:1], *transformers.PROGRAM[1:], *plan.flags)
    return transformers.start(_serving(plan, card, installed, start, command, transformers.LOG_NAME))


def _serving(
    plan: Plan, card: ModelCard, installed: Installed, start: Start, command: Sequence[str], log_name: str
) -> Serving:
    """Return what to serve. Raises EngineStartFailed for a model whose weights are not here: nothing is fetched."""
    folder = Path(served_path(card))
    if not folder.is_dir():
        raise EngineStartFailed(
            f"{shown_path(folder)}: there is no such folder of weights; fetch the model in its safetensors form first"
        )
    return Serving(
        command=tuple(command),
        name=card.name,
        folder=folder,
        capabilities=capabilities_of(plan.engine_key, installed),
        log=start.logs / log_name if start.logs else None,
        sealed=start.sealed,
        memory_limit=start.memory_limit,
        start_timeout_s=_PREPARING_SECONDS + card.weight_bytes / _SLOW_DISK_BYTES_PER_S,
        patience=Patience(prefill=prefill_patience(plan)),
    )


def prefill_patience(plan: Plan) -> float:
    """Return how many seconds a prompt may take before the engine counts as hung: four times the slowest planned."""
    least = Patience().prefill
    prefill = plan.speed.prefill if plan.speed is not None else None
    if prefill is None or prefill.low <= 0:
        return least
    return max(least, _SLACK * plan.context / prefill.low)
