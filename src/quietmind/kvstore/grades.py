"""How finely each token of a cache is written: an error costs a hundred times more in some than in others.

All that follows attends to the first tokens (Xiao et al., "attention sinks", arXiv 2309.17453) and, from right behind
them, to the last: of 3,072 tokens these few make up half of what errors cost where the text goes on (docs/log.md). What
those between them matter their own K and V tell (kvstore/importance.py).

A grade says how much finer a token is written: each takes a step that is 2^(1/4) times smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST, NEWEST = 32, 16  # tokens at either end of a cache that are written more finely
_FIRST_GRADE, _NEWEST_GRADE, _LAST_GRADE = 8, 4, 16
LEAST_GRADE, MOST_GRADE = -8, 32
GRADES_AN_OCTAVE = 4

Grades = NDArray[np.int8]


def at_the_ends(cells: int) -> Grades:
    """Return the grades that so many cells have for where they stand, 0 between the ends."""
    places = np.arange(cells)
    found = np.where(places < FIRST, _FIRST_GRADE, np.where(places >= cells - NEWEST, _NEWEST_GRADE, 0))
    found[cells - 1 :] = _LAST_GRADE
    return found.astype(np.int8)


def within(found: NDArray[Any]) -> Grades:
    """Return whole numbers as grades, those too fine or too coarse as far as grades go."""
    graded: Grades = np.clip(found, LEAST_GRADE, MOST_GRADE).astype(np.int8)
    return graded


def octaves(graded: Grades) -> NDArray[np.float64]:
    """Return how often the steps of tokens of these grades are halved."""
    return graded / np.float64(GRADES_AN_OCTAVE)
