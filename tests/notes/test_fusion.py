"""One ranking of two: fair to what has no vector yet, and never misled by vectors of what is gone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.sqlite import connect
from quietmind.notes.document import Hit
from quietmind.notes.fusion import DEPTH, Standing, fused, key_of, scores, shares
from quietmind.notes.index import Index
from quietmind.notes.meaning import Meaning
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import ranked
from quietmind.notes.vectors import Near, Nearest

NOTES = {
    "one.md": "# Насос\n\nНасос включает реле.\n",
    "two.md": "# Реле\n\nРеле греется, насос молчит, насос не виноват.\n",
    "three.md": "# Pump\n\nThe relay starts the pump.\n",
    "four.md": "# Ёлка\n\nЁлку покупаем в декабре.\n",
}
SHARE, COVERAGE = (st.integers(first, 1000).map(lambda n: n / 1000) for first in (0, 1))
PATHS = (Path("/notes/a.md"), Path("/notes/b.md"))


class Archive:
    def __init__(self, folder: Path, root: Path) -> None:
        self.connection = connect(folder / "archive.db", MIGRATIONS)
        Index(self.connection, folder / "archive.db").update(root)
        self.ids = {
            Path(bytes(path).decode()).name: id_
            for id_, path in self.connection.execute(
                "SELECT passages.id, path FROM passages JOIN documents ON documents.id = document"
            )
        }

    def near(self, name: str, similarity: float, key: bytes | None = None) -> Near:
        (hit,) = [hit for hit in self.all() if hit.passage.path.name == name]
        return Near(self.ids[name], key or key_of(hit.passage), similarity)

    def all(self) -> list[Hit]:
        return list(ranked(self.connection, "насос реле pump relay ёлка", 10).values())

    def names(self, query: str, near: Sequence[Near], with_vector: Sequence[str], limit: int = 10) -> list[str]:
        known = {self.ids[name] for name in with_vector}
        meaning = Meaning(Nearest(tuple(near), len(known)))
        hits = fused(self.connection, query, meaning, limit, lambda ids: known & set(ids))
        return [hit.passage.path.name for hit in hits]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("fusion")
    root = folder / "notes"
    root.mkdir()
    for name, text in NOTES.items():
        (root / name).write_text(text, encoding="utf-8")
    archive = Archive(folder, root)
    yield archive
    archive.connection.close()


def test_without_vectors_the_ranking_is_the_one_by_words(archive: Archive) -> None:
    by_words = [hit.passage.path.name for hit in ranked(archive.connection, "насос реле", 10).values()]
    assert archive.names("насос реле", [], []) == by_words
    assert len(by_words) == 2


def test_what_only_meaning_finds_is_found_and_says_how_near_it_is(archive: Archive) -> None:
    near = [archive.near("three.md", 0.9), archive.near("one.md", 0.8)]
    assert archive.names("насос включает реле", near, list(NOTES)) == ["one.md", "three.md", "two.md"]
    known = set(archive.ids.values())
    meaning = Meaning(Nearest(tuple(near), 4))
    hits = fused(archive.connection, "насос включает реле", meaning, 9, lambda ids: known & set(ids))
    by_name = {hit.passage.path.name: hit for hit in hits}
    assert by_name["three.md"].similarity == 0.9
    assert by_name["three.md"].coverage == 0
    assert by_name["one.md"].coverage == 1
    assert by_name["two.md"].similarity is None


def test_meaning_changes_the_order_of_what_both_find(archive: Archive) -> None:
    first, second = archive.names("насос реле", [], [])
    near = [archive.near(second, 0.9), archive.near("four.md", 0.8), archive.near("three.md", 0.7)]
    assert archive.names("насос реле", [*near, archive.near(first, 0.6)], list(NOTES))[0] == second


def test_a_vector_of_another_text_is_no_vector_of_the_passage(archive: Archive) -> None:
    near = [archive.near("four.md", 0.9, key=b"k" * 16), Near(10_000, b"k" * 16, 0.8)]
    assert "four.md" not in archive.names("насос реле", near, list(NOTES))


def test_what_says_the_same_in_the_other_language_is_found_and_comes_after_what_is_nearest(archive: Archive) -> None:
    near, other = archive.near("four.md", 0.9), archive.near("three.md", 0.4)
    known = set(archive.ids.values())
    meaning = Meaning(Nearest((near,), 4), crossed=Nearest((other,), 4))
    hits = fused(archive.connection, "???", meaning, 9, lambda ids: known & set(ids))
    assert [(hit.passage.path.name, hit.similarity, hit.crossed) for hit in hits] == [
        ("four.md", 0.9, None),
        ("three.md", None, 0.4),
    ]


def test_the_order_of_the_nearest_is_that_of_their_closeness(archive: Archive) -> None:
    near = [archive.near("four.md", 0.9), archive.near("three.md", 0.8)]
    known = set(archive.ids.values())
    meaning = Meaning(Nearest(tuple(near), 4), {near[1].passage: 0.95})
    hits = fused(archive.connection, "???", meaning, 9, lambda ids: known & set(ids))
    assert [hit.passage.path.name for hit in hits] == ["three.md", "four.md"]


def test_a_query_without_a_word_is_answered_by_meaning(archive: Archive) -> None:
    assert archive.names("???", [archive.near("four.md", 0.9)], list(NOTES)) == ["four.md"]


def test_no_more_than_the_limit_is_returned(archive: Archive) -> None:
    near = [archive.near(name, 0.5) for name in NOTES]
    assert len(archive.names("насос реле", near, list(NOTES), limit=2)) == 2


@given(SHARE, SHARE, COVERAGE)
def test_those_without_a_vector_stand_to_each_other_as_by_words(one: float, other: float, coverage: float) -> None:
    found = scores({1: Standing(PATHS[0], one, None), 2: Standing(PATHS[1], other, None)}, coverage)
    assert (found[1] > found[2]) == (one > other)


@given(SHARE, COVERAGE)
def test_a_vector_that_agrees_with_the_words_changes_nothing(words: float, coverage: float) -> None:
    (without,) = scores({1: Standing(PATHS[0], words, None)}, coverage).values()
    assert scores({1: Standing(PATHS[0], words, words)}, coverage)[1] == pytest.approx(without)


@given(SHARE, SHARE, COVERAGE)
def test_more_of_either_leg_is_more_and_all_of_both_is_the_most(words: float, meaning: float, coverage: float) -> None:
    (here,) = scores({1: Standing(PATHS[0], words, meaning)}, coverage).values()
    assert here <= scores({1: Standing(PATHS[0], 1.0, meaning)}, coverage)[1] <= 1.0
    assert here <= scores({1: Standing(PATHS[0], words, 1.0)}, coverage)[1] <= 1.0


def test_where_words_hardly_say_the_question_meaning_decides() -> None:
    standings = {1: Standing(PATHS[0], 1.0, 0.0), 2: Standing(PATHS[1], 0.0, 1.0)}
    all_said, hardly = scores(standings, 1.0), scores(standings, 0.2)
    assert all_said[1] > all_said[2]
    assert hardly[1] < hardly[2]


def test_the_best_passage_of_a_note_counts_for_what_all_of_them_have_shown_and_the_others_for_themselves() -> None:
    apart = {1: Standing(PATHS[0], 0.9, 0.1), 2: Standing(PATHS[0], 0.1, 0.9), 3: Standing(PATHS[1], 0.9, 0.2)}
    found = scores(apart, 1.0)
    assert found[1] == scores({1: Standing(PATHS[0], 0.9, 0.9)}, 1.0)[1] > found[3]
    assert found[2] == scores({2: Standing(PATHS[0], 0.1, 0.9)}, 1.0)[2] < found[3]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=150), st.floats(0.001, 1))
def test_the_nearest_has_all_of_it_and_no_more_than_the_share_of_the_archive_have_any(
    similarities: list[float], share: float
) -> None:
    ordered = sorted(similarities, reverse=True)
    found = shares(ordered, share)
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert all(0 <= each <= 1 for each in found)
    if len(set(ordered)) == len(ordered) > 1:
        assert sum(each > 0 for each in found) <= max(1, math.ceil(DEPTH * share))
