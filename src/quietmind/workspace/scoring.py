"""How well rankings do, and how sure that is: recall, mean reciprocal rank, and the difference of two rankings.

A rank is where the right answer stood, counted from 1; None where it was not among those looked at. Intervals hold 95
of 100 times. Of a share it is Wilson's (1927), which does not call ten of ten certain; of a mean reciprocal rank and
of a difference, the percentiles of a bootstrap over the questions (Efron 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEPTH = 10  # ranks beyond it count as not found
RECALL_AT = (1, 5, 10)

_RESAMPLES = 2000
_Z = 1.96  # standard deviations that hold 95 of 100 values of a normal distribution
_TAILS = (2.5, 97.5)

Rank = int | None


@dataclass(frozen=True)
class Interval:
    """A number that was measured, and between which bounds the true one lies as a rule."""

    value: float
    low: float
    high: float

    @property
    def beyond_chance(self) -> bool:
        """Whether zero lies outside: of a difference, whether it is one."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Figures:
    """How well ``questions`` were answered: the share found among the first so many, and the mean reciprocal rank."""

    questions: int
    recall: Mapping[int, Interval]
    mrr: Interval


def figures(ranks: Sequence[Rank], seed: int) -> Figures:
    """Return the figures of ``ranks``, at least one; the same for the same ``seed``."""
    recall = {most: _share(sum(1 for rank in ranks if rank and rank <= most), len(ranks)) for most in RECALL_AT}
    return Figures(len(ranks), recall, _mean([reciprocal(rank) for rank in ranks], seed))


def difference(ranks: Sequence[Rank], others: Sequence[Rank], seed: int) -> Interval:
    """Return by how much the mean reciprocal rank of ``ranks`` is above that of ``others``, of the same questions."""
    return _mean([reciprocal(one) - reciprocal(other) for one, other in zip(ranks, others, strict=True)], seed)


def reciprocal(rank: Rank) -> float:
    """Return 1 / rank; 0 beyond DEPTH and for what was not found."""
    return 1 / rank if rank is not None and rank <= DEPTH else 0.0


def _share(count: int, of: int) -> Interval:
    share, spread = count / of, _Z * _Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def _mean(values: Sequence[float], seed: int) -> Interval:
    import numpy as np

    given = np.asarray(values, np.float64)
    chosen = np.random.default_rng(seed).integers(0, len(given), (_RESAMPLES, len(given)))
    low, high = np.percentile(given[chosen].mean(axis=1), _TAILS)
    return Interval(float(given.mean()), float(low), float(high))
