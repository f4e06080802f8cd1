"""Tables of plans as plain text, and the numbers in them as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from quietmind.base.units import format_bytes
from quietmind.plan.interval import Interval


def align(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Return rows of equal length as lines: cells of the columns numbered in ``left`` begin in line, others end so."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def signed_bytes(difference: int) -> str:
    """Return a difference in bytes with its sign: ``+1.50 GiB``, ``-92.1 MiB``, ``=`` for none."""
    if difference == 0:
        return "="
    return f"{'+' if difference > 0 else '-'}{format_bytes(abs(difference))}"


def shown(interval: Interval | None) -> str:
    """Return ``mid (low-high)``, "unknown" for a speed that nobody knows."""
    return "unknown" if interval is None else str(interval)


def interval_to_json(interval: Interval | None) -> dict[str, float] | None:
    """Return an interval as ``{low, mid, high}``, None for an unknown one."""
    return None if interval is None else {"low": interval.low, "mid": interval.mid, "high": interval.high}
