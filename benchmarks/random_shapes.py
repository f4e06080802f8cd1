"""Compares the predicted compute buffer with the engine's own account on shapes that nobody chose.

    python benchmarks/random_shapes.py [--number N] [--seed S]

Every shape is drawn by chance: architecture, widths, heads, experts, context, micro-batch, KV type, flash attention and
sequences. The engine loads each dry, from a file that is all header. Prints the cases, worst first, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_account import Account, account
from header_only import HYBRID, NOPE_LENGTH, ROPE_LENGTH, Shape, write_header

from quietmind.model.ggml_types import BY_NAME, GGML_TYPES
from quietmind.model.gguf import read_card
from quietmind.plan.compute import compute_bytes

DENSE = ("llama", "mistral3", "qwen2", "qwen3", "qwen35", "gemma", "gemma2", "gemma3", "glm4", "phi3")
MIXTURES = ("llama", "mistral3", "qwen2moe", "qwen3moe", "qwen3next", "qwen35moe", "gpt-oss", "glm4moe", "deepseek2")
JOINED = ("qwen35moe", "deepseek2")  # newer conversions join two projections of their experts
PLAIN_QUERIES = 27  # layers of a deepseek2 whose queries are not compressed: the engine tells them by that
SHARED = {"qwen2moe", "glm4moe", "deepseek2", *HYBRID}
WHOLE_HEADS = ("qwen2", "qwen2moe", "phi3")  # their heads together are as wide as the stream
WINDOWS = {"gemma2": 4096, "gemma3": 1024, "gpt-oss": 128}
TIED = {"gemma", "gemma2", "gemma3"}

CHILDREN = 2  # dry loads at a time
WITHIN = 0.03
SMALLEST_CONTEXT, LARGEST_CONTEXT = 512, 262_144
_TYPE_NUMBERS = {layout.name: number for number, layout in GGML_TYPES.items()}


@dataclass(frozen=True)
class Case:
    """A shape and the settings it runs with; ``micro_batch`` is a multiple of ``sequences``, as the engine makes it."""

    shape: Shape
    context: int
    micro_batch: int
    kv: str
    flash: bool
    sequences: int

    def __str__(self) -> str:
        shape = self.shape
        experts = f", {shape.experts_used} of {shape.experts} experts" if shape.experts else ""
        return (
            f"{shape.arch}: {shape.layers} x {shape.hidden}, heads {shape.heads}/{shape.kv_heads} x {shape.head}, "
            f"ff {shape.feed_forward}{experts}, vocabulary {shape.vocabulary}; context {self.context:,}, micro-batch "
            f"{self.micro_batch}, KV {self.kv}{'' if self.flash else ', no flash attention'}, {self.sequences} seq"
        )


def drawn(chance: random.Random, number: int) -> Case:
    """Return the next case by chance."""
    flash = chance.random() < 0.7
    sequences = chance.choice((1, 1, 1, 2, 3, 4))
    context = 256 * round(2 ** chance.uniform(1, 10))
    micro_batch = min(chance.choice((7, 64, 128, 256, 300, 512, 777, 1024, 2048, 4096)), context)
    micro_batch = max(micro_batch // sequences, 1) * sequences
    kv = chance.choice(("f16", "f32", "bf16", "q8_0", "q4_0") if flash else ("f16", "f32", "bf16"))
    return Case(_shape(chance, number), context, micro_batch, kv, flash, sequences)


def _shape(chance: random.Random, number: int) -> Shape:
    mixture = chance.random() < 0.6
    arch = chance.choice(MIXTURES if mixture else DENSE)
    head = chance.choice((64, 128, 128, 256) if arch in HYBRID else (64, 96, 128, 128, 256))
    kv_heads = chance.choice((1, 2, 4, 8))
    width = 64 * round(2 ** chance.uniform(2, 6)) if mixture else 256 * round(2 ** chance.uniform(2, 7))
    plain = arch == "deepseek2" and chance.random() < 0.2
    layers = chance.randint(3, 8) if chance.random() < 0.8 else chance.randint(9, 48)
    layers = PLAIN_QUERIES if plain else layers + (layers == PLAIN_QUERIES)
    shape: dict[str, Any] = {
        "name": f"random-{number}",
        "arch": arch,
        "layers": layers,
        "hidden": 256 * chance.randint(4, 32),
        "heads": kv_heads * chance.choice((4, 8, 16) if arch in WHOLE_HEADS else (1, 2, 4, 8, 16)),
        "kv_heads": kv_heads,
        "head": head,
        "feed_forward": width,
        "vocabulary": chance.randint(8_000, 250_000),
        "context": LARGEST_CONTEXT,
        "window": WINDOWS.get(arch, 0),
        "tied": arch in TIED,
    }
    if mixture:
        shape["experts"] = chance.choice((8, 16, 32, 60, 64, 96, 128, 160, 256))
        shape["experts_used"] = chance.randint(1, min(16, shape["experts"]))
        shape["shared"] = 64 * chance.randint(4, 64) if arch in SHARED else 0
    if arch in WHOLE_HEADS:
        shape["hidden"] = shape["heads"] * head
    if arch in ("glm4moe", "deepseek2"):
        shape |= {"dense": 256 * chance.randint(4, 64), "dense_layers": chance.randint(1, layers - 1)}
        shape["shared"] = width  # one shared expert, as wide as the others
    if arch in JOINED:
        shape["joined"] = chance.random() < 0.3
    if arch == "deepseek2":
        shape |= {"head": NOPE_LENGTH + ROPE_LENGTH, "absorbed": chance.random() < 0.7}
        shape["kv_heads"] = 1 if shape["absorbed"] else shape["heads"]
        shape |= {"query_rank": 0 if plain else chance.choice((768, 1536)), "kv_rank": chance.choice((256, 512))}
    if arch in HYBRID:
        keys = chance.choice((4, 8, 16))
        shape["linear_heads"] = (keys, keys * chance.choice((1, 2, 4)))
    return Shape(**shape)


@dataclass(frozen=True)
class Result:
    """A case, the bytes by our arithmetic, and the engine's account."""

    case: Case
    predicted: int
    truth: Account

    @property
    def error(self) -> float:
        """How far off the prediction is, as a signed share of the truth."""
        return self.predicted / self.truth.compute - 1

    def __str__(self) -> str:
        return f"{self.error:+8.3%} {self.predicted - self.truth.compute:+14,} of {self.truth.compute:15,}  {self.case}"


