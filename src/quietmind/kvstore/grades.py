"""How finely each token of a cache is written: an error costs a hundred times more in some than in others.

All that follows attends to the first tokens (Xiao et al., "attention sinks", arXiv 2309.17453) and, from right behind
them, to the last, the more the nearer: of 3,072 tokens a few dozen make up half of what errors cost where the text goes
on (docs/log.md). What the others matter, beyond where they stand, their own K and V tell (kvstore/importance.py).

A grade says how much finer a token is written: each takes a step that is 2^(1/4) times smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST, NEWEST = 32, 16  # tokens at either end of a cache whose place says all of what they matter
_FIRST_GRADE = 8
_NEAR_THE_END = 1 / 6  # of a cache: where tokens matter more the fewer follow them
LEAST_GRADE, MOST_GRADE = -8, 32
GRADES_AN_OCTAVE = 4

Grades = NDArray[np.int8]


def for_places(cells: int) -> Grades:
    """Return the grades that so many cells have for where they stand.

    Near the end the variance of errors is as the tokens that are left: behind a longer cache each of the others is
    asked for less, the newest are as much as ever.
    """
    places = np.arange(cells)
    nearness = np.log2(np.maximum(1.0, _NEAR_THE_END * cells / (cells - places)))
    return within(np.where(places < FIRST, _FIRST_GRADE, np.rint(nearness * (GRADES_AN_OCTAVE / 2))))


def within(found: NDArray[Any]) -> Grades:
    """Return whole numbers as grades, those too fine or too coarse as far as grades go."""
    graded: Grades = np.clip(found, LEAST_GRADE, MOST_GRADE).astype(np.int8)
    return graded


def octaves(graded: Grades) -> NDArray[np.float64]:
    """Return how often the steps of tokens of these grades are halved."""
    return graded / np.float64(GRADES_AN_OCTAVE)
