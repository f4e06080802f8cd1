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
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.codec import following_numpy, loops
from quietmind.kvstore.codec.places import MOST_PLACES, STATES, Places
from quietmind.kvstore.floats import Floats

Parts = NDArray[np.int8]
"""How much is expected of the last, of the average, and of the places, in 64ths: [STATES, bands, 3]."""

_WHOLE = 64
_BANDS = (0, 1 / 32, 1 / 8, 1 / 2)  # of the components, which lie in the order of how far they spread
SHAPE = (STATES, len(_BANDS), 3)

_OF_LAST, _OF_LASTING = 0.2, 0.4  # suit any text; all of ``transform-3`` is written with them
_DOUBT = 1.5  # with as many places half is expected: they differ as much as they are alike
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
    trust = _TRUST * np.eye(3)
    for state in np.unique(places.states):
        here = places.states == state
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
    if seen is None:
        seen = np.empty((0, 3, components.shape[1]), np.float32)
    _made_by().rounded(components, times, parts, _arrays(places), (symbols, deviations, seen))
    return symbols, deviations


def follow(deviations: Floats, parts: Floats, places: Places) -> None:
    """Make of ``deviations`` [cells, lanes], as they were rounded, what comes back."""
    _made_by().follow(deviations, parts, _arrays(places))


def _made_by() -> ModuleType:
    """Return the module that makes the innermost loops."""
    return loops.found() or following_numpy


def _arrays(places: Places) -> tuple[NDArray[np.intp], ...]:
    return places.states, places.counts, places.before


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
