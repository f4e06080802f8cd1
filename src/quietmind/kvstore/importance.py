"""How much a token matters, told by its own K and V before anything is asked of it.

What an error costs differs a hundredfold from token to token: some are asked for again and again, most hardly ever.
Gradients tell it of the notes that a basis is learned from. Of the logarithm of that cost, what a token's vector in the
middle layers tells is taken as a linear function, by ridge regression on the principal components of these vectors
(Hastie, Tibshirani & Friedman, "The Elements of Statistical Learning", 3.4 and 3.5); it holds for other notes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.floats import Floats
from quietmind.kvstore.grades import GRADES_AN_OCTAVE, Grades, within

_COMPONENTS = 128
_TOKENS_A_COMPONENT = 8  # at least
_RIDGE = 0.03  # of a component's variance
_LEAST_COST = 1e-6  # of the mean, so that there is a logarithm


@dataclass(frozen=True)
class Importance:
    """The score of a token is ``vector @ direction``, in grades, of its vector in the basis' group number ``group``.

    The vector is as it is: not centred, not weighted. ``direction`` is float32 [width].
    """

    group: int
    direction: Floats

    def scores(self, vectors: Floats) -> Floats:
        """Return the scores [tokens] of ``vectors`` [tokens, width]."""
        found: Floats = vectors @ self.direction
        return found


def grades_for(scores: Floats) -> Grades:
    """Return the grades of all tokens of a cache: they share what it takes, so that 0 is their mean."""
    return within(np.rint(scores - scores.mean())) if scores.size else np.zeros(0, np.int8)


def learned(
    group: int, vectors: Sequence[Floats], costs: Sequence[NDArray[np.float64]]
) -> tuple[Importance, list[Grades]] | None:
    """Return what vectors tell of ``costs``, and what grades each context gets by what all the others tell.

    ``vectors`` float32 [tokens, width] and ``costs`` float64 [tokens] are of several contexts; None for fewer than two,
    or too few tokens.
    """
    count = min(_COMPONENTS, sum(map(len, vectors)) // _TOKENS_A_COMPONENT)
    if len(vectors) < 2 or not count:
        return None
    wanted = [_best(each) for each in costs]
    mean, directions = _components(np.concatenate(vectors), count)
    seen = [((each - mean) @ directions).astype(np.float64) for each in vectors]

    def of(numbers: Sequence[int]) -> Importance:
        slopes = _ridge(*(np.concatenate([part[number] for number in numbers]) for part in (seen, wanted)))
        return Importance(group, directions @ slopes.astype(np.float32))

    everything = range(len(vectors))
    by_others = [of([other for other in everything if other != number]) for number in everything]
    return of(everything), [grades_for(each.scores(found)) for each, found in zip(by_others, vectors, strict=True)]


def _best(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the grades that are best for costs that are known: steps with their inverse root, 0 for the usual one.

    (Cover & Thomas, "Elements of Information Theory", 10.3.3.)
    """
    found: NDArray[np.float64] = np.log2(np.maximum(costs, _LEAST_COST * costs.mean())) / 2 * GRADES_AN_OCTAVE
    found -= found.mean()
    return found


def _components(vectors: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the mean of ``vectors`` and the directions [width, count] in which their channels go together the most.

    Each channel in deviations of its own, and each component too.
    """
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
    inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    alike = (vectors - mean) * inverse
    variances, components = np.linalg.eigh(alike.T @ alike / np.float32(len(alike)))
    variances, components = variances[::-1][:count], components[:, ::-1][:, :count]
    kept = variances > 1e-6 * variances[0]
    return mean, inverse[:, None] * components[:, kept] / np.sqrt(variances[kept])


def _ridge(seen: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slopes that make ``wanted`` [tokens] of ``seen`` [tokens, components] the best, but for an offset."""
    middle = seen.mean(axis=0)
    square = seen.T @ seen / len(seen) - np.outer(middle, middle) + _RIDGE * np.eye(seen.shape[1])
    slopes: NDArray[np.float64] = np.linalg.solve(square, seen.T @ (wanted - wanted.mean()) / len(seen))
    return slopes
