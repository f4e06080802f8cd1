"""What is no note is read once: not again until the file, the program or the library that reads it is another."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import ReaderAway
from quietmind.base.sqlite import connect
from quietmind.notes import formats, intake, reading
from quietmind.notes.census import census
from quietmind.notes.index import Index
from quietmind.notes.report import Report
from quietmind.notes.scan import Skipped
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import documents

NO_TEXT = b"\x00\x01\x02\x03" * 64
NO_BOOK = b'{"cells": [{'


class Archive:
    """A folder of notes beside a database, and the names of all files that were read."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notes"
        self.root.mkdir()
        self.connection = connect(folder / "archive.db", MIGRATIONS)
        self.index = Index(self.connection, folder / "archive.db")
        self.read: list[str] = []
        self.write("good.md", b"a note")

    def write(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def update(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the names of the files that were read, and those skipped with the reasons."""
        return self.took(self.index.update(self.root))

    def took(self, report: Report) -> tuple[list[str], list[tuple[str, str]]]:
        read, self.read = self.read, []
        return read, list_of(report.skipped)

    def remembered(self) -> list[str]:
        rows = self.connection.execute("SELECT path FROM refusals ORDER BY path")
        return [Path(os.fsdecode(path)).name for (path,) in rows]


def list_of(skipped: Iterable[Skipped]) -> list[tuple[str, str]]:
    return [(skip.path.name, skip.reason) for skip in skipped]


def skipped_names(skipped: list[tuple[str, str]]) -> list[str]:
    return sorted(name for name, _ in skipped)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """One in which files count as settled as soon as they are written."""
    archive = Archive(tmp_path)

    def reading_of(real: Callable[[Path], object]) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            archive.read.append(path.name)
            return real(path)

        return read

    monkeypatch.setattr(intake, "SETTLED_AFTER_NS", -1)
    monkeypatch.setattr(intake, "read_bytes", reading_of(reading.read_bytes))
    yield archive
    archive.connection.close()


def test_what_was_refused_is_not_read_again_and_still_told_of(archive: Archive) -> None:
    archive.write("dump.txt", NO_TEXT)
    archive.write("book.ipynb", NO_BOOK)
    read, skipped = archive.update()
    assert sorted(read) == ["book.ipynb", "dump.txt", "good.md"]
    assert skipped_names(skipped) == ["book.ipynb", "dump.txt"]
    assert all(reason for _, reason in skipped)
    assert archive.update() == ([], skipped)


def test_status_tells_what_was_refused_without_reading_it(archive: Archive) -> None:
    archive.write("dump.txt", NO_TEXT)
    archive.write("new.md", b"not indexed yet")
    (archive.root / "new.md").rename(archive.root.parent / "new.md")
    _, skipped = archive.update()
    (archive.root.parent / "new.md").rename(archive.root / "new.md")
    counted = census(archive.connection, archive.root)
    assert (list_of(counted.skipped), counted.new) == (skipped, 1)
    assert archive.read == []


def test_a_refused_file_that_changed_is_read_again(archive: Archive) -> None:
    path = archive.write("dump.txt", NO_TEXT)
    archive.update()
    path.write_bytes(b"now it is text")
    assert archive.update() == (["dump.txt"], [])
    assert archive.remembered() == []
    assert [entry.path.name for entry in documents(archive.connection)] == ["dump.txt", "good.md"]


def test_a_note_that_becomes_none_leaves_the_index_and_is_read_once(archive: Archive) -> None:
    archive.update()
    archive.write("good.md", NO_TEXT)
    archive.write("other.md", b"another")
    read, skipped = archive.update()
    assert (sorted(read), skipped_names(skipped)) == (["good.md", "other.md"], ["good.md"])
    assert [entry.path.name for entry in documents(archive.connection)] == ["other.md"]
    assert archive.update() == ([], skipped)


def test_a_file_that_may_still_be_written_to_is_read_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SETTLED_AFTER_NS", 10**12)
    archive.write("dump.txt", NO_TEXT)
    _, skipped = archive.update()
    assert skipped_names(list_of(census(archive.connection, archive.root).skipped)) == ["dump.txt"]
    read, again = archive.update()
    assert ("dump.txt" in read, again) == (True, skipped)


@pytest.mark.parametrize(("constant", "value"), [("READER_VERSION", 99), ("__version__", "99.0")])
def test_a_newer_program_tries_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, constant: str, value: object
) -> None:
    archive.write("dump.txt", NO_TEXT)
    archive.update()
    monkeypatch.setattr(intake, constant, value)
    assert "dump.txt" in archive.update()[0]
    assert archive.update()[0] == []


def test_another_version_of_a_library_reads_its_format_again_and_nothing_else(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write("page.html", b"<p>text</p>")
    archive.write("dump.txt", NO_TEXT)
    archive.write("no.docx", NO_TEXT)
    archive.update()
    monkeypatch.setattr("quietmind.notes.formats.version", lambda package: "99")
    formats._versions.cache_clear()
    try:
        assert sorted(archive.update()[0]) == ["no.docx", "page.html"]
        assert archive.update()[0] == []
    finally:
        formats._versions.cache_clear()


def test_what_is_gone_is_forgotten(archive: Archive) -> None:
    for name in ("a.txt", "in/b.txt"):
        archive.write(name, NO_TEXT)
    archive.update()
    (archive.root / "a.txt").unlink()
    archive.update()
    assert archive.remembered() == ["b.txt"]
    archive.index.forget(archive.root)
    assert archive.remembered() == []


def test_a_part_that_is_looked_at_reads_no_refused_file_and_forgets_none(archive: Archive) -> None:
    first = archive.write("in/dump.txt", NO_TEXT)
    archive.write("dump.txt", NO_TEXT)
    archive.update()
    read, skipped = archive.took(archive.index.refresh(archive.root, [str(first.parent)]))
    assert (read, skipped_names(skipped)) == ([], ["dump.txt"])
    assert archive.remembered() == ["dump.txt", "dump.txt"]


def test_what_was_not_the_files_fault_is_tried_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive.write("page.html", b"<p>text</p>")
    archive.update()
    path.write_bytes(b"<p>other text</p>")

    def away(path: Path, data: bytes) -> object:
        raise ReaderAway(f"{path}: the process that reads such files does not start (Cannot allocate memory)")

    with monkeypatch.context() as patch:
        patch.setattr(intake, "parse", away)
        read, skipped = archive.update()
    assert (read, skipped_names(skipped)) == (["page.html"], ["page.html"])
    assert "page.html" in [entry.path.name for entry in documents(archive.connection)], "it stays as it was"
    assert archive.update() == (["page.html"], [])


def test_a_name_that_is_no_text_is_remembered_as_the_bytes_it_has(archive: Archive) -> None:
    name = os.fsdecode(b"\xff\xfe dump.txt")
    try:
        archive.write(name, NO_TEXT)
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    read, _ = archive.update()
    assert name in read
    assert archive.update()[0] == []


def test_an_archive_of_an_older_version_gets_what_remembers(tmp_path: Path) -> None:
    older = connect(tmp_path / "archive.db", MIGRATIONS[:-1])
    older.close()
    connection: sqlite3.Connection = connect(tmp_path / "archive.db", MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM refusals").fetchone() == (0,)
    connection.close()
