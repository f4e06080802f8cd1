"""The engines that a plan can name: which files they load, how they place a model, and what else they can do.

The plan asks an engine only for what stands here; an adapter reports the same record, less what the installed version
lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.model.card import ModelCard

FileFormat = Literal["gguf", "safetensors"]

# How an engine can divide a model: experts on the host and the rest on accelerators, as llama.cpp does; shards of
# every matrix over equal accelerators (tensor parallel) with whole layers over nodes (pipeline parallel); whole layers
# wherever there is room, the disk included (Accelerate's device map); or as it pleases, out of our sight.
Placing = Literal["offload", "parallel", "device map", "its own"]


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do beyond continuing a prompt.

    ``snapshots``: save the KV cache of a prompt to a file and restore it. ``schema``: hold the output to a JSON schema.
    ``embeddings``, ``rerank``: serve models of these kinds. ``lora``: load adapters. ``experts_override``: use
    another number of experts than the model was trained with. ``yarn``: go past the native context.
    """

    snapshots: bool = False
    schema: bool = False
    embeddings: bool = False
    rerank: bool = False
    lora: bool = False
    experts_override: bool = False
    yarn: bool = False


@dataclass(frozen=True)
class EngineKind:
    """An engine by its public name. ``kv_types`` are in its own words, the default first.

    ``program`` is what the flags of a plan stand behind, as people type it.
    """

    key: str
    title: str
    formats: frozenset[FileFormat]
    placing: Placing
    kv_types: tuple[str, ...]
    capabilities: Capabilities
    program: tuple[str, ...] = ()


_LLAMA_KV = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_LLAMA = Capabilities(
    snapshots=True, schema=True, embeddings=True, rerank=True, lora=True, experts_override=True, yarn=True
)
_SERVED = Capabilities(schema=True, embeddings=True, rerank=True, lora=True, experts_override=True, yarn=True)

_LLAMA_PROGRAM = ("llama-server",)  # our child takes the same words

ENGINES: Mapping[str, EngineKind] = {
    kind.key: kind
    for kind in (
        EngineKind(
            "llama.cpp", "llama.cpp in our child", frozenset({"gguf"}), "offload", _LLAMA_KV, _LLAMA, _LLAMA_PROGRAM
        ),
        EngineKind(
            "llama-server", "your own llama-server", frozenset({"gguf"}), "offload", _LLAMA_KV, _LLAMA, _LLAMA_PROGRAM
        ),
        EngineKind("vllm", "vLLM", frozenset({"safetensors"}), "parallel", ("auto", "fp8"), _SERVED, ("vllm", "serve")),
        EngineKind(
            "sglang",
            "SGLang",
            frozenset({"safetensors"}),
            "parallel",
            ("auto", "fp8_e4m3"),
            _SERVED,
            ("python", "-m", "sglang.launch_server"),
        ),
        EngineKind(
            "transformers",
            "Hugging Face transformers",
            frozenset({"safetensors"}),
            "device map",
            ("auto",),
            Capabilities(experts_override=True, yarn=True),
            ("python", "-m", "quietmind.engine.transformers_child"),
        ),
        EngineKind("endpoint", "an OpenAI-compatible address", frozenset(), "its own", (), Capabilities(schema=True)),
    )
}

# What people call a type of the cache, and the word of engines that run safetensors for the same thing: 16 bits of the
# model's own type, and 8 bits of floating point with 4 of exponent.
_OTHER_NAMES = {"f16": "auto", "bf16": "auto", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8"}

_UNQUANTIZED = frozenset({"f32", "f16", "bf16"})
_CHECKPOINTS = ("gptq", "awq", "fp8")  # what weights of a checkpoint are called; see model.hf_quant


def engine_kind(key: str) -> EngineKind:
    """Return the engine of this name. Raises UsageError with the known names."""
    try:
        return ENGINES[key]
    except KeyError:
        raise UsageError(f"unknown engine {key!r}; known are {', '.join(ENGINES)}") from None


def kv_word(kind: EngineKind, asked: str) -> str:
    """Return the engine's own word for a type of the KV cache.

    Raises UsageError where it has none of the same meaning, with the engines that do.
    """
    for word in (asked, _OTHER_NAMES.get(asked, asked)):
        if word in kind.kv_types:
            return word
    able = [other.key for other in ENGINES.values() if asked in other.kv_types and asked != "auto"]
    if not able:
        known = ", ".join(dict.fromkeys(("f16", *kind.kv_types) if "auto" in kind.kv_types else kind.kv_types))
        raise UsageError(f"{asked!r} is not a KV cache type; choose one of {known}")
    eight_bits = " (8 bits are fp8 there)" if "fp8" in kind.kv_types and asked == "q8_0" else ""
    raise UsageError(
        f"{kind.key} has no KV cache type {asked!r}{eight_bits}, only {' and '.join(able)} "
        f"{'have' if len(able) > 1 else 'has'}; give one of {', '.join(kind.kv_types)}"
    )


def default_kv_type(engine: str, setting: str) -> str:
    """Return the KV type to ask for where the person named none: their ``setting``, or the plan's own choice ("auto").

    A setting speaks llama.cpp's words; engines that shard choose by what the cache costs. Raises UsageError for an
    unknown engine.
    """
    return setting if engine_kind(engine).placing == "offload" else "auto"


def formats_of(card: ModelCard) -> frozenset[FileFormat]:
    """Return in which file formats the weights of ``card`` are, or, where nothing was read, could be published."""
    if card.exact:
        return frozenset({"gguf"}) if card.path.suffix == ".gguf" else frozenset({"safetensors"})
    types = {tensor.type for tensor in card.tensors}
    if types <= _UNQUANTIZED:
        return frozenset({"gguf", "safetensors"})
    return frozenset({"safetensors"}) if any(name.startswith(_CHECKPOINTS) for name in types) else frozenset({"gguf"})


def refuse_format(kind: EngineKind, card: ModelCard) -> None:
    """Raise ModelNotUnderstood where the engine cannot load weights of this format, with what it can."""
    if kind.placing == "its own":
        raise UsageError(
            f"{kind.title} runs the models that it runs: there is nothing to plan; choose another --engine"
        )
    if not kind.formats & formats_of(card):
        able = ", ".join(other.key for other in ENGINES.values() if other.formats & formats_of(card))
        raise ModelNotUnderstood(
            f"{card.name}: {kind.key} runs no {card.quantization or 'GGUF'} weights of a GGUF ({able} do); give the "
            "folder of its safetensors, or of a known model --quant BF16, FP8, GPTQ-INT4 or AWQ-INT4"
        )


def refuse_incapable(kind: EngineKind, *, experts_override: bool, yarn: bool) -> None:
    """Raise UsageError for what a run needs and the engine cannot do, with the engines that can."""
    for needed, able, what in (
        (experts_override, "experts_override", "use another number of experts than the model was trained with"),
        (yarn, "yarn", "go past the model's native context"),
    ):
        if needed and not getattr(kind.capabilities, able):
            others = ", ".join(other.key for other in ENGINES.values() if getattr(other.capabilities, able))
            raise UsageError(f"{kind.key} cannot {what}; {others} can: leave it out, or choose one of these")
