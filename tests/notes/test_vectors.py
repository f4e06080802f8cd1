"""Vectors on the disk: what was stored is found, nothing of it is lost, and one process writes at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietmind.base.errors import ArchiveDamaged, WorkspaceError
from quietmind.base.sqlite import connect
from quietmind.notes.vectors import _MIGRATIONS, TABLE, Identity, Vectors

D = 16
WHO = Identity("fake", "d" * 64, D)


def _unit(count: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def _key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _fill(vectors: Vectors, numbers: range, made: NDArray[np.float32]) -> None:
    vectors.append([_key(n) for n in numbers], made, [(n, _key(n)) for n in numbers])


def _found(vectors: Vectors, query: NDArray[np.float32], count: int) -> list[int]:
    return [near.passage for near in vectors.nearest(query, count).found]


def test_the_nearest_are_those_that_multiplying_all_says(tmp_path: Path) -> None:
    made = _unit(500)
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        _fill(vectors, range(300), made[:300])
        _fill(vectors, range(300, 500), made[300:])
        nearest = vectors.nearest(made[7], 10)
    assert nearest.placed == 500
    assert nearest.found[0].passage == 7
    assert nearest.found[0].key == _key(7)
    for near in nearest.found:
        assert near.similarity == pytest.approx(float(made[near.passage] @ made[7]), abs=0.01)
    exact = set(np.argsort(-(made @ made[7]))[:10].tolist())
    assert len(exact & {near.passage for near in nearest.found}) >= 9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_a_similarity_is_off_by_half_a_step_a_number_at_most(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float
) -> None:
    made = _unit(3, seed) * np.float32(scale)
    query = _unit(1, seed + 1)[0]
    with Vectors(tmp_path_factory.mktemp("v"), WHO) as vectors, vectors.writing():
        _fill(vectors, range(3), made)
        for near in vectors.nearest(query, 3).found:
            step = float(np.abs(made[near.passage]).max()) / 127
            allowed = step / 2 * float(np.abs(query).sum()) * 1.001 + 1e-6 * scale
            assert abs(near.similarity - float(made[near.passage] @ query)) <= allowed


def test_passages_with_one_text_share_a_row_and_are_both_found(tmp_path: Path) -> None:
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        assert vectors.place({1: _key(1), 2: _key(1), 3: _key(3)}) == [1, 3]
        vectors.append([_key(1)], _unit(1), [(1, _key(1)), (2, _key(1))])
        assert vectors.counts() == (1, 2)
        assert _found(vectors, _unit(1)[0], 5) == [1, 2]


def test_a_passage_with_another_text_lacks_a_vector_and_one_that_moved_does_not(tmp_path: Path) -> None:
    made = _unit(3)
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        _fill(vectors, range(3), made)
        assert vectors.place({0: _key(0), 1: _key(9), 77: _key(2)}) == [1]
        assert vectors.placed([0, 1, 2, 77]) == {0, 77}
        assert _found(vectors, made[2], 1) == [77]
        assert _found(vectors, made[1], 1) == []


def test_what_another_process_reads_while_rows_are_added_is_whole(tmp_path: Path) -> None:
    made = _unit(4)
    with Vectors(tmp_path, WHO) as writer, writer.writing():
        _fill(writer, range(2), made[:2])
        with Vectors(tmp_path) as reader:
            assert sorted(_found(reader, made[0], 9)) == [0, 1]
            _fill(writer, range(2, 4), made[2:])
            assert sorted(_found(reader, made[0], 9)) == [0, 1, 2, 3]


def test_a_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    refused = pytest.raises(WorkspaceError, match="another `quietmind embed`")
    with Vectors(tmp_path, WHO) as one, one.writing(), Vectors(tmp_path, WHO) as other, refused, other.writing():
        pytest.fail("two write")


def test_a_torn_tail_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    made = _unit(3)
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        _fill(vectors, range(2), made[:2])
    with (tmp_path / "matrix-0").open("ab") as matrix:
        matrix.write(b"half a row")
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        assert _found(vectors, made[1], 1) == [1]
        _fill(vectors, range(2, 3), made[2:])
        assert _found(vectors, made[2], 1) == [2]
        assert (tmp_path / "matrix-0").stat().st_size == 3 * (4 + D)


def test_a_table_that_nobody_has_said_anything_in_holds_no_vectors(tmp_path: Path) -> None:
    connect(tmp_path / TABLE, _MIGRATIONS).close()  # its writer was killed right here
    with pytest.raises(WorkspaceError, match="holds no vectors; run"):
        Vectors(tmp_path)
    with Vectors(tmp_path, WHO) as vectors:
        assert vectors.counts() == (0, 0)


def test_rows_that_a_disk_has_lost_are_made_again(tmp_path: Path) -> None:
    made = _unit(3)
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        _fill(vectors, range(3), made)
    os.truncate(tmp_path / "matrix-0", 2 * (4 + D) + 1)
    with Vectors(tmp_path) as reader, pytest.raises(ArchiveDamaged, match="cut short"):
        reader.nearest(made[0], 1)
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        assert vectors.place({n: _key(n) for n in range(3)}) == [2]
        assert _found(vectors, made[1], 1) == [1]


def test_rows_that_no_passage_has_go_when_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quietmind.notes.vectors._COMPACT_ROWS", 3)
    made = _unit(8)
    with Vectors(tmp_path, WHO) as vectors, vectors.writing(), Vectors(tmp_path) as reader:
        _fill(vectors, range(8), made)
        vectors.place({n: _key(n) for n in range(6)})
        assert vectors.compact() == 0
        vectors.place({n: _key(n) for n in (1, 3, 5)})
        assert vectors.compact() == 5
        assert [path.name for path in tmp_path.glob("matrix-*")] == ["matrix-1"]
        assert vectors.counts() == (3, 3)
        for each in (vectors, reader):
            assert sorted(_found(each, made[0], 9)) == [1, 3, 5]
            assert _found(each, made[3], 1) == [3]
        _fill(vectors, range(10, 11), made[:1])
        assert _found(reader, made[0], 1) == [10]


def test_vectors_of_another_embedder_are_refused(tmp_path: Path) -> None:
    Vectors(tmp_path, WHO).close()
    with pytest.raises(ArchiveDamaged, match="another embedder"):
        Vectors(tmp_path, Identity("fake", "e" * 64, D))
    with Vectors(tmp_path) as vectors, pytest.raises(ArchiveDamaged, match="16 numbers"):
        vectors.nearest(np.ones(D + 1, np.float32), 1)
    with pytest.raises(WorkspaceError, match="holds no vectors"):
        Vectors(tmp_path / "other")


_WRITER = """
import sys, numpy as np
from pathlib import Path
from quietmind.notes.vectors import Identity, Vectors
identity = Identity("fake", "d" * 64, 16)
with Vectors(Path(sys.argv[1]), identity) as vectors, vectors.writing():
    first, _ = vectors.counts()
    for n in range(first, first + 10_000):
        key = n.to_bytes(16, "big")
        row = np.zeros((1, 16), np.float32); row[0, n % 16] = 1 + n
        vectors.append([key], row, [(n, key)])
        print(n, flush=True)
"""


@pytest.mark.parametrize("wait", [1, 7, 23])
def test_killed_at_any_moment_every_row_that_was_said_to_be_written_is_there(tmp_path: Path, wait: int) -> None:
    said = -1
    for _ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(wait):
                said = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
            said = max([said, *map(int, child.stdout.read().split())])
    with Vectors(tmp_path, WHO) as vectors, vectors.writing():
        count, placed = vectors.counts()
        assert count == placed
        assert count - 1 in (said, said + 1)
        for near in vectors.nearest(np.ones(D, np.float32), count).found:
            assert near.similarity == pytest.approx(1 + near.passage)
