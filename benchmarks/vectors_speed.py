"""How long a search by meaning takes over so many passages, warm and cold, with a filter and without.

    python benchmarks/vectors_speed.py [ROWS]... [--dimensions 384] [--queries 50] [--folder DIR]

The vectors are random, of length 1: an exact search reads all of them whatever they say. ``cold`` is the first search
after the matrix was dropped from the page cache. Filters allow the first 1, 10 and 90 of 100 passages.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.notes.nearest import ENOUGH_BYTES, record
from quietmind.notes.vectors import Identity, Vectors

SIZES = (20_000, 100_000, 300_000, 1_000_000)
FILTERS = (0.01, 0.1, 0.9)
NEAREST = 100
PREDICTED_GB_PER_S = 3.4  # of records, one core of a Xeon with AVX-512
_BATCH = 20_000


def main() -> None:
    """Print the prediction, then what was measured, a line for each size, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the vectors are written; default: a temporary folder")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, {args.dimensions} numbers, the {NEAREST} nearest, {args.queries} queries")
    print(f"exact search is called enough up to {ENOUGH_BYTES / record(args.dimensions).itemsize:,.0f} of them")
    measured = []
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        for rows in args.rows:
            measured.append(_measure(Path(scratch, str(rows)), rows, args.dimensions, args.queries))
            _print(measured[-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"machine": platform.processor(), "cores": cores, "peak_mb": peak, "sizes": measured}))


def _measure(folder: Path, rows: int, dimensions: int, queries: int) -> dict[str, Any]:
    size = rows * record(dimensions).itemsize
    print(f"\n{rows:,} rows, {size / 1e6:,.0f} MB: predicted {size / PREDICTED_GB_PER_S / 1e6:.0f} ms on one core")
    _write(folder, rows, dimensions)
    drawn = _unit(np.random.default_rng(1), queries, dimensions)
    told: dict[str, Any] = {"rows": rows, "bytes": size}
    with Vectors(folder) as vectors:
        _drop(folder)
        told["cold_ms"] = _timed(lambda: vectors.nearest(drawn[0], NEAREST))
        told["open_ms"] = _timed(lambda: Vectors(folder).close())
        told["warm"] = _spread(vectors, drawn, None)
        for share in FILTERS:
            told[f"filter_{share}"] = _spread(vectors, drawn[: max(1, queries // 5)], range(int(rows * share)))
    return told


def _write(folder: Path, rows: int, dimensions: int) -> None:
    drawn = np.random.default_rng(0)
    with Vectors(folder, Identity("random", "0" * 64, dimensions)) as vectors, vectors.writing():
        for start in range(0, rows, _BATCH):
            numbers = range(start, min(start + _BATCH, rows))
            keys = [number.to_bytes(16, "big") for number in numbers]
            vectors.append(keys, _unit(drawn, len(keys), dimensions), zip(numbers, keys, strict=True))


def _unit(drawn: np.random.Generator, rows: int, dimensions: int) -> NDArray[np.float32]:
    made = drawn.standard_normal((rows, dimensions), np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def _drop(folder: Path) -> None:
    """Have the kernel forget the matrix, which is on the disk by now."""
    for matrix in folder.glob("matrix-*"):
        descriptor = os.open(matrix, os.O_RDONLY)
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _spread(vectors: Vectors, queries: NDArray[np.float32], among: Sequence[int] | None) -> dict[str, float]:
    """Return the median, the 99th percentile, and the least processor time of a search, in milliseconds."""
    walls, processors = [], []
    for query in queries:
        before = time.process_time()
        walls.append(_timed(partial(vectors.nearest, query, NEAREST, among)))
        processors.append((time.process_time() - before) * 1000)
    p50, p99 = np.percentile(walls, [50, 99]).round(2).tolist()
    return {"p50_ms": p50, "p99_ms": p99, "processor_ms": round(min(processors), 2)}


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round((time.perf_counter() - began) * 1000, 2)


def _print(told: dict[str, Any]) -> None:
    def line(name: str, spread: dict[str, float]) -> str:
        return f"  {name:>12}  {spread['p50_ms']:9.1f}  {spread['p99_ms']:9.1f}  {spread['processor_ms']:9.1f}"

    print(f"  cold {told['cold_ms']:.1f} ms, opening {told['open_ms']:.1f} ms")
    print(f"  {'':>12}  {'p50 ms':>9}  {'p99 ms':>9}  {'processor':>9}")
    print(line("all", told["warm"]))
    for share in FILTERS:
        print(line(f"{share:.0%} allowed", told[f"filter_{share}"]))


if __name__ == "__main__":
    main()
