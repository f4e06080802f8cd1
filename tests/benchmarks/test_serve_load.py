"""What serve_load.py concludes from its records."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(BENCHMARKS))
    from serve_load_sums import Turn, jain, kendall, overtaken, percentile, slope, waits_between


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1.0) == 100
    assert percentile([7.0], 0.01) == 7
    assert percentile([], 0.5) is None


def test_shares_are_fair_where_they_are_equal() -> None:
    assert jain([3, 3, 3]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) is None


def test_an_order_is_compared_with_the_order_of_its_values() -> None:
    assert kendall([1, 2, 3, 4]) == 1
    assert kendall([4, 3, 2, 1]) == -1
    assert kendall([1, 3, 2, 4]) == pytest.approx(2 / 3)
    assert kendall([1]) is None


def test_only_who_came_later_and_was_done_earlier_has_overtaken() -> None:
    first = Turn(sent=0, in_line=1, served=10, ended=11)
    while_it_joined = Turn(sent=0.5, in_line=2, served=3, ended=4)
    behind_it = Turn(sent=5, in_line=6, served=12, ended=13)
    past_it = Turn(sent=2, in_line=3, served=5, ended=6)
    assert overtaken([first, while_it_joined, behind_it]) == [0, 0, 0]
    assert overtaken([past_it, first, behind_it]) == [0, 1, 0]


def test_growth_is_the_slope_of_the_best_line() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)
    assert slope([(0, 5), (1, 4), (2, 5)]) == pytest.approx(0)
    assert slope([(0, 5)]) is None


def test_an_engine_is_idle_only_while_somebody_waits() -> None:
    waited = (0.5, 1.25, 2.0)  # asked while the first was served
    came_later = (3.0, 3.5, 4.0)
    assert waits_between([(0.0, 0.0, 1.0), came_later, waited]) == [0.25]
