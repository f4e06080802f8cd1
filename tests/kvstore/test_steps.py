"""Components become whole numbers of steps and come back, each token beside what those before it let expect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.codec import following, rans, steps
from quietmind.kvstore.codec.places import MOST_PLACES, Places
from quietmind.kvstore.codec.steps import Fineness, Sizes, coded, read
from quietmind.kvstore.codec.symbols import UNPACKING
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.grades import LEAST_GRADE, MOST_GRADE

CELLS, RANK = 400, 48


def alike(cells: int) -> Fineness:
    return Fineness.of(np.zeros(cells, np.int8))


def unlisted(cells: int) -> Places:
    return Places.of([], range(cells))


def whole(cells: int, written: tuple[np.ndarray, Floats]) -> Floats:
    """Return what comes back of all components, 0 where nothing was written."""
    found = np.zeros((cells, RANK), np.float32)
    used, some = written
    found[:, used] = some
    return found


def drifting(chance: np.random.Generator, kept: float) -> Floats:
    """Return components of deviation 3 whose tokens keep so much of the one before."""
    fresh = chance.normal(0, 3 * np.sqrt(1 - kept**2), (CELLS, RANK))
    for at in range(1, CELLS):
        fresh[at] += kept * fresh[at - 1]
    return fresh.astype(np.float32)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    cells=st.integers(1, 70),
    spread=st.sampled_from([0.0, 0.01, 0.4, 3.0, 4000.0]),
    grades=st.sampled_from([0, LEAST_GRADE, 3, MOST_GRADE]),
)
def test_what_is_read_is_what_was_coded_and_errs_by_rounding_alone(
    seed: int, cells: int, spread: float, grades: int
) -> None:
    chance = np.random.default_rng(seed)
    components = (chance.normal(0, 1, (cells, RANK)) * spread * 0.9 ** np.arange(RANK)).astype(np.float32)
    fine = Fineness.of(chance.integers(min(grades, 0), max(grades, 0) + 1, cells).astype(np.int8))
    places = Places.of(chance.integers(0, 6, cells).tolist(), range(cells))
    block, sizes, written = coded(components.copy(), fine, places)
    again = read(block, cells, RANK, fine, sizes, places)
    assert np.array_equal(again[0], written[0])
    assert np.array_equal(again[1], written[1])
    largest = np.abs(components).max()
    assert np.abs(whole(cells, again) - components).max() <= 0.5 / fine.times.min() + 1e-5 * largest


def test_tokens_that_follow_each_other_take_fewer_bytes() -> None:
    chance = np.random.default_rng(1)
    independent, following = (
        len(coded(drifting(chance, kept), alike(CELLS), unlisted(CELLS))[0]) for kept in (0.0, 0.6)
    )
    assert following < 0.95 * independent


def test_tokens_that_come_again_take_fewer_bytes() -> None:
    chance = np.random.default_rng(4)
    tokens = chance.integers(0, 40, CELLS)
    components = (chance.normal(0, 4, (40, RANK))[tokens] + chance.normal(0, 1, (CELLS, RANK))).astype(np.float32)
    listed, other = Places.of(tokens.tolist(), range(CELLS)), unlisted(CELLS)
    known, unknown = (len(coded(components.copy(), alike(CELLS), places)[0]) for places in (listed, other))
    assert known < 0.8 * unknown


def test_the_more_places_the_more_is_expected_and_of_chance_next_to_nothing() -> None:
    chance = np.random.default_rng(5)
    tokens = chance.integers(0, 40, 1000)
    noise = chance.normal(0, 3, (1000, 20 * RANK)).astype(np.float32)
    alone = Places.of(tokens.tolist(), range(1000))
    again = (chance.normal(0, 3, (40, 20 * RANK))[tokens] + noise).astype(np.float32)
    of_places = following.learned(again, alike(1000).times, alone)[1 : 1 + MOST_PLACES, 1:, 2].mean(axis=1)
    assert sorted(of_places) == list(of_places)
    assert of_places[0] > 64 * 0.3
    assert np.abs(following.learned(noise, alike(1000).times, alone)[1 : 1 + MOST_PLACES, 1:]).mean() < 64 * 0.1


def test_parts_larger_than_the_whole_are_refused() -> None:
    with pytest.raises(UNPACKING):
        following.spread(np.full(following.SHAPE, -65, np.int8), RANK)


def test_what_is_written_does_not_stray_however_long_it_goes_on() -> None:
    components = np.full((5000, RANK), 0.49, np.float32)
    components[0] += 100
    *_, written = coded(components.copy(), alike(5000), unlisted(5000))
    assert np.abs(whole(5000, written) - components).max() <= 0.5 + 1e-4


def test_a_token_twice_as_large_has_a_size_an_octave_larger_and_takes_fewer_bytes_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    components = np.random.default_rng(2).normal(0, 2, (CELLS, RANK)).astype(np.float32)
    components[::2] *= 4
    block, sizes, _ = coded(components.copy(), alike(CELLS), unlisted(CELLS))
    assert np.median(sizes[::2]) - np.median(sizes[1::2]) == pytest.approx(2 / rans.SHIFT, abs=1)
    monkeypatch.setattr(steps, "_sizes", lambda deviations: np.zeros(len(deviations), np.int8))
    assert len(block) < 0.97 * len(coded(components.copy(), alike(CELLS), unlisted(CELLS))[0])


@pytest.mark.parametrize("value", [-128, 127])
def test_sizes_that_are_not_those_of_the_block_are_refused(value: int) -> None:
    components = np.random.default_rng(3).normal(0, 2, (CELLS, RANK)).astype(np.float32)
    block, sizes, _ = coded(components, alike(CELLS), unlisted(CELLS))
    hostile: Sizes = np.full_like(sizes, value)
    with pytest.raises(UNPACKING):
        read(block, CELLS, RANK, alike(CELLS), hostile, unlisted(CELLS))


def test_numbers_far_from_what_the_basis_was_made_of_are_refused() -> None:
    with pytest.raises(SnapshotNotUnderstood, match="calibrate again"):
        coded(np.full((3, RANK), 1e9, np.float32), alike(3), unlisted(3))
