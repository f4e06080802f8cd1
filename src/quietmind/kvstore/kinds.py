"""Which tokens of a cache are written more finely than others: an error costs a hundred times more in some.

All that follows attends to the first tokens (Xiao et al., "attention sinks", arXiv 2309.17453) and, from right behind
them, to the last; between them, some tokens are asked for again and again, and most hardly ever. What a token is like
in the middle layers tells much of that: tokens fall into ``KINDS`` kinds by the direction of their vector there
(spherical k-means; Dhillon & Modha, "Concept decompositions", 2001), and calibration measures what noise in each costs.

A grade says how much finer a token is written: each takes a step that is 2^(1/4) times smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.floats import Floats

KINDS = 16
_DIMENSIONS = 32  # principal ones, that kinds are told apart in
_TOKENS_A_KIND = 32  # at least, on average: fewer would be kinds of the sample
_ROUNDS = 25
_SEED = 16

FIRST, NEWEST = 32, 16  # tokens at either end of a cache that are written more finely
_FIRST_GRADE, _NEWEST_GRADE, _LAST_GRADE = 8, 4, 16
LEAST_GRADE, MOST_GRADE = -8, 32
_GRADES_AN_OCTAVE = 4

Grades = NDArray[np.int8]


@dataclass(frozen=True)
class Kinds:
    """The kinds of a model's tokens: the one whose score is the largest, of ``vectors @ directions + offsets``.

    The vectors are those of the basis' group number ``group``, as they are: not centred, not weighted. ``directions``
    is float16 [width, kinds], ``offsets`` float32 [kinds], and ``grades`` the int8 [kinds] of each.
    """

    group: int
    directions: NDArray[np.float16]
    offsets: Floats
    grades: Grades

    @classmethod
    def learned(cls, group: int, vectors: Floats) -> Self | None:
        """Return the kinds of ``vectors`` [tokens, width], all of grade 0; None where there are too few."""
        count = min(KINDS, len(vectors) // _TOKENS_A_KIND)
        if count < 2:
            return None
        mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
        inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        alike = (vectors - mean) * inverse
        _, components = np.linalg.eigh(alike.T @ alike)
        principal = components[:, ::-1][:, :_DIMENSIONS]
        directions = (principal @ _centres(alike @ principal, count).T) * inverse[:, None]
        largest = float(np.abs(directions).max())
        rounded = (directions / largest if largest > 0 else directions).astype(np.float16)
        return cls(group, rounded, -(mean @ rounded.astype(np.float32)), np.zeros(count, np.int8))

    def of(self, vectors: Floats) -> NDArray[np.intp]:
        """Return the kind of each of ``vectors`` [tokens, width]."""
        found: NDArray[np.intp] = (vectors @ self.directions.astype(np.float32) + self.offsets).argmax(axis=1)
        return found

    def graded(self, grades: Grades) -> Self:
        """Return the same kinds with other grades."""
        return replace(self, grades=grades)


def between(cells: int) -> NDArray[np.intp]:
    """Return the cells between the first and the newest, whose grades are those of their kinds."""
    return np.arange(min(FIRST, cells), max(min(FIRST, cells), cells - NEWEST))


def at_the_ends(first: int, last: int, cells: int) -> Grades:
    """Return the grades that cells from ``first`` to before ``last`` of ``cells`` have for where they stand."""
    places = np.arange(first, last)
    grades = np.where(places < FIRST, _FIRST_GRADE, np.where(places >= cells - NEWEST, _NEWEST_GRADE, 0))
    grades[places == cells - 1] = _LAST_GRADE
    return grades.astype(np.int8)


def within(grades: NDArray[Any]) -> Grades:
    """Return whole numbers as grades, those too fine or too coarse as far as grades go."""
    found: Grades = np.clip(grades, LEAST_GRADE, MOST_GRADE).astype(np.int8)
    return found


def octaves(grades: Grades) -> NDArray[np.float64]:
    """Return how often the steps of tokens of these grades are halved."""
    return grades / np.float64(_GRADES_AN_OCTAVE)


def grades_for(costs: NDArray[np.float64]) -> Grades:
    """Return the grades of kinds of which a token's error variance costs so much, 0 for what is usual.

    The best steps have the inverse root of the costs, were these known (Cover & Thomas, "Elements of Information
    Theory", 10.3.3). They rest on few questions, and others ask for other tokens: half of that way is gone.
    """
    usual = np.log2(costs).mean()
    return within(np.rint((np.log2(costs) - usual) / 4 * _GRADES_AN_OCTAVE))


def _centres(vectors: Floats, count: int) -> Floats:
    """Return the directions [count, dimensions] around which those of ``vectors`` [n, dimensions] lie."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    chance = np.random.default_rng(_SEED)
    centres = vectors[chance.choice(len(vectors), count, replace=False)]
    for _ in range(_ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres).astype(np.float32)
    return centres
