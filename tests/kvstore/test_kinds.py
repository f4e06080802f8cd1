"""Tokens that matter more are told apart and get finer grades."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietmind.kvstore.kinds import (
    KINDS,
    LEAST_GRADE,
    MOST_GRADE,
    Kinds,
    at_the_ends,
    between,
    grades_for,
    octaves,
    within,
)


def clusters(count: int, each: int) -> NDArray[np.float32]:
    """Return vectors around a mean of their own, in ``count`` directions from it, one after the other."""
    chance = np.random.default_rng(4)
    directions = chance.normal(0, 1, (count, 80)) * 5
    around = np.repeat(directions, each, axis=0) + chance.normal(0, 0.5, (count * each, 80))
    return (around * chance.uniform(0.1, 10, 80) + 100).astype(np.float32)


def test_what_is_alike_is_of_one_kind() -> None:
    vectors = clusters(4, 200)
    kinds = Kinds.learned(0, vectors)
    assert kinds is not None
    assert len(kinds.grades) == KINDS
    found = kinds.of(vectors).reshape(4, 200)
    # More kinds than there are clusters: one may be divided, and none is joined to another.
    assert not any(set(found[one]) & set(found[other]) for one in range(4) for other in range(one))


def test_the_same_vectors_give_the_same_kinds() -> None:
    first, second = (Kinds.learned(2, clusters(5, 150)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert np.array_equal(first.directions, second.directions)
    assert np.array_equal(first.offsets, second.offsets)


def test_few_vectors_make_few_kinds_or_none() -> None:
    assert Kinds.learned(0, clusters(1, 63)) is None
    some = Kinds.learned(0, clusters(1, 100))
    assert some is not None
    assert len(some.grades) == 3


@pytest.mark.parametrize("constant", [slice(0, 40), slice(None)], ids=["some", "all"])
def test_channels_that_never_change_tell_nothing(constant: slice) -> None:
    vectors = clusters(3, 100)
    vectors[:, constant] = 7.5
    kinds = Kinds.learned(0, vectors)
    assert kinds is not None
    assert np.isfinite(kinds.directions).all()
    assert not kinds.directions[constant].any()


@given(cells=st.integers(0, 300), cuts=st.lists(st.integers(0, 300), max_size=3))
def test_the_ends_are_finer_however_the_cells_are_cut(cells: int, cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < cells), cells]
    grades = np.concatenate([at_the_ends(*pair, cells) for pair in pairwise(bounds)])
    inner = between(cells)
    assert not grades[inner].any()
    assert (np.delete(grades, inner) > 0).all()
    if cells:
        assert grades[-1] == grades.max()


def test_what_costs_more_is_written_more_finely() -> None:
    costs = np.array([0.01, 0.1, 1.0, 16.0])
    grades = grades_for(costs)
    assert (np.diff(grades) > 0).all()
    assert np.array_equal(grades, grades_for(1000 * costs))
    assert not grades_for(np.full(5, 0.3)).any()


def test_a_grade_is_a_quarter_of_an_octave() -> None:
    assert octaves(np.array([-8, 0, 1, 16], np.int8)).tolist() == [-2, 0, 0.25, 4]


def test_grades_stay_within_what_can_be_written() -> None:
    assert within(np.array([-100, 3, 100])).tolist() == [LEAST_GRADE, 3, MOST_GRADE]
