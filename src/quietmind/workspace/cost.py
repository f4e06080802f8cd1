"""What reading notebooks costs before it is done: hours, tokens, and bytes on the disk, from the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quietmind.plan.interval import Interval
from quietmind.plan.kv import bytes_per_token, kv_type
from quietmind.plan.speed import Speed
from quietmind.workspace.launch import Start

# What the exact codec makes of an f16 cache, measured with the small model (benchmarks/notebooks.py, snapshot_bytes of
# raw_bytes). Types of fewer bits have less to pack: not measured, so not counted on.
PACKED = {"f16": 1 / 1.18}

# A token's prefill costs time that grows evenly with the depth, so that few points give its integral.
_POINTS = 8


@dataclass(frozen=True)
class Cost:
    """What reading takes. ``seconds`` is None where no speed is known."""

    tokens: int
    seconds: Interval | None
    bytes: int


def cost_of(start: Start, notebooks: Sequence[int]) -> Cost:
    """Return what reading notebooks of so many tokens each costs on the run that ``start`` has planned."""
    each = [prefill_seconds(start.speed, tokens) for tokens in notebooks]
    known = [one for one in each if one is not None]
    seconds = None
    if len(known) == len(each):  # their errors are one error, the speed's: they add up
        seconds = Interval(sum(one.low for one in known), sum(one.mid for one in known), sum(one.high for one in known))
    return Cost(sum(notebooks), seconds, int(sum(notebooks) * stored_per_token(start)))


def stored_per_token(start: Start) -> float:
    """Return the bytes that each token of a notebook takes on the disk.

    Of layers with a window or a state of fixed size, which do not grow with it, nothing is counted.
    """
    kind = start.plan.kv_type
    return bytes_per_token(start.card, kv_type(kind)) * PACKED.get(kind, 1.0)


def prefill_seconds(speed: Callable[[int], Speed | None], tokens: int) -> Interval | None:
    """Return the time of prefilling ``tokens`` from nothing: the integral of 1 / speed over the depth."""
    low = mid = high = 0.0
    for point in range(_POINTS):
        at = speed(int((point + 0.5) * tokens / _POINTS))  # the midpoint rule: exact for what grows evenly
        rate = at.prefill if at else None
        if rate is None or not rate.low:
            return None
        step = tokens / _POINTS
        low, mid, high = low + step / rate.high, mid + step / rate.mid, high + step / rate.low
    return Interval(low, mid, high)
