"""What is expected of a token's components by those before it, what they deviate by, and back.

Tokens follow each other by what they are about, so that a part is expected of what has come back of the last, and of an
average in which older ones fade. And a token comes again: of what it deviated by where it stood before
(codec/places.py) a part is expected too. What is left is rounded (differential pulse-code modulation; Jayant & Noll,
"Digital Coding of Waveforms", 6.2); what comes back errs by rounding alone.

How large the parts are depends on the layers, on how often the text repeats itself and on how many places there are.
The least squares tell, for each state and each band of components; they are written, 108 bytes for a stretch. They are
learned from every fourth component while it is rounded with parts that suit any text.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.codec.places import MOST_PLACES, STATES, Places
from quietmind.kvstore.floats import Floats

Parts = NDArray[np.int8]
"""How much is expected of the last, of the average, and of the places, in 64ths: [STATES, bands, 3]."""

_WHOLE = 64
_BANDS = (0, 1 / 32, 1 / 8, 1 / 2)  # of the components, which lie in the order of how far they spread
SHAPE = (STATES, len(_BANDS), 3)

_FADING = np.float32(1 / 12)  # of the average, with each token

_OF_LAST, _OF_LASTING = 0.2, 0.4  # suit any text
_DOUBT = 1.5  # as many places say as much as a token does by being another
_LEARNED_FROM = 4  # one of so many components
_TRUST = 0.1  # in parts that suit any text: as if each component had told of so much, in steps squared


def usual(rank: int) -> Floats:
    """Return the parts for ``rank`` components where no place is known: float32 [STATES, 3, rank]."""
    return _spread(_any_text() * (1, 1, 0), rank)


def spread(parts: Parts, rank: int) -> Floats:
    """Return parts that were learned for each of ``rank`` components: float32 [STATES, 3, rank]. Raises ValueError."""
    if np.abs(parts.astype(np.int16)).max() > _WHOLE:
        raise ValueError("a part larger than the whole")
    return _spread(parts / np.float32(_WHOLE), rank)


def learned(components: Floats, times: Floats, places: Places) -> Parts:
    """Return the parts of ``components`` [cells, rank] that leave the least squares of what they deviate by."""
    wanted = components[:, ::_LEARNED_FROM]
    cells, lanes = wanted.shape
    found = _any_text()
    seen = np.empty((cells, 3, lanes), np.float32)
    rounded(wanted.copy(), times, _spread(found, lanes), places, seen)
    states = np.asarray(places.states)
    trust = _TRUST * np.eye(3)
    for state in np.unique(states):
        here = states == state
        said, came = seen[here], wanted[here]
        for band, (first, last) in enumerate(pairwise(_edges(lanes))):
            by = said[:, :, first:last].swapaxes(0, 1).reshape(3, -1)
            squares = (by @ by.T) + (last - first) * trust
            products = by @ came[:, first:last].ravel() + (last - first) * (trust @ found[state, band])
            found[state, band] = np.linalg.solve(squares, products) if last > first else 0
    written: Parts = np.rint(found * _WHOLE).clip(-_WHOLE, _WHOLE).astype(np.int8)
    return written


def rounded(
    components: Floats, times: Floats, parts: Floats, places: Places, seen: Floats | None = None
) -> tuple[NDArray[np.int32], Floats]:
    """Return the whole numbers for ``components`` [cells, lanes] in steps so many ``times`` smaller, and deviations.

    Both are [cells, lanes]. ``components`` becomes what comes back; ``seen`` [cells, 3, lanes] what parts were of.
    """
    symbols, deviations = np.empty(components.shape, np.int32), np.empty_like(components)
    expectation = _Expectation(parts, places, components.shape)
    inverse = 1 / times
    for at in range(len(components)):
        row = components[at]
        following, again = expectation.of(at)
        if seen is not None:
            seen[at] = expectation.by
        row -= following
        row -= again
        deviations[at] = row
        row *= times[at]
        np.rint(row, out=row)
        np.copyto(symbols[at], row, casting="unsafe")
        row *= inverse[at]
        expectation.came(at, row)
    return symbols, deviations


def follow(deviations: Floats, parts: Floats, places: Places) -> None:
    """Make of ``deviations`` [cells, lanes], as they were rounded, what comes back."""
    expectation = _Expectation(parts, places, deviations.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged blocks; what they make is no cache
        for at, row in enumerate(deviations):
            expectation.of(at)
            expectation.came(at, row)


class _Expectation:
    """What is expected of one cell after the other."""

    def __init__(self, parts: Floats, places: Places, shape: tuple[int, ...]) -> None:
        self.by = np.zeros((3, shape[1]), np.float32)
        """What came back of the last token, their average, and what the places deviated by on average."""
        self._parts = parts
        self._places = places
        self._own = np.empty(shape, np.float32)  # what each token deviated by from those right before it
        self._of = np.empty_like(self.by)

    def of(self, at: int) -> tuple[Floats, Floats]:
        """Return what is expected of a cell for those right before it, and what for its places."""
        before = self._places.before[at]
        again = self.by[2]
        if len(before):
            np.add.reduce(self._own.take(before, axis=0), axis=0, out=again)
            again *= np.float32(1 / len(before))
        else:
            again.fill(0)
        np.multiply(self._parts[self._places.states[at]], self.by, out=self._of)
        self._of[0] += self._of[1]
        return self._of[0], self._of[2]

    def came(self, at: int, row: Floats) -> None:
        """Add to ``row``, the rounded deviation of the cell that was asked for last, what was expected of it."""
        row += self._of[2]
        self._own[at] = row
        row += self._of[0]
        last, lasting, _ = self.by
        last[:] = row
        lasting += _FADING * (row - lasting)


def _any_text() -> NDArray[np.float64]:
    """Return the parts that suit any text: [STATES, bands, 3]."""
    found = np.zeros(SHAPE)
    found[..., :2] = _OF_LAST, _OF_LASTING
    for state in range(1, STATES):
        places = (state - 1) % MOST_PLACES + 1
        found[state, :, 2] = places / (places + _DOUBT)
    return found


def _spread(parts: NDArray[Any], rank: int) -> Floats:
    return np.repeat(parts.astype(np.float32).swapaxes(1, 2), np.diff(_edges(rank)), axis=2)


def _edges(lanes: int) -> list[int]:
    """Return where bands of so many components begin, and where the last ends."""
    return [*(round(lanes * begins) for begins in _BANDS), lanes]
