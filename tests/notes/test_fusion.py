"""One ranking of two: fair to what has no vector yet, and never misled by vectors of what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.sqlite import connect
from quietmind.notes.document import Hit
from quietmind.notes.fusion import Ranks, fused, key_of, score
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import ranked
from quietmind.notes.vectors import Near, Nearest

NOTES = {
    "one.md": "# Насос\n\nНасос включает реле.\n",
    "two.md": "# Реле\n\nРеле греется, насос молчит, насос не виноват.\n",
    "three.md": "# Pump\n\nThe relay starts the pump.\n",
    "four.md": "# Ёлка\n\nЁлку покупаем в декабре.\n",
}
RANK = st.integers(1, 200)


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
        nearest = Nearest(tuple(near), len(known))
        hits = fused(self.connection, query, nearest, limit, lambda ids: known & set(ids))
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
    hits = fused(archive.connection, "насос включает реле", Nearest(tuple(near), 4), 9, lambda ids: known & set(ids))
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


def test_a_query_without_a_word_is_answered_by_meaning(archive: Archive) -> None:
    assert archive.names("???", [archive.near("four.md", 0.9)], list(NOTES)) == ["four.md"]


def test_no_more_than_the_limit_is_returned(archive: Archive) -> None:
    near = [archive.near(name, 0.5) for name in NOTES]
    assert len(archive.names("насос реле", near, list(NOTES), limit=2)) == 2


@given(rank=RANK, other=RANK, share=st.floats(0.01, 1))
def test_those_without_a_vector_stand_to_each_other_as_by_words(rank: int, other: int, share: float) -> None:
    one, two = (score(Ranks(words, None, embedded=False), share) for words in (rank, other))
    assert (one > two) == (rank < other)


@given(rank=RANK, part=st.integers(1, 100))
def test_a_vector_that_agrees_with_the_words_changes_nothing(rank: int, part: int) -> None:
    words = 1 + (rank - 1) * part
    without = score(Ranks(words, None, embedded=False), 1 / part)
    assert score(Ranks(words, rank, embedded=True), 1 / part) == pytest.approx(without)


@given(words=RANK, meaning=RANK, share=st.floats(0.01, 1))
def test_a_better_rank_is_a_better_score_and_the_first_of_few_counts_no_more_than_the_first_of_all(
    words: int, meaning: int, share: float
) -> None:
    here = score(Ranks(words, meaning, embedded=True), share)
    assert here > score(Ranks(words + 1, meaning, embedded=True), share)
    assert here > score(Ranks(words, meaning + 1, embedded=True), share)
    assert here <= score(Ranks(words, meaning, embedded=True), 1.0)
    assert here > score(Ranks(words, None, embedded=True), share)
