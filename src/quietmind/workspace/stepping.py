"""Finding the step sizes of a codec that cost what its levels allow, from few measurements, each a little off.

How much is lost at a step is known from the basis; what it costs in answers has to be measured. Small losses cost in
proportion, so that costs are sought as a power of the loss, close to the first, and levels whose cost is too small to
be measured follow from those that can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# So much of a bound may be used up where it was measured: other notes are not the ones it was measured on.
MARGIN = 0.9

# Beside the bounds themselves, costs so many times the largest are looked at: they stand clear of all rounding.
_CLEAR = (4.0, 12.0)
_OFF = 0.3  # what a measurement is off by, as a share: some dozens of positions
_BENT = 0.2  # how far the power is from 1


@dataclass(frozen=True)
class Looked:
    """What a step that was tried loses, in the basis' own terms, and what it cost beyond the engine's rounding."""

    loss: float
    cost: float


@dataclass(frozen=True)
class Law:
    """``cost = factor * loss ** power``."""

    factor: float
    power: float

    def loss(self, cost: float) -> float:
        """Return the loss that costs so much."""
        return math.exp((math.log(cost) - math.log(self.factor)) / self.power)


def losses_for(cost: Callable[[float], float], bounds: Sequence[float], first: float, floor: float) -> list[float]:
    """Return for each of ``bounds`` the loss whose cost is about MARGIN of it.

    ``cost`` measures it, with ``floor`` taken off; of a cost below that, a measurement says little. ``first`` is the
    loss to begin with.
    """
    looked = [Looked(first, cost(first))]
    aims = [*bounds, *(times * max(bounds) for times in _CLEAR)]
    for aim in sorted(aims, reverse=True):
        if aim >= floor:
            loss = law_of(looked, floor).loss(aim)
            looked.append(Looked(loss, cost(loss)))
    law = law_of(looked, floor)
    return [law.loss(MARGIN * bound) for bound in bounds]


def law_of(looked: Sequence[Looked], floor: float) -> Law:
    """Return what fits best by least squares between logarithms, with a power close to 1 (ridge regression).

    What lies below ``floor`` weighs little; costs of 0 or less count as a quarter of it.
    """
    least = max(floor / 4, 1e-6)
    points = []
    for each in looked:
        cost = max(least, each.cost)
        points.append((math.log(each.loss), math.log(cost), 1 / (_OFF**2 + (floor / cost) ** 2)))
    total = sum(weight for *_, weight in points)
    x_mean = sum(x * weight for x, _, weight in points) / total
    y_mean = sum(y * weight for _, y, weight in points) / total
    square = sum(weight * (x - x_mean) ** 2 for x, _, weight in points)
    product = sum(weight * (x - x_mean) * (y - y_mean) for x, y, weight in points)
    power = (product + 1 / _BENT**2) / (square + 1 / _BENT**2)
    power = min(1.5, max(0.5, power))
    return Law(math.exp(y_mean - power * x_mean), power)
