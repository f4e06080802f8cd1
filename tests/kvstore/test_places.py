"""Where a token has stood before, within a stretch of text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quietmind.kvstore.codec.places import MOST_PLACES, STATES, Places


def listed(places: Places) -> list[list[int]]:
    return [rows[:count].tolist() for rows, count in zip(places.before, places.counts, strict=True)]


def found(tokens: list[int]) -> list[tuple[int, list[int]]]:
    places = Places.of(tokens, range(len(tokens)))
    return list(zip(places.states.tolist(), listed(places), strict=True))


def test_a_token_has_the_places_where_it_stood() -> None:
    assert found([7, 8, 7, 9, 7]) == [(0, []), (0, []), (1, [0]), (0, []), (2, [0, 2])]


def test_where_it_followed_the_same_token_counts_alone() -> None:
    assert found([1, 2, 3, 2, 1, 2])[-1] == (MOST_PLACES + 1, [1])


def test_the_last_places_count() -> None:
    tokens = [token for number in range(9) for token in (5, 100 + number)]
    assert found([*tokens, 5])[-1] == (MOST_PLACES, [10, 12, 14, 16])


def test_what_stood_before_the_stretch_says_what_a_token_follows_and_is_no_place() -> None:
    places = Places.of([4, 5, 6, 4, 5], range(1, 5))
    assert places.states.tolist() == [0, 0, 0, MOST_PLACES + 1]
    assert listed(places) == [[], [], [], [0]]


def test_cells_need_not_lie_in_the_order_of_the_text() -> None:
    places = Places.of([4, 5, 4, 5], [3, 1])
    assert listed(places) == [[], [0]]


@given(tokens=st.lists(st.integers(-1, 5), max_size=60), positions=st.lists(st.integers(-3, 70), max_size=60))
def test_places_are_cells_before_it_that_hold_the_same_token(tokens: list[int], positions: list[int]) -> None:
    places = Places.of(tokens, positions)
    assert len(places.states) == len(places.before) == len(positions)
    for cell, (state, rows) in enumerate(zip(places.states, listed(places), strict=True)):
        assert 0 <= state < STATES
        assert len(rows) == (state - 1) % MOST_PLACES + 1 if state else len(rows) == 0
        assert all(row < cell and tokens[positions[row]] == tokens[positions[cell]] for row in rows)
