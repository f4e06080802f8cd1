"""Writes small GGUF files of random weights for every kind of attention: the engine loads and runs them in a moment.

What they answer is noise, but noise that depends on every token before it, so that a cache which differs shows.
"""

from __future__ import annotations

import random
import struct
from array import array
from math import prod
from pathlib import Path

from header_only import ALIGNMENT, Shape, hyperparameters_of, tensors_of, text, value
from random_model import byte_vocabulary

_F32 = 0

# One of each: sliding windows between layers that attend in full, gated delta nets between such layers, one compressed
# row for all heads, and full attention alone.
WINDOW = Shape("Window", "gemma3", 6, 64, 4, 2, 32, 128, 512, 8192, window=64)
SINKS = Shape("Sinks", "gpt-oss", 4, 64, 4, 2, 32, 64, 512, 8192, 4, 2, window=64)
HYBRID = Shape("Hybrid", "qwen35", 4, 64, 4, 2, 64, 128, 512, 8192, linear_heads=(1, 2))
LATENT = Shape(
    "Latent", "deepseek2", 4, 64, 2, 1, 192, 64, 512, 8192, 4, 2, 64,
    dense=64, dense_layers=1, query_rank=32, kv_rank=64,
)  # fmt: skip
FULL = Shape("Full", "qwen3", 4, 64, 4, 2, 32, 128, 512, 8192)


def write_small(shape: Shape, path: Path, seed: int = 1) -> None:
    """Write the model of ``shape``, all in f32. ``shape.vocabulary`` must be at least 257."""
    chance = random.Random(seed)
    table, data = b"", b""
    tensors = tensors_of(shape)
    for name, extents in tensors:
        table += text(name) + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        table += struct.pack("<IQ", _F32, len(data))
        data += array("f", _weights(name, extents, chance)).tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    named = {"general.architecture": shape.arch, "general.name": shape.name}
    entries = [text(key) + value(fact) for key, fact in named.items()]
    entries += [text(f"{shape.arch}.{key}") + value(fact) for key, fact in hyperparameters_of(shape).items()]
    entries += [text("general.file_type") + value(_F32), *byte_vocabulary(shape.vocabulary)]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + table
    path.write_bytes(header + bytes(-len(header) % ALIGNMENT) + data)


def _weights(name: str, extents: tuple[int, ...], chance: random.Random) -> list[float]:
    """Return weights under which what a layer computes neither fades nor grows."""
    count = prod(extents)
    if name.endswith("norm.weight"):
        return [1.0] * count
    if name.endswith("ssm_a"):  # by how much a state fades with each token: below zero
        return [-chance.uniform(0.01, 0.2) for _ in range(count)]
    spread = 1.0 if name == "token_embd.weight" else 0.5 if name.endswith(".bias") else 2 / extents[0] ** 0.5
    return [chance.gauss(0, spread) for _ in range(count)]
