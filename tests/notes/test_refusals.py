"""What is no note is read once: not again until the file, the program or the library that reads it is another."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quietmind.base.errors import ReaderAway
from quietmind.base.sqlite import connect
from quietmind.notes import formats, intake, reading
from quietmind.notes.census import census
from quietmind.notes.report import Report
from quietmind.notes.scan import Skipped
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import documents

if TYPE_CHECKING:
    from tests.notes.conftest import Archive

NO_TEXT = b"\x00\x01\x02\x03" * 64
NO_BOOK = b'{"cells": [{'


def list_of(skipped: Iterable[Skipped]) -> list[tuple[str, str]]:
    return [(skip.path.name, skip.reason) for skip in skipped]


def skipped_names(skipped: list[tuple[str, str]]) -> list[str]:
    return sorted(name for name, _ in skipped)


class Watched:
    """An archive with a note, in which files count as settled as soon as they are written, and what is read of it."""

    def __init__(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.connection, self.index, self.write = (
            archive.root,
            archive.connection,
            archive.index,
            archive.write,
        )
        self.read: list[str] = []
        real = reading.read_bytes

        def read(path: Path) -> object:
            self.read.append(path.name)
            return real(path)

        monkeypatch.setattr(intake, "SETTLED_AFTER_NS", -1)
        monkeypatch.setattr(intake, "read_bytes", read)
        self.write("good.md", "a note")

    def update(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the names of the files that were read, and those skipped with the reasons."""
        return self.took(self.index.update(self.root))

    def took(self, report: Report) -> tuple[list[str], list[tuple[str, str]]]:
        read, self.read = self.read, []
        return read, list_of(report.skipped)

    def remembered(self) -> list[str]:
        rows = self.connection.execute("SELECT path FROM refusals ORDER BY path")
        return [Path(os.fsdecode(path)).name for (path,) in rows]


@pytest.fixture
def watched(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(archive, monkeypatch)


def test_what_was_refused_is_not_read_again_and_still_told_of(watched: Watched) -> None:
    watched.write("dump.txt", NO_TEXT)
    watched.write("book.ipynb", NO_BOOK)
    read, skipped = watched.update()
    assert sorted(read) == ["book.ipynb", "dump.txt", "good.md"]
    assert skipped_names(skipped) == ["book.ipynb", "dump.txt"]
    assert all(reason for _, reason in skipped)
    assert watched.update() == ([], skipped)


def test_status_tells_what_was_refused_without_reading_it(watched: Watched) -> None:
    watched.write("dump.txt", NO_TEXT)
    watched.write("new.md", b"not indexed yet")
    (watched.root / "new.md").rename(watched.root.parent / "new.md")
    _, skipped = watched.update()
    (watched.root.parent / "new.md").rename(watched.root / "new.md")
    counted = census(watched.connection, watched.root)
    assert (list_of(counted.skipped), counted.new) == (skipped, 1)
    assert watched.read == []


def test_a_refused_file_that_changed_is_read_again(watched: Watched) -> None:
    path = watched.write("dump.txt", NO_TEXT)
    watched.update()
    path.write_bytes(b"now it is text")
    assert watched.update() == (["dump.txt"], [])
    assert watched.remembered() == []
    assert [entry.path.name for entry in documents(watched.connection)] == ["dump.txt", "good.md"]


def test_a_note_that_becomes_none_leaves_the_index_and_is_read_once(watched: Watched) -> None:
    watched.update()
    watched.write("good.md", NO_TEXT)
    watched.write("other.md", b"another")
    read, skipped = watched.update()
    assert (sorted(read), skipped_names(skipped)) == (["good.md", "other.md"], ["good.md"])
    assert [entry.path.name for entry in documents(watched.connection)] == ["other.md"]
    assert watched.update() == ([], skipped)


def test_a_file_that_may_still_be_written_to_is_read_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SETTLED_AFTER_NS", 10**12)
    watched.write("dump.txt", NO_TEXT)
    _, skipped = watched.update()
    assert skipped_names(list_of(census(watched.connection, watched.root).skipped)) == ["dump.txt"]
    read, again = watched.update()
    assert ("dump.txt" in read, again) == (True, skipped)


@pytest.mark.parametrize(("constant", "value"), [("READER_VERSION", 99), ("__version__", "99.0")])
def test_a_newer_program_tries_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, constant: str, value: object
) -> None:
    watched.write("dump.txt", NO_TEXT)
    watched.update()
    monkeypatch.setattr(intake, constant, value)
    assert "dump.txt" in watched.update()[0]
    assert watched.update()[0] == []


def test_another_version_of_a_library_reads_its_format_again_and_nothing_else(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("page.html", b"<p>text</p>")
    watched.write("dump.txt", NO_TEXT)
    watched.write("no.docx", NO_TEXT)
    watched.update()
    monkeypatch.setattr("quietmind.notes.formats.version", lambda package: "99")
    formats._versions.cache_clear()
    try:
        assert sorted(watched.update()[0]) == ["no.docx", "page.html"]
        assert watched.update()[0] == []
    finally:
        formats._versions.cache_clear()


def test_what_is_gone_is_forgotten(watched: Watched) -> None:
    for name in ("a.txt", "in/b.txt"):
        watched.write(name, NO_TEXT)
    watched.update()
    (watched.root / "a.txt").unlink()
    watched.update()
    assert watched.remembered() == ["b.txt"]
    watched.index.forget(watched.root)
    assert watched.remembered() == []


def test_a_part_that_is_looked_at_reads_no_refused_file_and_forgets_none(watched: Watched) -> None:
    first = watched.write("in/dump.txt", NO_TEXT)
    watched.write("dump.txt", NO_TEXT)
    watched.update()
    read, skipped = watched.took(watched.index.refresh(watched.root, [str(first.parent)]))
    assert (read, skipped_names(skipped)) == ([], ["dump.txt"])
    assert watched.remembered() == ["dump.txt", "dump.txt"]


def test_what_was_not_the_files_fault_is_tried_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    path = watched.write("page.html", b"<p>text</p>")
    watched.update()
    path.write_bytes(b"<p>other text</p>")

    def away(path: Path, data: bytes) -> object:
        raise ReaderAway(f"{path}: the process that reads such files does not start (Cannot allocate memory)")

    with monkeypatch.context() as patch:
        patch.setattr(intake, "parse", away)
        read, skipped = watched.update()
    assert (read, skipped_names(skipped)) == (["page.html"], ["page.html"])
    assert "page.html" in [entry.path.name for entry in documents(watched.connection)], "it stays as it was"
    assert watched.update() == (["page.html"], [])


def test_a_name_that_is_no_text_is_remembered_as_the_bytes_it_has(watched: Watched) -> None:
    name = os.fsdecode(b"\xff\xfe dump.txt")
    try:
        watched.write(name, NO_TEXT)
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    read, _ = watched.update()
    assert name in read
    assert watched.update()[0] == []


def test_an_archive_of_an_older_version_gets_what_remembers(tmp_path: Path) -> None:
    older = connect(tmp_path / "archive.db", MIGRATIONS[:-1])
    older.close()
    connection: sqlite3.Connection = connect(tmp_path / "archive.db", MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM refusals").fetchone() == (0,)
    connection.close()
