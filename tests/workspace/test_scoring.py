"""Figures of rankings: right on what can be counted by hand, and no surer than the number of questions allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.workspace.scoring import DEPTH, difference, figures, reciprocal

RANKS = st.lists(st.none() | st.integers(1, 2 * DEPTH), min_size=1, max_size=60)


def test_shares_and_reciprocal_ranks_are_counted() -> None:
    found = figures([1, 2, 6, None, 11], seed=1)
    assert {most: each.value for most, each in found.recall.items()} == {1: 0.2, 5: 0.4, 10: 0.6}
    assert found.mrr.value == pytest.approx((1 + 1 / 2 + 1 / 6) / 5)
    assert found.questions == 5


def test_ten_of_ten_is_not_called_certain() -> None:
    recall = figures([1] * 10, seed=1).recall[1]
    assert (recall.value, recall.high) == (1.0, 1.0)
    assert recall.low == pytest.approx(0.722, abs=0.001)  # Wilson's, as tables give it


def test_the_interval_narrows_with_more_questions() -> None:
    few, many = (figures([1, 3, None, 2] * times, seed=1).mrr for times in (5, 100))
    assert many.high - many.low < (few.high - few.low) / 3


def test_a_difference_is_of_the_same_questions() -> None:
    ranks = [1, 2, 3, None] * 20
    assert not difference(ranks, ranks, seed=1).beyond_chance
    better = difference([1] * 80, ranks, seed=1)
    assert better.beyond_chance
    assert better.value == pytest.approx(1 - figures(ranks, seed=1).mrr.value)
    assert not difference([1, 2, 1], [2, 1, 1], seed=1).beyond_chance


@given(RANKS, st.integers(0, 2**32))
def test_every_value_lies_within_its_interval(ranks: list[int | None], seed: int) -> None:
    found = figures(ranks, seed)
    assert figures(ranks, seed) == found
    for each in (*found.recall.values(), found.mrr):
        assert 0 <= each.low <= each.value + 1e-9
        assert each.value <= each.high + 1e-9 <= 1 + 2e-9
    assert found.recall[1].value <= found.mrr.value + 1e-9
    assert found.mrr.value <= found.recall[10].value + 1e-9


@given(RANKS)
def test_a_better_rank_never_counts_less(ranks: list[int | None]) -> None:
    places = [reciprocal(rank) for rank in sorted(ranks, key=lambda rank: rank or 10**6)]
    assert places == sorted(places, reverse=True)
