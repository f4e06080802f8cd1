"""Writes GGUF files that are all header: real shapes and a table of tensors over a hole in the disk.

The engine accounts for them as for the whole model, and they take a few kilobytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from quietmind.model.ggml_types import BY_NAME, GGML_TYPES

ALIGNMENT = 32
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}


@dataclass(frozen=True)
class Shape:
    """A public configuration. ``feed_forward`` is one expert's width where there are experts."""

    name: str
    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    vocabulary: int
    context: int
    experts: int = 0
    experts_used: int = 0
    shared: int = 0
    window: int = 0
    tied: bool = False


SHAPES = (
    Shape("Qwen3-30B-A3B", "qwen3moe", 48, 2048, 32, 4, 128, 768, 151_936, 40_960, experts=128, experts_used=8),
    Shape("Qwen3-235B-A22B", "qwen3moe", 94, 4096, 64, 4, 128, 1536, 151_936, 40_960, experts=128, experts_used=8),
    Shape("Qwen3-32B", "qwen3", 64, 5120, 64, 8, 128, 25_600, 151_936, 40_960),
    Shape("Qwen2.5-7B", "qwen2", 28, 3584, 28, 4, 128, 18_944, 152_064, 32_768),
    Shape("Qwen1.5-MoE-A2.7B", "qwen2moe", 24, 2048, 16, 16, 128, 1408, 151_936, 32_768, 60, 4, shared=5632),
    Shape("Llama-3.1-8B", "llama", 32, 4096, 32, 8, 128, 14_336, 128_256, 131_072),
    Shape("Mixtral-8x7B", "llama", 32, 4096, 32, 8, 128, 14_336, 32_000, 32_768, experts=8, experts_used=2),
    Shape("Gemma-7B", "gemma", 28, 3072, 16, 16, 256, 24_576, 256_000, 8192, tied=True),
    Shape("Gemma-2-9B", "gemma2", 42, 3584, 16, 8, 256, 14_336, 256_000, 8192, window=4096, tied=True),
    Shape("Gemma-3-12B", "gemma3", 48, 3840, 16, 8, 256, 15_360, 262_208, 131_072, window=1024, tied=True),
    Shape("Phi-3-mini", "phi3", 32, 3072, 32, 32, 96, 8192, 32_064, 4096, window=2047),
)


def write_header(shape: Shape, path: Path) -> None:
    """Write the file of ``shape``, every matrix in q8_0 and every vector in f32."""
    metadata: dict[str, int | float | str] = {
        "general.architecture": shape.arch,
        "general.name": shape.name,
        "general.file_type": 7,
        "tokenizer.ggml.model": "none",
    }
    metadata |= {f"{shape.arch}.{key}": value for key, value in _hyperparameters(shape).items()}
    table, at = b"", 0
    tensors = _tensors(shape)
    for name, extents in tensors:
        layout = BY_NAME["f32" if len(extents) == 1 or "ffn_gate_inp" in name else "q8_0"]
        rows = 1
        for extent in extents[1:]:
            rows *= extent
        table += _text(name) + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        table += struct.pack("<IQ", _TYPE_IDS[layout.name], at)
        at += -(-(layout.row_bytes(extents[0]) * rows) // ALIGNMENT) * ALIGNMENT
    entries = b"".join(_text(key) + _value(value) for key, value in metadata.items())
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + entries + table
    header += bytes(-len(header) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + at)


def _hyperparameters(shape: Shape) -> dict[str, int | float]:
    facts: dict[str, int | float] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.feed_forward,
        "vocab_size": shape.vocabulary,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head,
        "attention.value_length": shape.head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": shape.head,
        "rope.freq_base": 1e6,
    }
    if shape.experts:
        facts |= {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
        facts["expert_feed_forward_length"] = shape.feed_forward
    if shape.shared:
        facts["expert_shared_feed_forward_length"] = shape.shared
    if shape.window:
        facts["attention.sliding_window"] = shape.window
    if shape.arch == "gemma2":
        facts |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return facts


def _tensors(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    hidden = shape.hidden
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (hidden, shape.vocabulary)),
        ("output_norm.weight", (hidden,)),
    ]
    if not shape.tied:
        tensors.append(("output.weight", (hidden, shape.vocabulary)))
    for layer in range(shape.layers):
        parts = {**_attention(shape), **_feed_forward(shape)}
        tensors += [(f"blk.{layer}.{name}", extents) for name, extents in parts.items()]
    return tensors


def _attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    parts: dict[str, tuple[int, ...]] = {"attn_norm.weight": (shape.hidden,)}
    if shape.arch == "phi3":
        parts["attn_qkv.weight"] = (shape.hidden, queries + 2 * keys)
    else:
        for name, width in (("q", queries), ("k", keys), ("v", keys)):
            parts[f"attn_{name}.weight"] = (shape.hidden, width)
            if shape.arch in ("qwen2", "qwen2moe"):
                parts[f"attn_{name}.bias"] = (width,)
    parts["attn_output.weight"] = (queries, shape.hidden)
    if shape.arch in ("qwen3", "qwen3moe", "gemma3"):
        parts |= {"attn_q_norm.weight": (shape.head,), "attn_k_norm.weight": (shape.head,)}
    if shape.arch in ("gemma2", "gemma3"):
        parts |= {"post_attention_norm.weight": (shape.hidden,), "post_ffw_norm.weight": (shape.hidden,)}
    return parts


def _feed_forward(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, width = shape.hidden, shape.feed_forward
    parts: dict[str, tuple[int, ...]] = {"ffn_norm.weight": (hidden,)}
    if shape.experts:
        parts["ffn_gate_inp.weight"] = (hidden, shape.experts)
        for name, extents in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden))):
            parts[f"ffn_{name}_exps.weight"] = (*extents, shape.experts)
    elif shape.arch == "phi3":
        parts |= {"ffn_up.weight": (hidden, 2 * width), "ffn_down.weight": (width, hidden)}
    else:
        parts |= {"ffn_gate.weight": (hidden, width), "ffn_up.weight": (hidden, width)}
        parts["ffn_down.weight"] = (width, hidden)
    if shape.shared:
        parts["ffn_gate_inp_shexp.weight"] = (hidden,)
        parts |= {"ffn_gate_shexp.weight": (hidden, shape.shared), "ffn_up_shexp.weight": (hidden, shape.shared)}
        parts["ffn_down_shexp.weight"] = (shape.shared, hidden)
    return parts


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: int | float | str) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)
