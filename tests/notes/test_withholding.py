"""Words that are withheld are not found while they are, and nothing of that stays."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quietmind.base.sqlite import connect
from quietmind.notes.known_items import Item, Source, items_of
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import search
from quietmind.notes.withholding import notes_in_index, numbered, said_elsewhere, withheld

if TYPE_CHECKING:
    from tests.notes.conftest import Archive

REST = "Other lines go on about oil and rust for long enough, so that something is left to find the note by.\n" * 3
NOTES = {
    "valve.md": f"# Turning the valve\n\nWe keep a brass key behind the door for it.\n\n{REST}\n## Oil\n\nDrip {REST}",
    "contents.md": "# Contents\n\n1. [Turning the valve](valve.md)\n2. Another one\n",
    "other.md": "# Another one\n\nThe valve is turning.\n",
}


@pytest.fixture
def archive(archive: Archive) -> sqlite3.Connection:
    for name, text in NOTES.items():
        archive.write(name, text)
    archive.update()
    return archive.connection


def an_item(connection: sqlite3.Connection, source: Source) -> Item:
    (path,) = [note.path for note in notes_in_index(connection) if note.below_root == b"/valve.md"]
    (item,) = [item for item in items_of([*numbered(connection, path).values()]) if item.source is source]
    return item


def names(connection: sqlite3.Connection, query: str) -> list[str]:
    return [hit.passage.path.name for hit in search(connection, query)]


def dump(connection: sqlite3.Connection) -> list[str]:
    return list(connection.iterdump())


def test_a_title_is_not_found_while_it_is_withheld(archive: sqlite3.Connection) -> None:
    item, before = an_item(archive, Source.TITLE), dump(archive)
    assert names(archive, item.query)[0] == "valve.md"
    with withheld(archive, item):
        assert "valve.md" not in names(archive, item.query)
        assert names(archive, "brass key") == ["valve.md"]
        (hit,) = search(archive, "brass key")
        assert (hit.passage.title, hit.passage.heading) == ("", ())
    assert dump(archive) == before
    assert names(archive, item.query)[0] == "valve.md"


def test_a_sentence_is_not_found_while_it_is_withheld(archive: sqlite3.Connection) -> None:
    item = an_item(archive, Source.OPENING)
    assert names(archive, "brass key") == ["valve.md"]
    with withheld(archive, item):
        assert names(archive, "brass key") == []
        assert names(archive, "turning valve")[0] == "valve.md"
    assert names(archive, "brass key") == ["valve.md"]


def test_what_fails_in_between_leaves_nothing_behind(archive: sqlite3.Connection) -> None:
    before = dump(archive)
    with pytest.raises(ZeroDivisionError), withheld(archive, an_item(archive, Source.TITLE)):
        raise ZeroDivisionError
    assert dump(archive) == before
    assert not archive.in_transaction


def test_others_read_the_words_all_the_while_and_the_file_stays_as_it_is(
    archive: sqlite3.Connection, tmp_path: Path
) -> None:
    archive.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = {file: file.read_bytes() for file in tmp_path.glob("archive.db*") if not file.name.endswith("-shm")}
    with (
        closing(connect(tmp_path / "archive.db", MIGRATIONS)) as other,
        withheld(archive, an_item(archive, Source.OPENING)),
    ):
        assert names(other, "brass key") == ["valve.md"]
    assert {file: file.read_bytes() for file in files} == files


def test_what_others_say_word_for_word_is_told(archive: sqlite3.Connection) -> None:
    item = an_item(archive, Source.TITLE)
    assert {(path.name, line) for path, line in said_elsewhere(archive, item, 5) or ()} == {("contents.md", 1)}
    assert said_elsewhere(archive, item, 0) is None
    assert said_elsewhere(archive, an_item(archive, Source.OPENING), 0) == set()
