"""A cache whose last bits are others: what an engine shows of that is the least that it can show of anything.

It computes with rounded numbers itself (llama.cpp on processors multiplies in 8 bits), so that answers to a cache with
the smallest of changes differ a little already. Losses below that cannot be seen, and need not be avoided.
"""

from __future__ import annotations

from pathlib import Path

# Relative: a fifth of the rounding of a 16-bit float (2^-11), so that a number in several changes, by its last bit.
NOISE = 1e-4
_SEED = 6
_VALUES = 1 << 22  # worked on at once: 16 MiB as 32-bit floats


def write_with_noise(source: Path, target: Path) -> None:
    """Write the engine's file ``source`` to ``target`` with Gaussian noise of NOISE times each number in its K and V.

    Raises SnapshotNotUnderstood for a file of another form, OSError.
    """
    import numpy as np

    from quietmind.kvstore.arrays import layout_of
    from quietmind.kvstore.mapping import mapped
    from quietmind.kvstore.slots import put_rows, read_cells, rows

    random = np.random.default_rng(_SEED)
    size = source.stat().st_size
    with source.open("rb") as given, target.open("x+b") as sink, mapped(sink, size) as content:
        layout = layout_of(given, size)
        for at, gap in layout.gaps():
            content[at : at + len(gap)] = gap
        for plane in layout.planes:
            step = max(1, _VALUES // plane.width)
            for first in range(0, plane.cells, step):
                last = min(first + step, plane.cells)
                values = rows(read_cells(given, 0, plane, first, last), plane.alone(last - first))
                noise = random.standard_normal(values.shape, np.float32) * np.float32(NOISE)
                put_rows(content, plane, first, values * (1 + noise))
