"""What the lossless codec makes of a real cache: its size at several levels of Zstandard, and how fast both ways.

    python benchmarks/exact_codec.py [--model FILE.gguf] [--words 1500] [--cache FILE] [--rounds 3]

The small model reads words of the example archive, and its saved cache is packed and unpacked, in memory and through
a store, the best of some rounds. Prints a line for each level, one for the store, and one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Request
from quietmind.kvstore.codec import exact
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.model.locate import locate

ARCHIVE = Path(__file__).resolve().parents[1] / "examples" / "archive"
LEVELS = (-1, 1, 3)


def saved_cache(model: Path, words: int) -> bytes:
    """Return the engine's file of a prompt of so many words."""
    text = " ".join(file.read_text("utf-8", "replace") for file in sorted(ARCHIVE.glob("requirements/*.md")))
    prompt = " ".join(text.split()[:words])
    with tempfile.TemporaryDirectory() as folder, LlamaCpp.start(LlamaCppOptions(model, context=8192)) as engine:
        for _ in engine.generate(Request(prompt, max_tokens=1)):
            pass
        engine.save(Path(folder) / "cache")
        return (Path(folder) / "cache").read_bytes()


def timed(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the least seconds, and the least processor seconds of all threads, that ``work`` took."""
    clocks = (time.perf_counter, time.process_time)
    took = []
    for _ in range(rounds):
        before = [clock() for clock in clocks]
        work()
        took.append([clock() - then for clock, then in zip(clocks, before, strict=True)])
    seconds, processor = (min(column) for column in zip(*took, strict=True))
    return seconds, processor


def row(size: int, work: Callable[[], object], rounds: int) -> dict[str, int]:
    """Return MB/s by the clock, and milliseconds of processor for each 100 MB, which a busy machine changes less."""
    seconds, processor = timed(work, rounds)
    return {"mb_s": round(size / seconds / 1e6), "processor_ms_per_100_mb": round(processor / size * 1e11)}


def level_row(content: bytes, level: int, rounds: int) -> dict[str, Any]:
    """Return what one level of Zstandard makes of ``content``."""
    exact.LEVEL = level
    blocks = list(exact.Exact().encode(io.BytesIO(content), len(content)))
    target = bytearray(len(content))
    found = {
        "level": level,
        "ratio": round(len(content) / sum(map(len, blocks)), 4),
        "encode": row(len(content), lambda: list(exact.Exact().encode(io.BytesIO(content), len(content))), rounds),
        "decode": row(len(content), lambda: exact.Exact().decode(blocks, memoryview(target)), rounds),
    }
    assert target == content
    return found


def store_row(content: bytes, rounds: int) -> dict[str, Any]:
    """Return the same for a whole store, with files and digests."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "slot", Path(folder) / "out"
        source.write_bytes(content)
        ours = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "engine")
        store = Store(Path(folder) / "store")
        kept = [store.save(source, ours, [1], label="one", seconds=1.0, cut=True)]
        found = {
            "save": row(
                len(content), lambda: store.save(source, ours, [1], label="one", seconds=1.0, cut=True), rounds
            ),
            "restore": row(len(content), lambda: store.restore(kept[0], ours, target), rounds),
        }
        assert target.read_bytes() == content
        return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--words", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=None, help="A file that an engine has saved, instead of reading.")
    given = parser.parse_args()
    if given.cache is not None:
        content = given.cache.read_bytes()
    else:
        content = saved_cache(given.model or locate("tiny"), given.words)
    print(f"predicted: 1.18 times smaller at level {exact.LEVEL}; higher levels gain less than 1 %\n")
    usual, rows = exact.LEVEL, []
    for level in LEVELS:
        rows.append(level_row(content, level, given.rounds))
        print(f"level {level:>2}: {rows[-1]}")
    exact.LEVEL = usual
    stored = store_row(content, given.rounds)
    print(f"store   : {stored}")
    print(json.dumps({"bytes": len(content), "levels": rows, "store": stored}))


if __name__ == "__main__":
    main()
