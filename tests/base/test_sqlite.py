"""Opening a database: migrations, transactions, and SQLite's errors in our words."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from quietmind.base import sqlite
from quietmind.base.errors import ArchiveDamaged, ArchiveLocked, DiskFull, WorkspaceError
from quietmind.base.sqlite import Migration, connect, database_exists, transaction, translate, translated

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


def test_the_journal_is_written_ahead_so_that_readers_never_wait(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with closing(connect(file, [FIRST])) as writer, closing(connect(file, [FIRST])) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        with transaction(writer):
            writer.execute("INSERT INTO notes VALUES ('a')")
            assert reader.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_a_commit_that_fails_ends_its_transaction(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with closing(connect(file, [FIRST])) as connection:
        connection.execute("CREATE TABLE parts (whole INTEGER REFERENCES wholes (id) DEFERRABLE INITIALLY DEFERRED)")
        connection.execute("CREATE TABLE wholes (id INTEGER PRIMARY KEY)")
        with pytest.raises(WorkspaceError), translated(file), transaction(connection):
            connection.execute("INSERT INTO parts VALUES (7)")  # only COMMIT finds that there is no whole 7
        assert not connection.in_transaction
        with transaction(connection):
            connection.execute("INSERT INTO notes VALUES ('a')")


def test_a_failing_disk_is_full_only_when_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR | (3 << 8)  # SQLITE_IOERR_WRITE
    ours = translate(error, tmp_path / "a.db")
    assert not isinstance(ours, DiskFull)
    assert "check the disk" in str(ours)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 4096))
    assert isinstance(translate(error, tmp_path / "a.db"), DiskFull)


def test_a_folder_in_the_databases_place_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    with pytest.raises(WorkspaceError, match="is a folder where a database should be"):
        connect(tmp_path / "a.db", [FIRST])


def test_a_place_that_cannot_be_looked_at_is_one_line(tmp_path: Path) -> None:
    assert not database_exists(tmp_path / "a.db")
    with pytest.raises(WorkspaceError, match="cannot be looked at"):
        database_exists(tmp_path / ("x" * 5000) / "a.db")


@contextmanager
def only_readable(folder: Path) -> Iterator[None]:
    """Let nobody write to ``folder`` and its files; root, who may all the same, becomes somebody else."""
    everything = [folder, *folder.iterdir()]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222 | 0o444)
    was_root = os.getuid() == 0
    if was_root:
        for path in folder.parents:
            if path.owner() != "root" or path.stat().st_mode & 0o005 != 0o005:
                path.chmod(path.stat().st_mode | 0o055)
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if was_root:
            os.setresuid(0, 0, 0)
        for path in everything:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="permissions of Linux")
def test_a_database_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    folder.mkdir()
    file = folder / "a.db"
    with closing(connect(file, [FIRST])) as connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
    with only_readable(folder):
        with closing(connect(file, [FIRST])) as connection:
            assert connection.execute("SELECT name FROM notes").fetchall() == [("kept",)]
            with pytest.raises(WorkspaceError, match="cannot be opened for writing"), translated(file):
                connection.execute("INSERT INTO notes VALUES ('more')")
        with pytest.raises(WorkspaceError, match="make it writable"):
            connect(file, [FIRST, SECOND])
        with pytest.raises(ArchiveDamaged, match="newer quietmind"):
            connect(file, [SECOND])
        assert [path.name for path in folder.iterdir()] == ["a.db"]


WAITING = """
import sys
from pathlib import Path
from quietmind.base.sqlite import Migration, connect, transaction
connection = connect(Path(sys.argv[1]), [Migration("first", ("CREATE TABLE notes (name TEXT)",))])
print("waits", flush=True)
try:
    with transaction(connection):
        pass
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a child")
def test_ctrl_c_is_heard_while_waiting_for_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with closing(connect(file, [FIRST])) as connection, transaction(connection):
        child = subprocess.Popen([sys.executable, "-c", WAITING, str(file)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"waits\n"
            time.sleep(0.3)  # so that it waits indeed
            asked = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 130
            assert time.monotonic() - asked < 1.5
        finally:
            child.kill()
            child.communicate()
