"""Snapshot codecs and their peers in one run: size, damage to answers, speed; the proof of the README's ratios.

    python benchmarks/snapshot_codecs.py --model FILE.gguf --calibrate DIR --text DIR [--points 3k,8k,24k]
        [--codecs exact,perchannel,transform] [--questions 50] [--legs engine,float] [--plot FILE.svg]

Two legs. `engine`: llama.cpp itself, through our own adapters and store. `float`: the same weights and the same tokens
in 32-bit floats with transformers, where a KL divergence of 0.0005 can be seen; it needs torch, transformers and gguf
(and, for the peers, optimum-quanto and hqq), and is left out, with its reason, where they are not there.

The basis of `transform` is calibrated on the pages below --calibrate; those below --text must be others. A prediction
is printed before each measurement, and one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snapshot_codecs_engine as engine_leg
import snapshot_codecs_table as table
from snapshot_codecs_table import Row

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.base.units import parse_tokens
from quietmind.kvstore.rotation import Rotation, rotation_of
from quietmind.kvstore.store import Store

# Ratio, KL and answers kept that each level should show: of the prototypes in docs/log.md.
PREDICTED = {
    ("exact", "exact"): "1.2 times smaller, nothing changes",
    ("perchannel", "4"): "4 to 5 times smaller, every answer as before",
    ("perchannel", "3"): "5 to 6 times smaller, nearly every answer as before",
    ("transform", "near"): "at least 10 times smaller, KL at most 0.0005, every answer as before",
    ("transform", "small"): "at least 20 times smaller, KL at most 0.005, at least 95 % of the answers as before",
    ("llama.cpp", "q8_0"): "1.9 times smaller, every answer as before",
    ("llama.cpp", "q4_0"): "3.6 times smaller, some answers lost",
    ("zstd", "3"): "1.1 times smaller, nothing changes",
}


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    model: str
    text: Path
    codecs: tuple[str, ...]
    questions: int
    continuations: int
    finer: int


def measured(row: Row) -> Row:
    """Print a row below what was predicted of it, and return it."""
    predicted = PREDICTED.get((row.name, row.level), "nothing; it is there for comparison")
    print(f"predicted  {row.name} {row.level}: {predicted}")
    print(f"measured   {json.dumps(row.to_json(), ensure_ascii=False)}", flush=True)
    return row


def rotation_here(card: Any) -> Rotation | None:
    """Return how the model rotates K; None, said so, where that is not known."""
    try:
        return rotation_of(card)
    except SnapshotNotUnderstood as error:
        print(f"warning: {error}")
        return None


def engine_point(asked: Asked, tokens: int, folder: Path) -> list[Row]:
    """Return the rows of one context with the real engine."""
    sizes = (asked.questions, asked.continuations)
    with engine_leg.running(asked.model, tokens, folder) as (start, engine):
        found = engine_leg.read_exactly(engine, asked.text, tokens, sizes, folder / "slot")
        right = sum(found.replies.right(found.case))
        print(f"{len(found.case.tokens):,} tokens prefilled in {found.prefill_s:.1f} s; {right} of {sizes[0]} right")
        entries = table.entries(asked.codecs, rotation_here(start.card), None)
        store = Store(folder / "store")
        rows = [measured(engine_leg.codec_row(engine, start, found, entry, store)) for entry in entries]
    rows += [measured(row) for row in engine_leg.peers(asked.model, found, folder)]
    return rows


def points_of(words: str) -> list[int]:
    """Return the numbers of tokens that ``3k,8k`` says."""
    return [parse_tokens(word) for word in words.split(",")]


def main(words: Sequence[str] | None = None) -> None:
    """Print predictions, measurements, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibrate", type=Path, default=None)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--points", type=points_of, default=points_of("3k,8k,24k"))
    parser.add_argument("--codecs", default=",".join(table.CODECS))
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--continuations", type=int, default=8)
    parser.add_argument("--finer", type=int, default=0, help="Further steps of each codec, for the plot.")
    given = parser.parse_args(words)
    asked = Asked(
        given.model, given.text, tuple(given.codecs.split(",")), given.questions, given.continuations, given.finer
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for tokens in given.points:
            rows += engine_point(asked, tokens, Path(folder))
    ours = [row.to_json() for row in rows if row.name in table.CODECS]
    peers = [row.to_json() for row in rows if row.name not in table.CODECS]
    print(json.dumps({"model": given.model, "tokens": given.points, "codecs": ours, "peers": peers}))


if __name__ == "__main__":
    main()
