"""How near a passage is counts its note along, and a question finds what says the same in the other language."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.base.sqlite import connect
from quietmind.notes.crossing import FILE, Means, bytes_read, measure_means
from quietmind.notes.embedded import Embedded
from quietmind.notes.embedding import text_key
from quietmind.notes.filtering import Filter
from quietmind.notes.finding import Finder
from quietmind.notes.index import Index
from quietmind.notes.language import Language
from quietmind.notes.meaning import NOTE_WEIGHT, Meaning, closeness_of, meaning_of
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.vectors import Identity, Vectors

TOPICS = 60
DIMENSIONS = TOPICS + 1
BIAS = 0.8
EMBEDDER = Identity("fake", "digest", DIMENSIONS)
RUSSIAN, ENGLISH = "Где стоит седьмой насос?", "Where is the seventh pump?"


def vector(topic: int, language: float) -> NDArray[np.float32]:
    """Of a text about one topic; the last number says in which language."""
    numbers = np.zeros(DIMENSIONS, np.float32)
    numbers[topic], numbers[-1] = 1.0, language
    return numbers / np.float32(np.linalg.norm(numbers))


@dataclass(frozen=True)
class Topics:
    """Vectors of notes, and the names of these by their passages."""

    root: Path
    connection: Connection
    vectors: Vectors
    names: dict[int, str]

    def asked(self, question: str, vector: NDArray[np.float32], within: Filter | None = None) -> Meaning:
        return meaning_of(
            self.connection, Embedded(self.connection, self.vectors), self.vectors, question, vector, 2, within
        )

    def crossed(self, question: str, vector: NDArray[np.float32], within: Filter | None = None) -> list[str]:
        return [self.names[near.passage] for near in self.asked(question, vector, within).crossed.found]


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
                measure_means(connection, vectors)
            yield Topics(root, connection, vectors, names)


def test_a_question_finds_what_says_the_same_in_the_other_language(topics: Topics) -> None:
    asked = topics.asked(RUSSIAN, vector(7, BIAS))
    assert "07-en" not in [topics.names[near.passage] for near in asked.nearest.found]
    (found,) = asked.crossed.found
    assert topics.names[found.passage] == "07-en"
    assert found.similarity > 0.9
    assert topics.crossed(ENGLISH, vector(7, -BIAS)) == ["07-ru"]


def test_only_passages_of_the_other_language_are_crossed_to(topics: Topics) -> None:
    assert topics.crossed(RUSSIAN, vector(7, BIAS), Filter(languages=(Language.RUSSIAN,))) == []
    assert topics.crossed(RUSSIAN, vector(7, BIAS), Filter(languages=(Language.ENGLISH,))) == ["07-en"]


@pytest.mark.parametrize("question", ["???", "Насос pump стоит number", "Wo ist die Pumpe, möchte ich wissen, Ödön?"])
def test_a_question_in_no_one_of_both_languages_crosses_nothing(topics: Topics, question: str) -> None:
    assert topics.crossed(question, vector(7, BIAS)) == []


@pytest.mark.parametrize(
    "content", [None, b"", b"\0" * 8 * DIMENSIONS, b"\xff" * 8 * DIMENSIONS, b"x" * 7, b"\0\0\x80\x3f" * 2 * DIMENSIONS]
)
def test_without_means_nothing_is_crossed_to_and_all_else_is_found(topics: Topics, content: bytes | None) -> None:
    file = topics.vectors.folder / FILE
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    found = topics.asked(RUSSIAN, vector(7, BIAS))
    assert found.crossed.found == ()
    assert topics.names[found.nearest.found[0].passage] == "07-ru"


def test_means_of_few_passages_are_none() -> None:
    russian, english = ([vector(topic, language) for topic in range(49)] for language in (BIAS, -BIAS))
    assert Means.of(russian, english) is None


def test_languages_that_an_embedder_does_not_tell_apart_have_no_means() -> None:
    chance = np.random.default_rng(1)
    one, other = chance.normal(size=(2, 200, DIMENSIONS)).astype(np.float32)
    assert Means.of(list(one), list(other)) is None
    assert Means.of([vector(1, 0.0)] * 60, [vector(1, 0.0)] * 60) is None


def test_of_a_note_of_one_passage_closeness_is_its_similarity(topics: Topics) -> None:
    found = topics.asked(RUSSIAN, vector(7, BIAS))
    for near in found.nearest.found:
        assert found.closeness[near.passage] == pytest.approx(near.similarity, abs=0.01)


def test_a_passage_that_was_not_looked_at_yet_is_crossed_to_by_nobody(topics: Topics) -> None:
    (seventh,) = (passage for passage, name in topics.names.items() if name == "07-en")
    topics.connection.execute("UPDATE facets SET languages = NULL WHERE passage = ?", (seventh,))
    assert "07-en" not in topics.crossed(RUSSIAN, vector(7, BIAS))


def test_what_says_something_else_is_not_crossed_to(topics: Topics) -> None:
    russian = tuple(Path(f"{number:02}-ru.md") for number in range(TOPICS))
    folders = tuple(topics.root / name for name in (*russian, Path("33-en.md")))
    assert topics.crossed(RUSSIAN, vector(7, BIAS), Filter(folders=folders)) == []


def test_without_the_matrix_what_an_index_elsewhere_finds_is_found(topics: Topics) -> None:
    nearest = topics.asked(RUSSIAN, vector(7, BIAS)).nearest
    for matrix in topics.vectors.folder.glob("matrix-*"):
        matrix.unlink()
    elsewhere = cast(Finder, SimpleNamespace(by_meaning=lambda *_: nearest))
    found = meaning_of(topics.connection, elsewhere, topics.vectors, RUSSIAN, vector(7, BIAS), 2)
    assert found == Meaning(nearest)


def test_means_go_where_the_languages_are_no_longer_apart(topics: Topics) -> None:
    topics.connection.execute("UPDATE facets SET languages = 'en'")
    measure_means(topics.connection, topics.vectors)
    assert not (topics.vectors.folder / FILE).exists()


def test_a_search_reads_the_matrix_once_more_where_there_are_two_languages(topics: Topics) -> None:
    twice = bytes_read(topics.vectors)
    (topics.vectors.folder / FILE).unlink()
    assert twice == 2 * bytes_read(topics.vectors) > 0


def test_a_note_is_judged_by_what_stands_instead_of_its_vectors(topics: Topics) -> None:
    asked = vector(7, BIAS)
    nearest = topics.asked(RUSSIAN, asked).nearest
    first = nearest.found[0]
    elsewhere = vector(8, -BIAS)
    found = closeness_of(topics.connection, topics.vectors, asked, nearest, {first.passage: elsewhere})
    expected = (1 - NOTE_WEIGHT) * first.similarity + NOTE_WEIGHT * float(elsewhere @ asked)
    assert found[first.passage] == pytest.approx(expected, abs=1e-4)
    assert first.passage not in closeness_of(topics.connection, topics.vectors, asked, nearest, {first.passage: None})


def test_the_mean_of_a_note_counts_along(tmp_path: Path) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    paragraph = "The pump is in the cellar of the house. " * 40
    (root / "long.md").write_text(f"# Pumps\n\n{paragraph}\n\n## More\n\n{paragraph}\n")
    with closing(connect(tmp_path / "archive.db", MIGRATIONS)) as connection:
        Index(connection, tmp_path / "archive.db").update(root)
        ids = [passage for (passage,) in connection.execute("SELECT id FROM passages ORDER BY id")]
        assert len(ids) > 1
        with Vectors(tmp_path / "vectors", EMBEDDER) as vectors:
            keys = {passage: text_key(str(passage)) for passage in ids}
            made = [vector(number, 0.0) for number in range(len(ids))]
            with vectors.writing():
                vectors.place(keys)
                vectors.append([*keys.values()], np.array(made), keys.items())
            found = meaning_of(connection, Embedded(connection, vectors), vectors, ENGLISH, made[0], 9)
            expected = 1 - NOTE_WEIGHT + NOTE_WEIGHT / np.sqrt(len(ids))
            assert found.closeness[ids[0]] == pytest.approx(expected, abs=0.01)