def measured(case: Case, folder: Path) -> Result:
    """Write the case's file, ask both sides, and take the file away."""
    path = folder / f"{case.shape.name}.gguf"
    write_header(case.shape, path)
    try:
        predicted = compute_bytes(
            read_card(path),
            case.context,
            case.micro_batch,
            BY_NAME[case.kv],
            flash_attention=case.flash,
            sequences=case.sequences,
        )
        truth = account(
            path,
            case.context,
            case.micro_batch,
            _TYPE_NUMBERS[case.kv],
            flash_attention=case.flash,
            sequences=case.sequences,
        )
    finally:
        path.unlink()
    return Result(case, predicted, truth)


def main() -> None:
    """Draw the cases, measure them and print how far off the predictions are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=150, help="how many shapes are drawn")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.number < 1:
        parser.error("--number: draw at least one shape")
    chance = random.Random(given.seed)
    cases = [drawn(chance, number) for number in range(given.number)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CHILDREN) as pool:
        results = list(pool.map(lambda case: measured(case, Path(folder)), cases))
    refused = [result for result in results if result.truth.refused is not None]
    results = [result for result in results if result.truth.refused is None]
    results.sort(key=lambda result: abs(result.error), reverse=True)
    for result in results:
        print(result)
    for result in refused:
        print(f"refused by the engine: {result.truth.refused}: {result.case}")
    summary = {
        "cases": len(results),
        "refused": len(refused),
        "exact": _share(result.error == 0 for result in results),
        "within_3pct": _share(abs(result.error) <= WITHIN for result in results),
        "worst": round(results[0].error, 5) if results else None,
        "seed": given.seed,
    }
    print(json.dumps(summary))


def _share(outcomes: Iterable[bool]) -> float:
    found = list(outcomes)
    return round(sum(found) / len(found), 4) if found else 0.0


if __name__ == "__main__":
    main()
