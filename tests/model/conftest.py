"""A tiny GGUF writer: valid files by default, and every number in them can be made to lie."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quietmind.model.ggml_types import BY_NAME, GGML_TYPES
from quietmind.model.locate import locate

TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """Encode a metadata value with its type. Raw bytes stand for themselves."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<Iq", 11, item) if item < 0 else struct.pack("<IQ", 10, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    kind = value(item[0])[:4]
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(item)) + b"".join(value(part)[4:] for part in item)


def gguf(
    metadata: dict[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], str]],
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    counts: tuple[int, int] | None = None,
    offsets: dict[str, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """Return the bytes of a file. ``counts`` (tensors, entries) and ``offsets`` replace the true ones."""
    table, at = b"", 0
    for name, shape, kind in tensors:
        layout = BY_NAME[kind]
        elements = 1
        for extent in shape:
            elements *= extent
        offset = (offsets or {}).get(name, at)
        table += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        table += struct.pack("<IQ", TYPE_IDS[kind], offset)
        at += -(-(elements // layout.block * layout.block_bytes) // alignment) * alignment
    entries = b"".join(text(key) + value(item) for key, item in metadata.items())
    header = magic + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata)))) + entries + table
    return header + bytes(-len(header) % alignment) + bytes(at)


def llama(**changes: Any) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], str]]]:
    """Return metadata and tensors of a model with 2 layers. ``changes`` are metadata with ``__`` for dots."""
    arch = changes.pop("arch", "llama")
    metadata: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": "Tiny",
        "general.file_type": 7,
        f"{arch}.block_count": 2,
        f"{arch}.context_length": 512,
        f"{arch}.embedding_length": 64,
        f"{arch}.feed_forward_length": 96,
        f"{arch}.attention.head_count": 4,
        f"{arch}.attention.head_count_kv": 2,
        f"{arch}.attention.key_length": 16,
        f"{arch}.attention.value_length": 16,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token{number}" for number in range(32)],
    }
    for key, item in changes.items():
        name = key.replace("__", ".").replace("ARCH", arch)
        if item is None:
            metadata.pop(name, None)
        else:
            metadata[name] = item
    tensors = [("token_embd.weight", (64, 32), "q8_0"), ("output_norm.weight", (64,), "f32")]
    for layer in range(2):
        tensors += [
            (f"blk.{layer}.attn_norm.weight", (64,), "f32"),
            (f"blk.{layer}.attn_q.weight", (64, 64), "q8_0"),
            (f"blk.{layer}.attn_k.weight", (64, 32), "q4_0"),
            (f"blk.{layer}.attn_v.weight", (64, 32), "q4_0"),
            (f"blk.{layer}.attn_output.weight", (64, 64), "q8_0"),
            (f"blk.{layer}.ffn_gate.weight", (64, 96), "q8_0"),
            (f"blk.{layer}.ffn_up.weight", (64, 96), "q8_0"),
            (f"blk.{layer}.ffn_down.weight", (96, 64), "q8_0"),
        ]
    return metadata, tensors


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., bytes]:
    return gguf


@pytest.fixture(scope="session")
def small_model() -> Callable[..., tuple[dict[str, Any], list[tuple[str, tuple[int, ...], str]]]]:
    return llama


@pytest.fixture(scope="session")
def real_model() -> Path:
    """Find the small real model, or skip."""
    try:
        return locate("tiny")
    except Exception as missing:
        pytest.skip(f"the small real model is not here: {missing}")
