"""Lemmas as vectors score as SQLite's full text does, and marks say what a filter asks."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.document import Kind
from quietmind.notes.filtering import Filter
from quietmind.notes.language import Language
from quietmind.notes.marks import Asked, Traits, asked, day_number, marks_of
from quietmind.notes.sparse import document_frequency_weight, lemma_number, passage_vector, query_vector

WEIGHTS = (2.0, 1.5, 1.0)
LEMMA = st.sampled_from(["насос", "реле", "pump", "x86_64", "req-12", "ель"])
COLUMN = st.lists(LEMMA, max_size=8).map(" ".join)
NUMBERS = [4026179875, 3046865383, 3468530954]
ROWS = st.lists(st.tuples(COLUMN, COLUMN, COLUMN), min_size=1, max_size=8)


def test_the_number_of_a_lemma_never_changes() -> None:
    """Collections on servers hold these numbers."""
    assert [lemma_number(lemma) for lemma in ("насос", "pump", "req-12")] == NUMBERS
    assert all(0 <= number < 2**32 for number in NUMBERS)


@given(rows=ROWS, query=st.lists(LEMMA, min_size=1, max_size=4, unique=True))
def test_the_product_of_vectors_is_the_bm25_of_the_full_text(
    rows: list[tuple[str, str, str]], query: list[str]
) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5 (a, b, c, tokenize = \"ascii tokenchars '_.-'\")")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    matching = " OR ".join(f'"{lemma}"' for lemma in query)
    expected = dict(
        connection.execute(
            "SELECT rowid, -bm25(t, 2.0, 1.5, 1.0) FROM t WHERE t MATCH ? ORDER BY rowid", (matching,)
        ).fetchall()
    )
    connection.close()
    held = [set(" ".join(columns).split()) for columns in rows]
    average = max(sum(len(" ".join(columns).split()) for columns in rows) / len(rows), 1e-9)
    wanted = query_vector(
        {
            lemma: document_frequency_weight(len(rows), sum(lemma in each for each in held))
            for lemma in query
            if any(lemma in each for each in held)
        }
    )
    for rowid, columns in enumerate(rows, 1):
        stored = passage_vector(columns, WEIGHTS, average)
        score = sum(weight * stored.get(number, 0.0) for number, weight in wanted.items())
        assert score == pytest.approx(expected.get(rowid, 0.0), rel=1e-6, abs=1e-12)


def test_lemmas_that_share_a_number_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quietmind.notes.sparse.lemma_number", lambda _: 7)
    assert list(passage_vector(("one", "", "two"), WEIGHTS, 2.0)) == [7]
    assert query_vector({"one": 1.0, "two": 0.5}) == {7: 1.5}


def _traits(path: str = "/notes/a/b.md", tags: tuple[str, ...] = (), speaker: str | None = None) -> Traits:
    return Traits(path.encode("utf-8", "surrogateescape"), "markdown", tags, ("ru",), speaker, date(2024, 5, 17))


@pytest.mark.parametrize(
    ("within", "has"),
    [
        (Filter(), True),
        (Filter(folders=(Path("/notes"),)), True),
        (Filter(folders=(Path("/notes/a/b.md"),)), True),
        (Filter(folders=(Path("/other"), Path("/notes/a"))), True),
        (Filter(folders=(Path("/not"),)), False),
        (Filter(tags=("garden",)), True),
        (Filter(tags=("garden/pump", "home")), True),
        (Filter(tags=("pump",)), False),
        (Filter(tags=("home", "away")), False),
        (Filter(languages=(Language("ru"),)), True),
        (Filter(languages=(Language("en"),)), False),
        (Filter(kinds=(Kind.TEXT, Kind.MARKDOWN)), True),
        (Filter(speakers=("Anna",)), True),
        (Filter(speakers=("anna",)), False),
        (Filter(since=date(2024, 5, 17), until=date(2024, 5, 17)), True),
        (Filter(since=date(2024, 5, 18)), False),
        (Filter(until=date(2024, 5, 16)), False),
    ],
)
def test_a_passage_has_the_marks_that_its_filters_ask_for(within: Filter, has: bool) -> None:
    traits = _traits(tags=("garden/pump", "home"), speaker="Anna")
    marks, wanted, day = set(marks_of(traits)), asked(within), day_number(traits.day)
    in_time = (wanted.first or day) <= day <= (wanted.last or day)
    assert (in_time and all(marks.intersection(group) for group in wanted.marks)) is has


def test_names_that_are_no_text_have_marks_too() -> None:
    strange = Path(b"/notes/\xff".decode("utf-8", "surrogateescape"))
    marks = marks_of(Traits(b"/notes/\xff/a.md", "text", (), (), "speaker\ud800", date.min))
    (group,) = asked(Filter(folders=(strange,))).marks
    assert set(group) <= set(marks)
    assert asked(None) == Asked()
