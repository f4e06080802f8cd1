"""A question finds what says the same in the other language, where an embedder would keep the languages apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietmind.base.sqlite import connect
from quietmind.notes.crossing import FILE, TAKEN_OUT, axis_between, crossed, measure_axis, without
from quietmind.notes.embedding import text_key
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.vectors import Identity, Vectors

TOPICS = 60
DIMENSIONS = TOPICS + 1
BIAS = 0.8
EMBEDDER = Identity("fake", "digest", DIMENSIONS)


def vector(topic: int, language: float) -> NDArray[np.float32]:
    """Of a text about one topic; the last number says in which language."""
    numbers = np.zeros(DIMENSIONS, np.float32)
    numbers[topic], numbers[-1] = 1.0, language
    return numbers / np.float32(np.linalg.norm(numbers))


@dataclass(frozen=True)
class Topics:
    """Vectors of notes, and the names of these by their passages."""

    vectors: Vectors
    names: dict[int, str]

    def nearest(self, query: NDArray[np.float32], count: int = 2) -> list[str]:
        return [self.names[near.passage] for near in self.vectors.nearest(query, count).found]


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[Topics]:
    """Each topic in both languages, which are further apart than the topics are."""
    root = tmp_path / "notes"
    root.mkdir()
    for topic in range(TOPICS):
        (root / f"{topic:02}-en.md").write_text(f"The pump number {topic} is in the cellar of the house.")
        (root / f"{topic:02}-ru.md").write_text(f"Насос номер {topic} стоит в подвале этого дома.")
    with closing(connect(tmp_path / "archive.db", MIGRATIONS)) as connection:
        Index(connection, tmp_path / "archive.db").update(root)
        with Vectors(tmp_path / "vectors", EMBEDDER) as vectors:
            rows = connection.execute(
                "SELECT passages.id, path FROM passages JOIN documents ON documents.id = document ORDER BY path"
            ).fetchall()
            names = {passage: Path(bytes(path).decode()).stem for passage, path in rows}
            made = [vector(int(name[:2]), BIAS if name.endswith("ru") else -BIAS) for name in names.values()]
            keys = {passage: text_key(name) for passage, name in names.items()}
            with vectors.writing():
                vectors.place(keys)
                vectors.append([*keys.values()], np.array(made), keys.items())
                measure_axis(connection, vectors)
            yield Topics(vectors, names)


def test_a_question_finds_the_note_of_the_other_language_next(topics: Topics) -> None:
    asked = vector(7, BIAS)
    assert topics.nearest(asked)[1] != "07-en"
    assert set(topics.nearest(crossed(asked, topics.vectors))) == {"07-ru", "07-en"}


@pytest.mark.parametrize("content", [b"", b"\0" * 4 * DIMENSIONS, b"\xff" * 4 * DIMENSIONS, b"x" * 7])
def test_a_damaged_axis_is_none(topics: Topics, content: bytes) -> None:
    (topics.vectors.folder / FILE).write_bytes(content)
    asked = vector(7, BIAS)
    assert (crossed(asked, topics.vectors) == asked).all()


def test_without_an_axis_a_question_stays_as_it_is(topics: Topics) -> None:
    (topics.vectors.folder / FILE).unlink()
    asked = vector(7, BIAS)
    assert (crossed(asked, topics.vectors) == asked).all()


def test_few_passages_have_no_axis() -> None:
    russian, english = ([vector(topic, language) for topic in range(49)] for language in (BIAS, -BIAS))
    assert axis_between(russian, english) is None


def test_languages_that_an_embedder_does_not_tell_apart_have_no_axis() -> None:
    chance = np.random.default_rng(1)
    one, other = chance.normal(size=(2, 200, DIMENSIONS)).astype(np.float32)
    assert axis_between(list(one), list(other)) is None
    assert axis_between([vector(1, 0.0)] * 60, [vector(1, 0.0)] * 60) is None


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3).filter(lambda numbers: any(map(abs, numbers))))
def test_what_is_not_of_the_language_stays(numbers: list[float]) -> None:
    query = np.array(numbers, np.float32)
    if (length := float(np.linalg.norm(query))) < 1e-3:
        return
    query /= np.float32(length)
    axis = np.array([1, 0, 0], np.float32)
    left = without(query, axis)
    assert np.linalg.norm(left) == pytest.approx(1, abs=1e-5)
    scale = float(np.linalg.norm([query[0] * (1 - TAKEN_OUT), query[1], query[2]]))
    assert left * scale == pytest.approx([query[0] * (1 - TAKEN_OUT), query[1], query[2]], abs=1e-5)
