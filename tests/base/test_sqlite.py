"""Opening a database: migrations, transactions, and SQLite's errors in our words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from quietmind.base import sqlite
from quietmind.base.errors import ArchiveDamaged, ArchiveLocked, DiskFull, WorkspaceError
from quietmind.base.sqlite import Migration, connect, transaction, translate, translated

FIRST = Migration("first", ("CREATE TABLE notes (name TEXT)",))
SECOND = Migration("second", ("ALTER TABLE notes ADD COLUMN size INTEGER",))


def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    connect(file, [FIRST]).close()
    connection = connect(file, [FIRST, SECOND])
    connection.execute("INSERT INTO notes VALUES ('a', 1)")
    connection.close()
    again = connect(file, [FIRST, SECOND])
    assert again.execute("SELECT * FROM notes").fetchall() == [("a", 1)]
    again.close()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    broken = Migration("broken", ("CREATE TABLE half (x)", "CREATE TABLE nonsense ("))
    with pytest.raises(WorkspaceError):
        connect(file, [FIRST, broken])
    connection = sqlite3.connect(file)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "notes" in tables
    assert "half" not in tables


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    connect(file, [FIRST, SECOND]).close()
    with pytest.raises(ArchiveDamaged, match="newer quietmind"):
        connect(file, [FIRST])


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    file.write_bytes(b"my shopping list" * 100)
    with pytest.raises(ArchiveDamaged, match="your notes are not touched"):
        connect(file, [FIRST])
    assert file.read_bytes() == b"my shopping list" * 100


def test_a_second_writer_is_told_that_the_database_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOCK_WAIT_SECONDS", 0.05)
    file = tmp_path / "a.db"
    one, two = connect(file, [FIRST]), connect(file, [FIRST])
    with transaction(one), pytest.raises(ArchiveLocked, match="another process"), translated(file), transaction(two):
        pass
    one.close()
    two.close()


def test_a_full_disk_says_so_and_rolls_back(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    connection = connect(file, [FIRST])
    connection.execute("INSERT INTO notes VALUES ('kept')")
    connection.execute("PRAGMA max_page_count = 5")
    with pytest.raises(DiskFull, match="kept"), translated(file), transaction(connection):
        connection.execute("INSERT INTO notes VALUES (?)", ("x" * 100_000,))
    assert connection.execute("SELECT name FROM notes").fetchall() == [("kept",)]
    connection.close()


def test_every_error_of_sqlite_becomes_one_line_of_ours(tmp_path: Path) -> None:
    for code in range(1, 29):
        error = sqlite3.DatabaseError("something\nhappened")
        error.sqlite_errorcode = code
        ours = translate(error, tmp_path / "a.db")
        assert isinstance(ours, WorkspaceError)
        assert "\n" not in str(ours)
        assert "a.db" in str(ours)
