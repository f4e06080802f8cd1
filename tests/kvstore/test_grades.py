"""Tokens near the ends of a cache are written more finely."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quietmind.kvstore.grades import FIRST, MOST_GRADE, for_places, octaves


@given(cells=st.integers(0, 3000))
def test_the_first_are_finer_and_the_last_the_more_the_nearer(cells: int) -> None:
    found = for_places(cells).astype(int)
    assert found.shape == (cells,)
    assert (found[:FIRST] > 0).all()
    assert not found[FIRST : cells - cells // 6].any()
    assert (np.diff(found[FIRST:]) >= 0).all()
    assert found.max(initial=0) <= MOST_GRADE


def test_half_as_far_from_the_end_the_variance_of_errors_is_halved() -> None:
    found = octaves(for_places(6 * 1024))
    assert [found[-(1 << power)] for power in range(11)] == [(10 - power) / 2 for power in range(11)]


def test_behind_a_longer_cache_the_newest_are_finer_beside_the_others() -> None:
    assert for_places(24_576)[-1] == for_places(3072)[-1] + 6


def test_a_grade_is_a_quarter_of_an_octave() -> None:
    assert octaves(np.array([-8, 0, 1, 16], np.int8)).tolist() == [-2, 0, 0.25, 4]
