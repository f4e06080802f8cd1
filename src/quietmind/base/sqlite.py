"""One way to open a SQLite file: WAL, named migrations recorded in the transaction that made them, and every
SQLite error turned into one of ours.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from quietmind.base.errors import ArchiveDamaged, ArchiveLocked, DiskFull, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.base.units import MIB

LOCK_WAIT_SECONDS = 5.0
# SQLite sleeps through Ctrl-C while it waits for a lock, so it gets to wait for so long only, time and again.
_LOCK_LOOK_SECONDS = 0.1
_HARDLY_ANY_SPACE = MIB

_T = TypeVar("_T")


@dataclass(frozen=True)
class Migration:
    """A named step of a schema. Once released, neither its name nor its statements ever change."""

    name: str
    statements: tuple[str, ...]


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file at ``path`` into ours; see :func:`translate`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise translate(error, path) from error


def translate(error: sqlite3.DatabaseError, path: Path) -> WorkspaceError:
    """Return our error for what SQLite says about the file at ``path``."""
    shown = shown_path(path)
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None  # extended codes keep the primary one in the low byte
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ArchiveLocked(
            f"{shown}: another process is writing to it (waited {LOCK_WAIT_SECONDS:.0f} s); "
            "let the other command finish and try again"
        )
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _free_space(path) < _HARDLY_ANY_SPACE):
        return DiskFull(
            f"{shown}: the disk is full; free some space and run the same command again, what was done so far is kept"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ArchiveDamaged(
            f"{shown}: not a readable database ({error}); move it away and run `quietmind index` again, "
            "your notes are not touched"
        )
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        purpose = "for writing " if primary == sqlite3.SQLITE_READONLY else ""
        return WorkspaceError(f"{shown}: cannot be opened {purpose}({error}); check its permissions and its folder's")
    if primary == sqlite3.SQLITE_IOERR:
        return WorkspaceError(
            f"{shown}: could not be read or written ({error}); check the disk and its permissions and try again"
        )
    return WorkspaceError(f"{shown}: {error}")


def _free_space(path: Path) -> float:
    """Return the bytes that are free where ``path`` lies; infinity when that cannot be told."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return float("inf")


def database_exists(path: Path) -> bool:
    """Say whether there is something at ``path``. Raises WorkspaceError when that cannot be looked at."""
    try:
        return path.exists()
    except OSError as error:
        raise WorkspaceError(
            f"{shown_path(path)}: cannot be looked at ({error.strerror}); check the name and its permissions"
        ) from error


def connect(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection:
    """Open (or create) the database at ``path`` and bring its schema up to date.

    Transactions are explicit: nothing is written outside a ``with transaction(connection)`` block. A database that
    may only be read is opened for reading if its schema is up to date.
    Raises ArchiveLocked, ArchiveDamaged, DiskFull or WorkspaceError.
    """
    with translated(path):
        there = database_exists(path)
        if there and path.is_dir():
            raise WorkspaceError(f"{shown_path(path)}: is a folder where a database should be; move it away")
        if there and not _writable(path):
            return _connect_reading(path, migrations)
        connection = sqlite3.connect(path, timeout=_LOCK_LOOK_SECONDS, isolation_level=None)
        try:
            _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            # NORMAL: a killed process loses nothing; a power cut may lose the last commits, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    return connection


def _writable(path: Path) -> bool:
    """Say whether we may write to the database at ``path``, and to its journal beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _connect_reading(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection:
    """Open the database at ``path``, which we may not write to."""
    address = path.absolute().as_uri() + "?mode=ro"
    journal = path.with_name(f"{path.name}-wal")
    if not (journal.exists() and journal.stat().st_size):
        # All there is stands in the file itself, so SQLite need not make the index of a journal beside it.
        address += "&immutable=1"
    connection = sqlite3.connect(address, timeout=_LOCK_LOOK_SECONDS, isolation_level=None, uri=True)
    try:
        applied = _patiently(lambda: _applied(connection))
        _refuse_newer(applied, path, migrations)
        if len(applied) < len(migrations):
            raise WorkspaceError(
                f"{shown_path(path)}: was written by an older quietmind and has to be brought up to date, but may only "
                "be read; make it writable"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _patiently(action: Callable[[], _T]) -> _T:
    """Return what ``action`` returns, trying again while another process holds the lock, up to LOCK_WAIT_SECONDS."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    applied = _patiently(lambda: _applied(connection))
    _refuse_newer(applied, path, migrations)
    for migration in migrations:
        if migration.name in applied:
            continue
        with transaction(connection):
            connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at TEXT)")
            if migration.name in _applied(connection):  # another process was quicker
                continue
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, datetime('now'))", (migration.name,))


def _refuse_newer(applied: Sequence[str], path: Path, migrations: Sequence[Migration]) -> None:
    known = [migration.name for migration in migrations]
    foreign = [name for name in applied if name not in known]
    if foreign:
        raise ArchiveDamaged(
            f"{shown_path(path)}: was written by a newer quietmind (it knows {foreign[0]!r}, this one does not); "
            "update quietmind"
        )


def _applied(connection: sqlite3.Connection) -> list[str]:
    tables = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'")
    if tables.fetchone() is None:
        return []
    return [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY rowid")]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it. Takes the write lock at once, so that two writers queue, not clash."""
    _patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise
