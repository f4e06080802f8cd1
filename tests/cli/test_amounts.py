"""Amounts that people type are read as they mean them, and nonsense is refused."""

from __future__ import annotations

import click
import pytest

from quietmind.cli.amounts import BYTES, CLOCK, LENGTH, shown_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("90min", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), (" 2H ", 7200)],
)
def test_a_length_of_time_is_read(text: str, seconds: float) -> None:
    assert LENGTH.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0h", "2", "h", "2d", "-1h", "1h-5m", "9999999h", "nan"])
def test_nonsense_is_no_length_of_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="2h, 90m"):
        LENGTH.convert(text, None, None)


@pytest.mark.parametrize("text", ["07:00", "7:00", "23:59", "00:00"])
def test_a_time_of_day_is_within_the_next_25_hours(text: str) -> None:
    assert 0 < CLOCK.convert(text, None, None) <= 25 * 3600


@pytest.mark.parametrize("text", ["", "24:00", "7", "07:60", "7am", "07:00:00"])
def test_nonsense_is_no_time_of_day(text: str) -> None:
    with pytest.raises(click.BadParameter, match="07:00"):
        CLOCK.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "count"),
    [("20GiB", 20 << 30), ("500M", 500 << 20), ("1.5g", 3 << 29), ("4096", 4096), ("2 TB", 2 << 40), ("7kib", 7168)],
)
def test_bytes_are_read_in_powers_of_two(text: str, count: int) -> None:
    assert BYTES.convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "GiB", "1e9", "9" * 15 + "T", "20 XiB"])
def test_nonsense_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(click.BadParameter, match="20GiB"):
        BYTES.convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (4.25, "4.2 s"),
        (44.6, "45 s"),
        (89, "89 s"),
        (200, "3.3 min"),
        (3600, "60 min"),
        (9000, "2.5 h"),
    ],
)
def test_times_have_the_digits_that_matter(seconds: float, shown: str) -> None:
    assert shown_time(seconds) == shown
