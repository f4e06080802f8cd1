"""Searching exactly: the same rows whichever way they are reached, alone or in threads, with a filter or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietmind.notes import nearest
from quietmind.notes.nearest import best_first, packed, similarities
from quietmind.notes.vectors import Identity, Vectors

D, ROWS = 24, 400
WHO = Identity("fake", "d" * 64, D)


def _drawn(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vectors]:
    """ROWS rows; row n is of passage 2n, and of passage 2n + 1 as well where n divides by ten."""
    with Vectors(tmp_path_factory.mktemp("vectors"), WHO) as vectors, vectors.writing():
        keys = [n.to_bytes(16, "big") for n in range(ROWS)]
        twins = [(2 * n + 1, keys[n]) for n in range(0, ROWS, 10)]
        vectors.append(keys, _drawn(ROWS), [*((2 * n, key) for n, key in enumerate(keys)), *twins])
        yield vectors


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.01, 0.09, 0.2, 0.6, 1.0]), count=st.integers(1, 30))
def test_a_filter_finds_the_best_that_it_allows_however_many_those_are(
    stored: Vectors, seed: int, share: float, count: int
) -> None:
    drawn = np.random.default_rng(seed)
    among = sorted(drawn.choice(2 * ROWS, int(2 * ROWS * share), replace=False).tolist())
    query = _drawn(1, seed + 1)[0]
    everything = stored.nearest(query, ROWS).found
    allowed = [near for near in everything if near.passage in set(among)]
    first = set(list(dict.fromkeys(near.key for near in allowed))[:count])
    found = stored.nearest(query, count, among)
    assert found.found == tuple(near for near in allowed if near.key in first)
    assert found.placed == len(allowed)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_threads_and_blocks_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    records, query = packed(_drawn(rows), D), _drawn(1, 5)[0]
    alone = similarities(records, query)
    monkeypatch.setattr(nearest, "_ALONE_NUMBERS", 100)
    monkeypatch.setattr(nearest, "_BLOCK_NUMBERS", 7 * D)
    monkeypatch.setattr(nearest, "_cores", lambda: 3)
    assert similarities(records, query) == pytest.approx(alone, abs=1e-5)
    some = np.arange(0, rows, 3)
    assert similarities(records, query, some) == pytest.approx(alone[some], abs=1e-5)


def test_equal_ones_come_in_their_order_and_more_than_there_are_is_all() -> None:
    assert best_first(np.array([1, 3, 3, 2], np.float32), 3).tolist() == [1, 2, 3]
    assert best_first(np.array([1, 3], np.float32), 9).tolist() == [1, 0]
    assert best_first(np.empty(0, np.float32), 3).tolist() == []


def test_a_row_of_zeros_is_near_to_nothing(tmp_path: Path) -> None:
    records = packed(np.zeros((1, D), np.float32), D)
    assert similarities(records, _drawn(1)[0]).tolist() == [0.0]
