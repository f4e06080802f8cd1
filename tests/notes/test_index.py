"""The index follows the files, and survives whatever happens to it meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quietmind.base.errors import ArchiveLocked, DiskFull, NotesError, QuietmindError
from quietmind.base.sqlite import connect
from quietmind.notes import index as index_module
from quietmind.notes import intake, reading
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import documents, search

if TYPE_CHECKING:
    from tests.notes.conftest import Archive


def content(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """All that the index says of the files, without its own numbers."""
    return connection.execute(
        "SELECT path, d.title, kind, encoding, sha256, first_line, last_line, p.heading, speaker, text,"
        " l.title, l.heading, l.body FROM documents d JOIN passages p ON p.document = d.id"
        " JOIN lemmas l ON l.rowid = p.id ORDER BY path, first_line"
    ).fetchall()


def counts(archive: Archive, root: Path | None = None) -> tuple[int, int, int, int]:
    report = archive.index.update(root or archive.root)
    return report.added, report.changed, report.removed, report.unchanged


def test_an_update_touches_only_what_changed(archive: Archive) -> None:
    archive.write("a.md", "# Альфа\n\nпервая заметка\n")
    archive.write("b.md", "# Бета\n\nвторая заметка\n")
    archive.write("c.md", "# Гамма\n\nтретья заметка\n")
    assert counts(archive) == (3, 0, 0, 0)
    assert counts(archive) == (0, 0, 0, 3)
    archive.write("a.md", "# Альфа\n\nпереписанная заметка\n")
    (archive.root / "b.md").unlink()
    archive.write("d.md", "новая")
    assert counts(archive) == (1, 1, 1, 1)
    assert archive.names() == ["notes/a.md", "notes/c.md", "notes/d.md"]
    assert archive.found("переписанные") == ["a.md"]
    assert archive.found("первый") == []
    assert archive.found("бета") == []


def test_a_change_of_the_same_size_right_after_indexing_is_seen(archive: Archive) -> None:
    path = archive.write("a.md", "кошка")
    state = path.stat()
    archive.index.update(archive.root)
    path.write_bytes("мышка".encode())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert counts(archive) == (0, 1, 0, 0)
    assert archive.found("мышки") == ["a.md"]


def test_an_old_file_with_the_same_state_is_not_read_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.write("a.md", "текст")
    monkeypatch.setattr(intake, "SETTLED_AFTER_NS", -1)
    archive.index.update(archive.root)

    def unexpected(path: Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(intake, "read_bytes", unexpected)
    assert counts(archive) == (0, 0, 0, 1)


def test_a_touched_file_with_the_same_bytes_is_unchanged(archive: Archive) -> None:
    path = archive.write("a.md", "текст")
    archive.index.update(archive.root)
    os.utime(path, (1, 1))
    assert counts(archive) == (0, 0, 0, 1)


def test_a_renamed_file_is_found_under_its_new_name_only(archive: Archive) -> None:
    archive.write("old.md", "неизменные слова").rename(archive.root / "new.md")
    archive.write("old.md", "x")
    archive.index.update(archive.root)
    (archive.root / "new.md").rename(archive.root / "newer.md")
    assert counts(archive) == (1, 0, 1, 1)
    assert archive.found("слово") == ["newer.md"]


def test_names_of_any_bytes_are_kept(archive: Archive) -> None:
    raw = os.fsencode(archive.root) + b"/\xef\xf0 \n\xe8.md"
    with open(raw, "wb") as file:  # noqa: PTH123 - a Path takes no bytes
        file.write("странное имя".encode())
    assert counts(archive) == (1, 0, 0, 0)
    assert counts(archive) == (0, 0, 0, 1)
    (hit,) = search(archive.connection, "имена")
    assert os.fsencode(hit.passage.path) == raw


def test_bad_files_are_reported_in_one_line_each_and_the_others_indexed(archive: Archive) -> None:
    archive.write("good.md", "хорошая заметка")
    archive.write("picture.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    archive.write("old.txt", "старая заметка на русском".encode("cp1251"))
    archive.write("gone.md", "x").unlink()
    (archive.root / "gone.md").symlink_to(archive.root / "nowhere")
    with archive.write("huge.md", b"").open("r+b") as file:
        file.truncate(200 << 20)
    report = archive.index.update(archive.root)
    assert report.added == 2
    assert [(skip.path.name, "\n" in skip.reason) for skip in report.skipped] == [
        ("gone.md", False),
        ("huge.md", False),
        ("picture.md", False),
    ]
    assert report.skipped[2].reason == "binary, not text (it holds zero bytes); it is left out"
    assert [(other.path.name, other.encoding) for other in report.other_encodings] == [("old.txt", "cp1251")]


def test_repairs_are_reported_and_the_file_keeps_its_bytes(archive: Archive) -> None:
    broken = "Привет, это заметка\nplain".encode().decode("mac_roman").encode()
    path = archive.write("a.md", broken)
    report = archive.index.update(archive.root)
    assert [(r.path.name, r.lines, r.codec) for r in report.repaired] == [("a.md", 1, "mac_roman")]
    assert path.read_bytes() == broken
    assert archive.found("заметки") == ["a.md"]
    assert [entry.repaired_lines for entry in documents(archive.connection)] == [1]


def test_a_file_that_becomes_binary_leaves_the_index(archive: Archive) -> None:
    archive.write("a.md", "слова")
    archive.write("b.md", "другие")
    archive.index.update(archive.root)
    archive.write("a.md", b"\0\0\0")
    assert counts(archive) == (0, 0, 1, 1)
    assert archive.found("слово") == []


def test_a_file_that_cannot_be_read_now_stays_as_it_was(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.write("a.md", "слова")
    archive.write("b.md", "другие")
    archive.index.update(archive.root)
    archive.write("a.md", "новые")
    real = reading.read_bytes

    def refusing(path: Path) -> object:
        if path.name == "a.md":
            raise NotesError(f"{path}: cannot be read (Permission denied)")
        return real(path)

    monkeypatch.setattr(intake, "read_bytes", refusing)
    report = archive.index.update(archive.root)
    assert (report.removed, [skip.path.name for skip in report.skipped]) == (0, ["a.md"])
    assert archive.found("слово") == ["a.md"]


def test_a_place_spares_itself_and_what_lies_in_it_only() -> None:
    places = {"/notes/a", "/notes/b.md"}
    assert [
        index_module._at_or_in(path, places)
        for path in ("/notes/a", "/notes/a/deep/c.md", "/notes/b.md", "/notes/ab/c.md", "/notes", "/", "/notes/b.md.md")
    ] == [True, True, True, False, False, False, False]
    assert index_module._at_or_in("/anything", {"/"})


def test_roots_live_side_by_side(archive: Archive, tmp_path: Path) -> None:
    other = tmp_path / "notes-other"
    other.mkdir()
    (other / "o.md").write_text("другой корень")
    archive.write("a.md", "первый корень")
    archive.index.update(archive.root)
    archive.index.update(other)
    assert archive.index.roots() == [archive.root, other]
    (archive.root / "a.md").rename(archive.root / "b.md")
    assert counts(archive) == (1, 0, 1, 0)
    assert archive.names() == ["notes-other/o.md", "notes/b.md"]


def test_nested_roots_hold_each_document_once(archive: Archive) -> None:
    archive.write("a.md", "x")
    archive.write("in/b.md", "x")
    archive.write(".hidden/c.md", "x")
    for root in [archive.root / "in", archive.root, archive.root / ".hidden", archive.root]:
        archive.index.update(root)
    assert archive.names() == ["notes/.hidden/c.md", "notes/a.md", "notes/in/b.md"]
    (archive.root / "in" / "b.md").rename(archive.root / "in" / "d.md")
    archive.index.update(archive.root)
    assert archive.names() == ["notes/.hidden/c.md", "notes/a.md", "notes/in/d.md"]


def test_a_root_that_vanished_or_is_empty_keeps_its_documents(archive: Archive) -> None:
    archive.write("a.md", "слова")
    archive.index.update(archive.root)
    away = archive.root.rename(archive.root.with_name("away"))
    with pytest.raises(NotesError):
        archive.index.update(archive.root)
    archive.root.mkdir()
    with pytest.raises(NotesError):
        archive.index.update(archive.root)
    assert archive.found("слово") == ["a.md"]
    archive.root.rmdir()
    away.rename(archive.root)
    assert counts(archive) == (0, 0, 0, 1)


def test_a_link_to_the_root_is_the_root(archive: Archive, tmp_path: Path) -> None:
    archive.write("a.md", "x")
    (tmp_path / "link").symlink_to(archive.root)
    archive.index.update(archive.root)
    assert counts(archive, tmp_path / "link") == (0, 0, 0, 1)
    assert archive.index.roots() == [archive.root]


@pytest.mark.parametrize("constant", ["READER_VERSION", "CUTTER_VERSION", "LEMMA_VERSION"])
def test_a_newer_reader_cutter_or_lemmatizer_reads_everything_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    archive.write("a.md", "x")
    archive.index.update(archive.root)
    monkeypatch.setattr(intake, constant, 99)
    assert counts(archive) == (0, 1, 0, 0)
    assert counts(archive) == (0, 0, 0, 1)


def test_a_full_disk_is_one_line_and_what_was_done_stays(archive: Archive) -> None:
    for number in range(60):
        archive.write(f"{number:02}.md", f"заметка {number}\n" + "разные слова " * 300)
    archive.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = archive.connection.execute("PRAGMA page_count").fetchone()[0]
    archive.connection.execute(f"PRAGMA max_page_count = {pages + 60}")
    index = Index(archive.connection, archive.database, batch_seconds=0)
    with pytest.raises(DiskFull) as caught:
        index.update(archive.root)
    assert "\n" not in str(caught.value)
    kept = len(documents(archive.connection))
    assert 0 < kept < 60
    check_is_possible = archive.connection.execute("PRAGMA max_page_count = 1000000")
    check_is_possible.fetchone()
    assert counts(archive) == (60 - kept, 0, 0, kept)


def test_a_locked_database_is_one_line(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.write("a.md", "x")
    archive.connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(archive.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ArchiveLocked) as caught:
        archive.index.update(archive.root)
    assert "\n" not in str(caught.value)
    other.execute("ROLLBACK")
    other.close()
    assert counts(archive) == (1, 0, 0, 0)


def test_two_updates_at_once_do_not_duplicate(archive: Archive, tmp_path: Path) -> None:
    archive.write("a.md", "x")
    second = connect(archive.database, MIGRATIONS)
    real: Callable[[Path], object] = reading.read_bytes
    ran = False

    def meanwhile(path: Path) -> object:
        nonlocal ran
        if not ran:
            ran = True
            Index(second, archive.database).update(archive.root)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "read_bytes", meanwhile)
        archive.index.update(archive.root)
    second.close()
    assert archive.names() == ["notes/a.md"]


def test_an_interrupt_leaves_a_sound_database(archive: Archive) -> None:
    for number in range(20):
        archive.write(f"{number:02}.md", f"заметка {number}")

    class Interrupting:
        done = 0

        def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
            pass

        def advance(self, amount: int = 1) -> None:
            self.done += amount
            if self.done == 10:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index(archive.connection, archive.database, batch_seconds=0).update(archive.root, Interrupting())
    assert len(archive.names()) == 9
    assert counts(archive) == (11, 0, 0, 9)


CHILD = """
import os, signal, sys
from pathlib import Path
from quietmind.base.sqlite import connect
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
database, root, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
connection = connect(database, MIGRATIONS)
def step():
    global steps
    steps -= 1
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
connection.set_progress_handler(step, 10)  # called inside of SQLite's own work: in the middle of a transaction
Index(connection, database, batch_seconds=0.02).update(root)
"""


def test_killing_it_anywhere_loses_nothing(archive: Archive, tmp_path: Path) -> None:
    for number in range(300):
        text = f"# Заметка {number}\n\n" + f"слово{number} и текст о поливе теплиц\n\n" * 30
        archive.write(f"{number % 7}/{number}.md", text)
    sizes = [0]
    for steps in [30, 400, 800, 801, 1100]:
        command = [sys.executable, "-c", CHILD, str(archive.database), str(archive.root), str(steps)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        archive.check()
        sizes.append(len(documents(archive.connection)))
    assert sizes == sorted(sizes), "a kill lost documents that had been written"
    assert 0 < sizes[-1] < 300, "nothing was written, or all of it, before the last kill"
    report = archive.index.update(archive.root)
    assert (report.added, report.unchanged) == (300 - sizes[-1], sizes[-1])
    clean = connect(tmp_path / "clean.db", MIGRATIONS)
    Index(clean, tmp_path / "clean.db").update(archive.root)
    assert content(archive.connection) == content(clean)
    clean.close()


def test_killing_it_from_outside_loses_nothing(archive: Archive) -> None:
    for number in range(200):
        archive.write(f"{number}.md", f"слово{number} и текст о поливе теплиц\n\n" * 30)
    for delay in [0.3, 0.5]:
        command = [sys.executable, "-c", CHILD, str(archive.database), str(archive.root), "0"]
        with subprocess.Popen(command) as child:
            time.sleep(delay)
            child.kill()
        archive.check()
    report = archive.index.update(archive.root)
    assert report.added + report.unchanged == 200


def test_errors_of_the_database_never_escape_as_they_are(archive: Archive) -> None:
    archive.write("a.md", "x")
    archive.index.update(archive.root)
    copy = archive.root.parent / "copy.db"
    archive.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(archive.database, copy)
    data = bytearray(copy.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    copy.write_bytes(data)
    with pytest.raises(QuietmindError), closing(connect(copy, MIGRATIONS)) as connection:
        Index(connection, copy).update(archive.root)


def test_a_forgotten_root_takes_its_notes_along(archive: Archive) -> None:
    archive.write("a.md", "слова")
    other = archive.root.parent / "other"
    other.mkdir()
    (other / "b.md").write_text("другие слова", encoding="utf-8")
    archive.index.update(archive.root)
    archive.index.update(other)
    forgotten = archive.index.forget(archive.root)
    assert (forgotten.root, forgotten.removed, forgotten.kept) == (archive.root, 1, 0)
    assert archive.found("слово") == ["b.md"]
    assert archive.index.roots() == [other]


def test_a_root_is_forgotten_when_its_folder_is_gone(archive: Archive) -> None:
    archive.write("a.md", "слова")
    archive.index.update(archive.root)
    shutil.rmtree(archive.root)
    with pytest.raises(NotesError, match=r"no such folder; .*quietmind index .*notes --forget"):
        archive.index.update(archive.root)
    assert archive.index.forget(archive.root).removed == 1
    assert archive.names() == []


def test_a_root_without_notes_any_more_says_how_to_forget_it(archive: Archive) -> None:
    note = archive.write("a.md", "слова")
    archive.index.update(archive.root)
    note.unlink()
    with pytest.raises(NotesError, match=r"holds no notes.*--forget"):
        archive.index.update(archive.root)
    assert archive.names() == ["notes/a.md"]


def test_what_another_root_reaches_stays_when_one_is_forgotten(archive: Archive) -> None:
    for name in ("in/a.md", "in/.hidden/b.md", "c.md"):
        archive.write(name, "слова")
    archive.index.update(archive.root)
    archive.index.update(archive.root / "in")
    archive.index.update(archive.root / "in/.hidden")
    forgotten = archive.index.forget(archive.root / "in")
    assert (forgotten.removed, forgotten.kept) == (0, 2)
    # The walk of the outer root does not enter the hidden folder: nobody would ever look at its notes again.
    forgotten = archive.index.forget(archive.root / "in/.hidden")
    assert (forgotten.removed, forgotten.kept) == (1, 0)
    assert archive.names() == ["notes/c.md", "notes/in/a.md"]


def test_only_what_is_indexed_is_forgotten(archive: Archive) -> None:
    archive.write("in/a.md", "слова")
    archive.index.update(archive.root)
    with pytest.raises(NotesError, match=r"not among the indexed folders; these are: .*notes"):
        archive.index.forget(archive.root / "in")
    assert archive.names() == ["notes/in/a.md"]
