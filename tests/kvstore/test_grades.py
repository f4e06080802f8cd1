"""Tokens at the ends of a cache are written more finely."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quietmind.kvstore.grades import FIRST, LEAST_GRADE, MOST_GRADE, NEWEST, at_the_ends, octaves


@given(cells=st.integers(0, 300))
def test_the_ends_are_finer(cells: int) -> None:
    found = at_the_ends(cells)
    assert found.shape == (cells,)
    assert not found[FIRST : max(FIRST, cells - NEWEST)].any()
    assert (found[:FIRST] > 0).all()
    assert (found[max(0, cells - NEWEST) :] > 0).all()
    if cells:
        assert LEAST_GRADE <= found[-1] == found.max() <= MOST_GRADE


def test_a_grade_is_a_quarter_of_an_octave() -> None:
    assert octaves(np.array([-8, 0, 1, 16], np.int8)).tolist() == [-2, 0, 0.25, 4]
