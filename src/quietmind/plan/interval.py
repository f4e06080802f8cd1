"""A prediction that says how sure it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value that is most likely ``mid`` and in nine cases of ten between ``low`` and ``high``."""

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.mid <= self.high:
            raise ValueError(f"no interval: {self.low} to {self.high} around {self.mid}")

    def __str__(self) -> str:
        return f"{_short(self.mid)} ({_short(self.low)}-{_short(self.high)})"


def _short(value: float) -> str:
    """Return ``value`` with the digits that a prediction deserves: 1,092, 41.2, 9.0, 0.50, 0.095."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:#.2g}"
