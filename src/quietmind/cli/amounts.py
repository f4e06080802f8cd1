"""Amounts on the command line: a length of time, a time of day, bytes; and times as people read them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import click

from quietmind.base.units import GIB, KIB, LARGEST_COUNT, MIB

_LENGTH = re.compile(r"(?:(\d{1,4}(?:\.\d+)?)h)?(?:(\d{1,5}(?:\.\d+)?)m(?:in)?)?(?:(\d{1,6})s)?", re.IGNORECASE)
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB}


class Length(click.ParamType[float]):
    """A length of time in seconds: 2h, 90m, 1h30m, 45s."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read ``value``, or fail as click does."""
        found = _LENGTH.fullmatch(str(value).strip())
        seconds = found and sum(
            float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)
        )
        if not seconds:
            self.fail(f"{value!r} is no length of time; write it like 2h, 90m or 1h30m", param, ctx)
        return float(seconds)


class Clock(click.ParamType[float]):
    """A time of day, today or tomorrow, as the seconds from now until then: 07:00."""

    name = "hh:mm"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read ``value``, or fail as click does."""
        found = _CLOCK.fullmatch(str(value).strip())
        if not found:
            self.fail(f"{value!r} is no time of day; write it like 07:00", param, ctx)
        now = datetime.now().astimezone()
        then = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return ((then if then > now else then + timedelta(days=1)) - now).total_seconds()


class Bytes(click.ParamType[int]):
    """A number of bytes: 20GiB, 500M, 1048576. Units are powers of two."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read ``value``, or fail as click does."""
        found = _BYTES.fullmatch(str(value).strip())
        count = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
        if not 0 < count <= LARGEST_COUNT * KIB:
            self.fail(f"{value!r} is no number of bytes; write it like 20GiB", param, ctx)
        return count


LENGTH, CLOCK, BYTES = Length(), Clock(), Bytes()


def shown_time(seconds: float) -> str:
    """Return ``0.4 s``, ``23 s``, ``4.5 min``, ``12 min``, ``2.3 h``, with the digits that matter."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            amount = seconds / size
            return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
