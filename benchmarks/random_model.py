"""Writes small GGUF files of random weights that really load and run: any type of tensor, any mixture of experts.

Speed does not depend on what the weights say. The vocabulary is one token a byte, so a text of n ASCII characters is n
tokens; only the tensors' scales are set, to keep the numbers that the model computes finite.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quietmind.model.ggml_types import BY_NAME, GGML_TYPES

ALIGNMENT = 32

# Where a block of a type keeps its half-precision scales: (offset, ...). The rest of a block may hold any bits.
SCALES: dict[str, tuple[int, ...]] = {
    "q4_0": (0,),
    "q4_1": (0, 2),
    "q5_0": (0,),
    "q8_0": (0,),
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
    "iq2_xs": (0,),
    "iq3_xxs": (0,),
    "iq3_s": (0,),
    "iq4_nl": (0,),
    "iq4_xs": (0,),
}
SCALE = struct.pack("<e", 0.001)
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}
CHUNK_BLOCKS = 1 << 14  # random blocks that are repeated to fill a tensor


@dataclass(frozen=True)
class Mould:
    """The shape of a model like Qwen3, or Qwen3 MoE where it has experts; ``feed_forward`` is then one expert's width.

    ``matrices`` is the type of its matrices; the embedding, which is the output too, is q8_0 and vectors are f32.
    """

    name: str
    matrices: str
    layers: int = 8
    hidden: int = 1024
    heads: int = 16
    kv_heads: int = 4
    head: int = 64
    feed_forward: int = 512
    experts: int = 0
    experts_used: int = 0
    vocabulary: int = 1024
    context: int = 32_768

    @property
    def arch(self) -> str:
        """The architecture's name in GGUF."""
        return "qwen3moe" if self.experts else "qwen3"


def write_random(shape: Mould, path: Path) -> None:
    """Write the model of ``shape``. ``shape.vocabulary`` must be at least 257."""
    table, at = b"", 0
    tensors: list[tuple[str, int]] = []
    for name, extents in _tensors(shape):
        kind = _type_of(name, extents, shape.matrices)
        rows = 1
        for extent in extents[1:]:
            rows *= extent
        size = BY_NAME[kind].row_bytes(extents[0]) * rows
        table += _text(name) + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        table += struct.pack("<IQ", _TYPE_IDS[kind], at)
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        tensors.append((kind, padded))
        at += padded
    metadata = _metadata(shape)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + table
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for kind, padded in tensors:
            _write_tensor(file, kind, padded)


def _tensors(shape: Mould) -> list[tuple[str, tuple[int, ...]]]:
    hidden, queries, keys = shape.hidden, shape.heads * shape.head, shape.kv_heads * shape.head
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "attn_q": (hidden, queries),
        "attn_k": (hidden, keys),
        "attn_v": (hidden, keys),
        "attn_output": (queries, hidden),
        "attn_q_norm": (shape.head,),
        "attn_k_norm": (shape.head,),
        "ffn_norm": (hidden,),
    }
    stacked = (shape.experts,) if shape.experts else ()
    suffix = "_exps" if shape.experts else ""
    if shape.experts:
        layer["ffn_gate_inp"] = (hidden, shape.experts)
    layer[f"ffn_gate{suffix}"] = (hidden, shape.feed_forward, *stacked)
    layer[f"ffn_up{suffix}"] = (hidden, shape.feed_forward, *stacked)
    layer[f"ffn_down{suffix}"] = (shape.feed_forward, hidden, *stacked)
    named = [("token_embd.weight", (hidden, shape.vocabulary)), ("output_norm.weight", (hidden,))]
    return named + [
        (f"blk.{number}.{name}.weight", extents) for number in range(shape.layers) for name, extents in layer.items()
    ]


def _type_of(name: str, extents: tuple[int, ...], matrices: str) -> str:
    if len(extents) == 1 or "ffn_gate_inp" in name:
        return "f32"
    return "q8_0" if name == "token_embd.weight" else matrices


def _write_tensor(file: BinaryIO, kind: str, size: int) -> None:
    chunk = random_blocks(kind)
    left = size
    while left > 0:
        file.write(chunk[:left])
        left -= len(chunk)


def random_blocks(kind: str) -> bytes:
    """Return ``CHUNK_BLOCKS`` blocks of random weights of type ``kind`` with small finite scales."""
    if kind in ("f32", "f16", "bf16"):
        layout = {"f32": "<f", "f16": "<e", "bf16": "<e"}[kind]
        return struct.pack(layout, 0.01) * CHUNK_BLOCKS
    block = BY_NAME[kind].block_bytes
    chunk = bytearray(os.urandom(block * CHUNK_BLOCKS))
    for offset in SCALES[kind]:
        for start in range(offset, len(chunk), block):
            chunk[start : start + 2] = SCALE
    return bytes(chunk)


def _hyperparameters(shape: Mould) -> dict[str, int | float]:
    facts: dict[str, int | float] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.feed_forward,
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
    return facts


def _metadata(shape: Mould) -> list[bytes]:
    facts: dict[str, int | float | str] = {"general.architecture": shape.arch, "general.name": shape.name}
    facts |= {f"{shape.arch}.{key}": value for key, value in _hyperparameters(shape).items()}
    return [_text(key) + _value(value) for key, value in facts.items()] + byte_vocabulary(shape.vocabulary)


def byte_vocabulary(size: int) -> list[bytes]:
    """Return the metadata of a tokenizer of ``size`` tokens (257 at least), one for each byte and one that ends."""
    # The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for code points from 256 up.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    alphabet = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    tokens = [*alphabet, "<end>", *(f"<unused{number}>" for number in range(size - 257))]
    types = [1] * 256 + [3] + [5] * (size - 257)  # normal, control, unused
    facts: dict[str, int | float | str] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.bos_token_id": 256,
    }
    entries = [_text(key) + _value(value) for key, value in facts.items()]
    entries.append(_array("tokenizer.ggml.tokens", 8, [_text(token) for token in tokens]))
    entries.append(_array("tokenizer.ggml.token_type", 5, [struct.pack("<i", kind) for kind in types]))
    entries.append(_array("tokenizer.ggml.merges", 8, [_text("a b")]))
    return entries


def _array(key: str, kind: int, items: list[bytes]) -> bytes:
    return _text(key) + struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: int | float | str) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)
