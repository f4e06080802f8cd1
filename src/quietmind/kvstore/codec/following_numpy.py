"""The innermost loops of codec/following.py, a cell at a time; codec/compiled.py does the same, to the bit.

``parts`` are float32 [states, 3, lanes], and ``places`` the three arrays of codec/places.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.floats import Floats

FADING = np.float32(1 / 12)  # of the average, with each token; snapshots are written with it

Arrays = tuple[NDArray[np.intp], ...]


def rounded(
    components: Floats, times: Floats, parts: Floats, places: Arrays, out: tuple[NDArray[np.int32], Floats, Floats]
) -> None:
    """Round what ``components`` [cells, lanes] deviate by in steps 1 / ``times`` [cells, 1] large.

    They become what comes back. ``out`` are the whole numbers, the deviations before rounding, both [cells, lanes], and
    what parts were of, [cells, 3, lanes] or none of the cells.
    """
    symbols, deviations, seen = out
    expectation = _Expectation(parts, places, components.shape)
    inverse = 1 / times
    for at in range(len(components)):
        row = components[at]
        right_before, again = expectation.of(at)
        if len(seen):
            seen[at] = expectation.by
        row -= right_before
        row -= again
        deviations[at] = row
        row *= times[at]
        np.rint(row, out=row)
        np.copyto(symbols[at], row, casting="unsafe")
        row *= inverse[at]
        expectation.came(at, row)


def follow(deviations: Floats, parts: Floats, places: Arrays) -> None:
    """Add to rounded ``deviations`` [cells, lanes] what was expected of each."""
    expectation = _Expectation(parts, places, deviations.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged blocks; what they make is no cache
        for at, row in enumerate(deviations):
            expectation.of(at)
            expectation.came(at, row)


class _Expectation:
    """What is expected of one cell after the other."""

    def __init__(self, parts: Floats, places: Arrays, shape: tuple[int, ...]) -> None:
        self.by = np.zeros((3, shape[1]), np.float32)
        """What came back of the last token, their average, and what the places deviated by on average."""
        self._parts = parts
        self._states, self._counts, self._before = places
        self._own = np.empty(shape, np.float32)  # what each token deviated by from those right before it
        self._of = np.empty_like(self.by)

    def of(self, at: int) -> tuple[Floats, Floats]:
        """Return what is expected of a cell by those right before it, and by its places."""
        count, again = self._counts[at], self.by[2]
        if count:
            np.add.reduce(self._own.take(self._before[at, :count], axis=0), axis=0, out=again)
            again *= np.float32(1 / count)
        else:
            again.fill(0)
        np.multiply(self._parts[self._states[at]], self.by, out=self._of)
        self._of[0] += self._of[1]
        return self._of[0], self._of[2]

    def came(self, at: int, row: Floats) -> None:
        """Add to ``row``, the rounded deviation of the cell that was asked for last, what was expected of it."""
        row += self._of[2]
        self._own[at] = row
        row += self._of[0]
        last, lasting, _ = self.by
        last[:] = row
        lasting += FADING * (row - lasting)
