"""A citation is checked against the file as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.notes.document import Passage
from quietmind.notes.passages import passages
from quietmind.notes.reading import read_document
from quietmind.think.draft import cited
from quietmind.think.verify import Standing, Verifier, quoted_lines
from quietmind.workspace.pack import Given

NOTE = "# Tank\n\nThe tank holds 85 litres.\nIt is blue.\n\n## Lid\n\nThe lid is round.\n"
QUOTE = "The tank holds 85 litres."


@pytest.fixture
def note(tmp_path: Path) -> Path:
    file = tmp_path / "tank.md"
    file.write_text(NOTE, encoding="utf-8")
    return file


def holding(file: Path, words: str) -> Passage:
    return next(passage for passage in passages(read_document(file)) if words in passage.text)


def test_words_that_stand_where_they_were_are_verified(note: Path) -> None:
    assert Verifier().check(holding(note, QUOTE), QUOTE) == (Standing.VERIFIED, 3, 3)


def test_words_that_stand_beside_an_edit_are_verified_and_the_edit_is_said(note: Path) -> None:
    passage = holding(note, QUOTE)
    note.write_text(NOTE.replace("blue", "red"), encoding="utf-8")
    assert Verifier().check(passage, QUOTE) == (Standing.EDITED, 3, 3)


def test_words_that_moved_are_cited_at_their_new_lines(note: Path) -> None:
    passage = holding(note, QUOTE)
    note.write_text("A new first line.\n\n" + NOTE, encoding="utf-8")
    assert Verifier().check(passage, QUOTE) == (Standing.MOVED, 5, 5)


def test_words_that_no_longer_stand_in_the_file_are_not_verified(note: Path) -> None:
    passage = holding(note, QUOTE)
    note.write_text(NOTE.replace("85", "58"), encoding="utf-8")
    assert Verifier().check(passage, QUOTE)[0] is Standing.CHANGED


def test_a_file_that_has_gone_is_not_verified(note: Path) -> None:
    passage = holding(note, QUOTE)
    note.unlink()
    assert Verifier().check(passage, QUOTE)[0] is Standing.GONE


def test_a_quote_over_two_lines_names_both(note: Path) -> None:
    passage = holding(note, QUOTE)
    assert quoted_lines(passage, "85 litres.\nIt is blue.") == (3, 4)


def test_words_of_a_damaged_file_are_verified_through_the_repair(tmp_path: Path) -> None:
    text = "# Насосы\n\nНасос включается, когда влажность почвы ниже 32 %.\n"
    file = tmp_path / "насосы.md"
    file.write_text(text.encode("utf-8").decode("mac_roman"), encoding="utf-8")
    quote = "когда влажность почвы ниже 32 %"
    assert Verifier().check(holding(file, quote), quote) == (Standing.VERIFIED, 3, 3)


def test_words_of_a_page_are_held_against_its_text_as_it_was_indexed(tmp_path: Path) -> None:
    file = tmp_path / "tank.html"
    file.write_text(
        "<title>Tank</title><h1>Tank</h1><script>x</script><p>The tank <b>holds</b> 85 litres.", encoding="utf-8"
    )
    passage = holding(file, QUOTE)
    assert Verifier().check(passage, QUOTE) == (Standing.VERIFIED, 3, 3)
    file.write_text("<h1>Tank</h1><p>New.</p><p>The tank holds 85 litres.", encoding="utf-8")
    assert Verifier().check(passage, QUOTE) == (Standing.MOVED, 5, 5)
    file.write_text("<h1>Tank</h1><p>The tank holds 58 litres.", encoding="utf-8")
    assert Verifier().check(passage, QUOTE)[0] is Standing.CHANGED


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("manual.pdf", "page 3"),
        ("BOOK.EPUB", "Pumps > page 3"),
        ("note.md", None),
        ("note.org", None),
        ("pump.py", None),
    ],
)
def test_a_citation_names_the_page_where_lines_have_no_numbers(name: str, place: str | None) -> None:
    passage = Passage(Path("/notes") / name, 1, 1, QUOTE, "Title", ("Pumps", "page 3"))
    (citation,) = cited([], [Given(1, passage, 1.0, 10)], "How much does the tank hold?")
    assert citation.place == place
