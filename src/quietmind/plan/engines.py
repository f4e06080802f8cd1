"""The engines that a plan can name: which files they load, how they place a model, and what else they can do.

The plan asks an engine only for what stands here; an adapter reports the same record, less what the installed version
lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quietmind.base.errors import UsageError

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
    """An engine by its public name. ``kv_types`` are in its own words, the default first."""

    key: str
    title: str
    formats: frozenset[FileFormat]
    placing: Placing
    kv_types: tuple[str, ...]
    capabilities: Capabilities


_LLAMA_KV = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_LLAMA = Capabilities(
    snapshots=True, schema=True, embeddings=True, rerank=True, lora=True, experts_override=True, yarn=True
)
_SERVED = Capabilities(schema=True, embeddings=True, rerank=True, lora=True, experts_override=True, yarn=True)

ENGINES: Mapping[str, EngineKind] = {
    kind.key: kind
    for kind in (
        EngineKind("llama.cpp", "llama.cpp in our child", frozenset({"gguf"}), "offload", _LLAMA_KV, _LLAMA),
        EngineKind("llama-server", "your own llama-server", frozenset({"gguf"}), "offload", _LLAMA_KV, _LLAMA),
        EngineKind("vllm", "vLLM", frozenset({"safetensors"}), "parallel", ("auto", "fp8"), _SERVED),
        EngineKind("sglang", "SGLang", frozenset({"safetensors"}), "parallel", ("auto", "fp8_e4m3"), _SERVED),
        EngineKind(
            "transformers",
            "Hugging Face transformers",
            frozenset({"safetensors"}),
            "device map",
            ("auto",),
            Capabilities(experts_override=True, yarn=True),
        ),
        EngineKind("endpoint", "an OpenAI-compatible address", frozenset(), "its own", (), Capabilities(schema=True)),
    )
}


def engine_kind(key: str) -> EngineKind:
    """Return the engine of this name. Raises UsageError with the known names."""
    try:
        return ENGINES[key]
    except KeyError:
        raise UsageError(f"unknown engine {key!r}; known are {', '.join(ENGINES)}") from None
