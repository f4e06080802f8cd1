"""What tokens matter is learned from what errors cost, and told by their vectors alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.kvstore.floats import Floats
from quietmind.kvstore.grades import LEAST_GRADE, MOST_GRADE
from quietmind.kvstore.importance import Importance, grades_for, learned

WIDTH, TOKENS, CONTEXTS = 24, 400, 4
DIRECTION = np.random.default_rng(5).standard_normal(WIDTH).astype(np.float32)


def seen(count: int = CONTEXTS, tokens: int = TOKENS) -> list[Floats]:
    """Return vectors of contexts, far from 0 and of channels that differ in size."""
    draw = np.random.default_rng(1)
    sizes = np.exp2(np.arange(WIDTH) % 7).astype(np.float32)
    return [(30 + draw.standard_normal((tokens, WIDTH)) * sizes).astype(np.float32) for _ in range(count)]


def costs(vectors: Floats) -> NDArray[np.float64]:
    """Return costs that differ by several octaves along a direction, each off by chance."""
    along = ((vectors - 30) / vectors.std(axis=0)) @ DIRECTION / np.linalg.norm(DIRECTION)
    noise = np.random.default_rng(2).standard_normal(len(along))
    found: NDArray[np.float64] = np.exp2(2.0 * along + noise).astype(np.float64)
    return found


def of(vectors: list[Floats]) -> Importance:
    made = learned(1, vectors, [costs(each) for each in vectors])
    assert made is not None
    return made[0]


def test_grades_follow_half_of_the_octaves_that_costs_have() -> None:
    other = seen(CONTEXTS + 1)[-1]
    told = grades_for(of(seen()).scores(other))
    best = np.log2(costs(other)) / 2 * 4
    slope = np.polyfit(told, best, 1)[0]
    assert slope == pytest.approx(1, abs=0.1)
    assert abs(told.mean()) < 0.1


def test_no_context_is_graded_by_its_own_costs() -> None:
    vectors = seen()
    usual = [costs(each) for each in vectors]
    changed = [np.exp(np.random.default_rng(3).standard_normal(TOKENS)), *usual[1:]]
    one, other = learned(0, vectors, usual), learned(0, vectors, changed)
    assert one is not None
    assert other is not None
    assert np.array_equal(one[1][0], other[1][0])
    assert not np.array_equal(one[1][1], other[1][1])


def test_costs_that_are_all_alike_grade_nothing() -> None:
    vectors = seen()
    made = learned(0, vectors, [np.full(TOKENS, 7.0)] * CONTEXTS)
    assert made is not None
    assert not grades_for(made[0].scores(vectors[0])).any()


def test_channels_that_are_always_the_same_and_tokens_that_cost_nothing_make_no_grade_that_is_none() -> None:
    vectors = seen()
    known = [costs(each) for each in vectors]
    for each in vectors:
        each[:, 3] = 5.0
        each[:, 4] = each[:, 2]
    known[0][::2] = 0.0
    made = learned(0, vectors, known)
    assert made is not None
    assert np.isfinite(made[0].direction).all()
    found = grades_for(made[0].scores(np.concatenate([vectors[0], 1e4 * vectors[1]])))
    assert found.dtype == np.int8
    assert LEAST_GRADE <= found.min() <= found.max() <= MOST_GRADE


@pytest.mark.parametrize("vectors", [seen(1), seen(2, tokens=3), []])
def test_too_few_contexts_or_tokens_tell_nothing(vectors: list[Floats]) -> None:
    assert learned(0, vectors, [costs(each) for each in vectors]) is None


def test_of_no_tokens_there_is_no_grade() -> None:
    assert grades_for(np.zeros(0, np.float32)).shape == (0,)
