"""Tokens at the ends of a cache are written more finely."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quietmind.kvstore.grades import FIRST, LEAST_GRADE, MOST_GRADE, NEWEST, grades, octaves


@given(cells=st.integers(0, 300), cuts=st.lists(st.integers(0, 300), max_size=3))
def test_the_ends_are_finer_however_the_cells_are_cut(cells: int, cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < cells), cells]
    found = np.concatenate([grades(*pair, cells) for pair in pairwise(bounds)])
    assert found.shape == (cells,)
    assert not found[FIRST : max(FIRST, cells - NEWEST)].any()
    assert (found[:FIRST] > 0).all()
    assert (found[max(0, cells - NEWEST) :] > 0).all()
    if cells:
        assert LEAST_GRADE <= found[-1] == found.max() <= MOST_GRADE


def test_a_grade_is_a_quarter_of_an_octave() -> None:
    assert octaves(np.array([-8, 0, 1, 16], np.int8)).tolist() == [-2, 0, 0.25, 4]
