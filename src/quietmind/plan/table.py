"""Tables of plans as plain text, and the numbers in them as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from quietmind.base.units import format_bytes
from quietmind.plan.interval import Interval
from quietmind.plan.record import Plan

_MOST_COLUMNS = 4


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


def device_columns(keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return columns of devices by their headings: each its own, but many alike (``cuda0`` to ``cuda7``) in one."""
    if len(keys) <= _MOST_COLUMNS:
        return {key: (key,) for key in keys}
    stems: dict[str, tuple[str, ...]] = {}
    for key in keys:
        stem = key.rstrip("0123456789")
        stems[stem] = (*stems.get(stem, ()), key)
    return {stem if len(alike) == 1 else f"{len(alike)} x {stem}": alike for stem, alike in stems.items()}


def signed_bytes(difference: int) -> str:
    """Return a difference in bytes with its sign: ``+1.50 GiB``, ``-92.1 MiB``, ``=`` for none."""
    if difference == 0:
        return "="
    return f"{'+' if difference > 0 else '-'}{format_bytes(abs(difference))}"


def shown(interval: Interval | None) -> str:
    """Return ``mid (low-high)``, "unknown" for a speed that nobody knows."""
    return "unknown" if interval is None else str(interval)


def shown_rates(plan: Plan) -> tuple[str, str]:
    """Return decode and prefill as ``mid (low-high)``: "unknown" where nobody knows, "-" where it does not fit."""
    if plan.verdict == "does not fit":
        return "-", "-"
    speed = plan.attainable
    return shown(speed.decode if speed else None), shown(speed.prefill if speed else None)


def rates_to_json(plan: Plan | None) -> dict[str, dict[str, float] | None]:
    """Return ``decode`` and ``prefill`` of a plan, None for what is unknown or does not fit."""
    speed = plan.attainable if plan is not None else None
    return {
        "decode": interval_to_json(speed.decode if speed else None),
        "prefill": interval_to_json(speed.prefill if speed else None),
    }


def interval_to_json(interval: Interval | None) -> dict[str, float] | None:
    """Return an interval as ``{low, mid, high}``, None for an unknown one."""
    return None if interval is None else {"low": interval.low, "mid": interval.mid, "high": interval.high}
