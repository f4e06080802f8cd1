"""What serve_load.py makes of its records: order, shares, growth and percentiles. Arithmetic alone."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Turn:
    """One request in a line, in seconds of one clock.

    It was ``sent``, stood ``in_line`` at the latest then (its client had been told its place), was ``served`` from its
    first piece on, and ``ended``.
    """

    sent: float
    in_line: float
    served: float
    ended: float


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest of ``values`` that ``share`` of them do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def jain(shares: Sequence[float]) -> float | None:
    """Return Jain's index of fairness: 1 where all have the same, 1/n where one has all; None where nobody has any.

    (sum x)^2 / (n sum x^2): R. Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def kendall(order: Sequence[float]) -> float | None:
    """Return Kendall's tau between the order of ``order`` and of its values: 1 the same, -1 reversed; None under two.

    Without ties: 1 - 4 inversions / (n (n - 1)).
    """
    count = len(order)
    if count < 2:
        return None
    seen: list[float] = []
    inversions = 0
    for value in order:
        inversions += len(seen) - bisect_right(seen, value)
        insort(seen, value)
    return 1 - 4 * inversions / (count * (count - 1))


def overtaken(turns: Sequence[Turn]) -> list[int]:
    """Return for each turn how many that were sent after it stood in line had ended before it was served.

    Where one is answered after the other, first come, first served, every number is 0; how long a request takes to
    arrive cannot make it more.
    """
    ordered = sorted(turns, key=lambda turn: turn.sent)
    sent = [turn.sent for turn in ordered]
    return [
        sum(
            other.ended < turn.served
            for other in ordered[bisect_right(sent, turn.in_line) : bisect_left(sent, turn.served)]
        )
        for turn in turns
    ]


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return by how much the second of each pair grows when the first grows by 1, by least squares; None under two."""
    if len(points) < 2:
        return None
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else None


def waits_between(services: Sequence[tuple[float, float, float]]) -> list[float]:
    """Return the time between two services while the later one was waiting, in seconds; others may be served in it.

    Each service is (asked, began, ended): when its client asked, when it reached the engine, when it left that.
    """
    ordered = sorted(services, key=lambda service: service[1])
    return [later[1] - earlier[2] for earlier, later in pairwise(ordered) if later[0] < earlier[2] <= later[1]]
