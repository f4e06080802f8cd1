"""When a note is of, and which days a person means."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from quietmind.base.errors import UsageError

_MADE, _CHANGED = ("date", "created"), ("updated", "modified")
_ISO = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2})(?:[T ](\d{2}:\d{2}\S*))?)?\b.*")
_POINTS = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})\b.*")
_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)(?!\d)")
_MEANT = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
_AGO = re.compile(r"(\d{1,6})d")


def note_day(front: Mapping[str, Sequence[str]], name: str) -> date | None:
    """Return the day that a note is of: ``date`` or ``created`` of its front matter, else a date in its file ``name``.

    Else ``updated`` or ``modified``, which say more than the file's own time: a copy has another. None where none of
    them says. A month or a year alone is its first day; a time with a zone is the day that it was here.
    """
    return _said(front, _MADE) or _named(name) or _said(front, _CHANGED)


def days_meant(written: str, today: date) -> tuple[date, date]:
    """Return the first and the last day that ``written`` means: 2024, 2024-05, 2024-05-17, or 30d for 30 days ago.

    Raises UsageError for anything else.
    """
    text = written.strip()
    try:
        if ago := _AGO.fullmatch(text):
            day = today - timedelta(days=int(ago[1]))
            return day, day
        if meant := _MEANT.fullmatch(text):
            year, month, day_of_month = (int(part) if part else None for part in meant.groups())
            assert year is not None, "the pattern has a year"
            first = date(year, month or 1, day_of_month or 1)
            if day_of_month:
                return first, first
            end = month or 12
            return first, date(year, end, calendar.monthrange(year, end)[1])
    except (ValueError, OverflowError):  # the 31st of February, the year 0
        pass
    raise UsageError(f"{written!r} is no date; write 2024, 2024-05, 2024-05-17, or 30d for 30 days ago")


def _said(front: Mapping[str, Sequence[str]], keys: Sequence[str]) -> date | None:
    values = (value for key in keys for value in front.get(key, ()))
    return next((day for value in values if (day := _written(value))), None)


def _named(name: str) -> date | None:
    matches = _IN_NAME.finditer(name)
    return next((day for match in matches if (day := _day(match[1], match[3], match[4]))), None)


def _written(value: str) -> date | None:
    if iso := _ISO.fullmatch(value):
        if iso[4]:
            try:
                when = datetime.fromisoformat(value.strip())
                return when.astimezone().date() if when.tzinfo else when.date()
            except (ValueError, OverflowError):  # a time that is none; the day may still be one
                pass
        return _day(iso[1], iso[2], iso[3] or 1)
    if re.fullmatch(r"\d{4}", value):
        return _day(value, 1, 1)
    if points := _POINTS.fullmatch(value):
        return _day(points[3], points[2], points[1])
    return None


def _day(year: str, month: str | int, day: str | int) -> date | None:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None
