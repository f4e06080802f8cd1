"""A note is of the day that it names, and a person's date means the days that it says."""

from __future__ import annotations

import time
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.notes.dates import days_meant, note_day
from quietmind.notes.front_matter import front_matter

TODAY = date(2025, 3, 1)


@pytest.mark.parametrize(
    ("front", "name", "day"),
    [
        ("date: 2024-05-17", "2020-01-01.md", date(2024, 5, 17)),
        ("created: '2024-05-17 10:30'", "x.md", date(2024, 5, 17)),
        ("date: soon\ncreated: 17.05.2024", "x.md", date(2024, 5, 17)),
        ("created: 2024-05-17\ndate: 2024-06-01", "x.md", date(2024, 6, 1)),
        ("updated: 2024-06-01", "x.md", date(2024, 6, 1)),
        ("modified: 2024-06-01\ncreated: 2024-05-17", "x.md", date(2024, 5, 17)),
        ("updated: 2024-06-01", "2024-05-17 x.md", date(2024, 5, 17)),
        ("date: 2024-05", "x.md", date(2024, 5, 1)),
        ("date: 2024", "x.md", date(2024, 1, 1)),
        ("date: 2024-05-17T25:99", "x.md", date(2024, 5, 17)),
        ("date: 2024-02-31", "notes 2024_05_17 late.md", date(2024, 5, 17)),
        ("title: x", "20240517-meeting.md", date(2024, 5, 17)),
        ("title: x", "Meeting 2024.05.17.txt", date(2024, 5, 17)),
        ("title: x", "99999999 20240517.md", date(2024, 5, 17)),
        ("title: x", "120240517.md 2024-13-45.md 2024-05.17.md", None),
        ("title: x", "x.md", None),
    ],
)
def test_the_day_of_a_note_is_the_first_that_it_names(front: str, name: str, day: date | None) -> None:
    assert note_day(front_matter(["---", *front.split("\n"), "---"]), name) == day


@pytest.mark.parametrize(("zone", "day"), [("Europe/Moscow", 18), ("America/New_York", 17)])
def test_a_time_with_a_zone_is_of_the_day_that_it_was_here(
    zone: str, day: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for written in ("2024-05-17T21:30:00Z", "2024-05-18 00:30:00+03:00"):
            assert note_day({"date": [written]}, "x.md") == date(2024, 5, day)
        assert note_day({"date": ["2024-05-17 23:59"]}, "x.md") == date(2024, 5, 17)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [
        ("2024", date(2024, 1, 1), date(2024, 12, 31)),
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
        ("2024-5-7", date(2024, 5, 7), date(2024, 5, 7)),
        (" 2024-05-17 ", date(2024, 5, 17), date(2024, 5, 17)),
        ("0d", TODAY, TODAY),
        ("30d", date(2025, 1, 30), date(2025, 1, 30)),
    ],
)
def test_a_year_or_a_month_means_all_of_its_days(written: str, first: date, last: date) -> None:
    assert days_meant(written, TODAY) == (first, last)


@pytest.mark.parametrize(
    "written", ["", "x", "2024-13", "2024-02-30", "0000", "d", "-3d", "999999d", "17.05.2024", "٢٠٢٤-٩٩"]
)
def test_what_is_no_date_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="is no date; write 2024, 2024-05, 2024-05-17, or 30d"):
        days_meant(written, TODAY)


@given(st.text(max_size=40), st.text(max_size=40))
def test_nothing_that_a_note_says_fails(value: str, name: str) -> None:
    day = note_day({"date": [value]}, name)
    assert day is None or isinstance(day, date)


@given(st.dates(), st.dates())
def test_a_written_day_is_read_as_it_was(day: date, other: date) -> None:
    assert days_meant(day.isoformat(), other) == (day, day)
    assert note_day({"created": [day.isoformat()]}, "x.md") == day
