"""Adding up waits: each an interval of seconds, of some source, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from quietmind.plan.interval import Interval


@dataclass(frozen=True)
class Wait:
    """``seconds`` waited for ``what``. Waits of one ``source`` are wrong together, of others apart."""

    what: str
    source: str
    seconds: Interval


def over(amount: float, rate: Interval) -> Interval:
    """Return the seconds that ``amount`` takes at ``rate`` a second."""
    return Interval(amount / rate.high, amount / rate.mid, amount / rate.low)


def times(interval: Interval, factor: float) -> Interval:
    """Return ``interval`` times ``factor``."""
    return Interval(interval.low * factor, interval.mid * factor, interval.high * factor)


def slower(one: Interval, other: Interval) -> Interval:
    """Return the greater of two, bound by bound."""
    return Interval(max(one.low, other.low), max(one.mid, other.mid), max(one.high, other.high))


def longest(waits: Sequence[Wait]) -> str:
    """Return what most of the time goes to, waits for the same thing taken together."""
    found: dict[str, float] = {}
    for wait in waits:
        found[wait.what] = found.get(wait.what, 0.0) + wait.seconds.mid
    return max(found, key=lambda what: found[what])


def rate(waits: Sequence[Wait], tokens: int) -> Interval:
    """Return ``tokens`` a second.

    The middles add up. Of the deviations those of one source add up too, and those of different sources, which know
    nothing of each other, as the root of their squares: all of them at their worst at once is no nine in ten.
    """
    middle = sum(wait.seconds.mid for wait in waits)
    quicker: dict[str, float] = {}
    later: dict[str, float] = {}
    for wait in waits:
        quicker[wait.source] = quicker.get(wait.source, 0.0) + wait.seconds.mid - wait.seconds.low
        later[wait.source] = later.get(wait.source, 0.0) + wait.seconds.high - wait.seconds.mid
    low = middle - sqrt(sum(value * value for value in quicker.values()))
    high = middle + sqrt(sum(value * value for value in later.values()))
    return Interval(tokens / high, tokens / middle, tokens / low)
