"""What a person asks of a run, and what is refused before any arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.model.card import ModelCard
from quietmind.model.ggml_types import GgmlType
from quietmind.plan.engines import EngineKind, engine_kind, kv_word, refuse_format, refuse_incapable
from quietmind.plan.kv import kv_type
from quietmind.plan.yarn import Yarn, yarn_for

LARGEST_CONTEXT = 1 << 31  # positions are 32-bit in the engine
LARGEST_SEQUENCES = 256  # LLAMA_MAX_SEQ in src/llama-cparams.h
DEFAULT_MICRO_BATCH = 512  # n_ubatch in common/common.h

# Recipes that llama.cpp has no kernels for; their files are safetensors for vLLM, SGLang and transformers.
_FOREIGN = re.compile(r"gptq|awq|fp8|f8_e[45]m|exl[23]|bitsandbytes|bnb", re.IGNORECASE)


@dataclass(frozen=True)
class Ask:
    """What the person wants of a run.

    ``context`` in tokens, None for the largest sensible that fits. ``batch`` tokens are handed to the engine at once,
    and ``micro_batch`` of them computed together: None for what prefills fastest and costs nothing else, for which a
    ``batch`` of the default micro-batch and more is raised (``micro_batch.py``). ``threads`` None: one for each
    physical core that we may use. ``sequences`` are answered at once, each with a context of its own. ``experts_used``
    None: as the model was trained.

    Where parts go is chosen from the machine unless it is said here: ``gpu_layers`` counts from the end as ``-ngl``
    does, the output being the first; ``cpu_experts`` is the number of layers, from the first, whose experts stay in the
    host's memory; ``kv_offload`` False keeps the KV cache there.

    ``engine`` is a key of ``plan.engines.ENGINES``. Engines that shard take at most ``gpus`` of each of ``nodes`` equal
    machines (None: as many as it takes). With them a ``kv_type`` of "auto" leaves the choice to the plan, and a
    micro-batch of None is the engine's own.
    """

    context: int | None = None
    kv_type: str = "f16"
    micro_batch: int | None = None
    batch: int = 2048
    threads: int | None = None
    sequences: int = 1
    experts_used: int | None = None
    flash_attention: bool = True
    gpu_layers: int | None = None
    cpu_experts: int | None = None
    kv_offload: bool | None = None
    engine: str = "llama.cpp"
    nodes: int = 1
    gpus: int | None = None


@dataclass(frozen=True)
class Run:
    """An ask, settled: what the engine is told. ``context`` is what it allocates for each sequence, in tokens.

    ``experts_used`` is None where the model's own number holds, ``yarn`` where the context is within the native one.
    """

    context: int
    batch: int
    micro_batch: int
    kind: GgmlType
    threads: int | None = None
    sequences: int = 1
    experts_used: int | None = None
    flash_attention: bool = True
    yarn: Yarn | None = None


def refuse_nonsense(ask: Ask, card: ModelCard) -> None:
    """Raise UsageError for numbers that make no sense and for what the engine has not, ModelNotUnderstood for weights
    that it cannot load.
    """
    kind = engine_kind(ask.engine)
    if kind.placing == "its own":
        raise UsageError(f"{kind.title} runs what it runs, so there is nothing to plan; choose another --engine")
    for what, value, least, largest in (
        ("context", ask.context, 1, LARGEST_CONTEXT),
        ("micro-batch", ask.micro_batch, 1, 1 << 20),
        ("batch", ask.batch, 1, 1 << 20),
        ("number of threads", ask.threads, 1, 1 << 12),
        ("number of sequences", ask.sequences, 1, LARGEST_SEQUENCES),
        ("number of layers on the GPU", ask.gpu_layers, 0, 1 << 20),
        ("number of layers with experts on the CPU", ask.cpu_experts, 0, 1 << 20),
        ("number of nodes", ask.nodes, 1, 64),
        ("number of GPUs", ask.gpus, 1, 256),
    ):
        if value is not None and not least <= value <= largest:
            raise UsageError(f"a {what} of {value:,} makes no sense; give a number from {least} to {largest:,}")
    if (ask.context or 0) * ask.sequences > LARGEST_CONTEXT:
        raise UsageError(
            f"{ask.sequences:,} sequences of {ask.context:,} tokens are more than the engine counts "
            f"({LARGEST_CONTEXT:,}); ask for fewer or shorter ones"
        )
    kv_word(kind, ask.kv_type)
    if kind.placing == "offload" and kv_type(ask.kv_type).block > 1 and not ask.flash_attention:
        raise UsageError(
            f"KV type {ask.kv_type} takes flash attention in llama.cpp; turn flash attention on, or use f16"
        )
    _refuse_places(kind, ask)
    _refuse_experts(ask.experts_used, card)
    other_experts = ask.experts_used not in (None, card.experts_used)
    stretched = yarn_for(card, ask.context or 1) is not None
    refuse_incapable(kind, experts_override=other_experts, yarn=stretched)
    if kind.placing != "offload":
        refuse_format(kind, card)
        return
    foreign = _FOREIGN.search(card.quantization or "") or next(
        (found for tensor in card.tensors if (found := _FOREIGN.search(tensor.type))), None
    )
    if foreign:
        raise ModelNotUnderstood(
            f"{card.name}: llama.cpp cannot load {foreign[0].upper()} weights; "
            "choose a GGUF of the model, or serve these files with vLLM"
        )


def _refuse_places(kind: EngineKind, ask: Ask) -> None:
    """Raise UsageError for a say over places that the engine does not give."""
    if kind.placing != "parallel" and (ask.nodes > 1 or ask.gpus is not None):
        raise UsageError(
            f"{kind.key} does not shard over GPUs and nodes as asked; vllm and sglang do: give --engine vllm"
        )
    said = [
        name
        for name, value in (
            ("gpu_layers", ask.gpu_layers),
            ("cpu_experts", ask.cpu_experts),
            ("kv_offload", ask.kv_offload),
        )
        if value is not None
    ]
    if kind.placing != "offload" and said:
        raise UsageError(f"{kind.key} places a model by itself: {', '.join(said)} go with --engine llama.cpp alone")


def _refuse_experts(used: int | None, card: ModelCard) -> None:
    if used is None:
        return
    if not card.experts:
        raise UsageError(f"{card.name} has no experts to use {used:,} of; leave the number of experts out")
    if not 1 <= used <= card.experts:
        raise UsageError(
            f"{card.name} cannot use {used:,} of its {card.experts:,} experts; give a number from 1 to {card.experts:,}"
        )
