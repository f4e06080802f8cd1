"""One way to open a SQLite file: WAL, named migrations recorded in the transaction that made them, and every
SQLite error turned into one of ours.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import ArchiveDamaged, ArchiveLocked, DiskFull, WorkspaceError
from quietmind.base.paths import shown_path

LOCK_WAIT_SECONDS = 5.0


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
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(
            f"{shown}: the disk is full; free some space and run the same command again, what was done so far is kept"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ArchiveDamaged(
            f"{shown}: not a readable database ({error}); move it away and run `quietmind index` again, "
            "your notes are not touched"
        )
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return WorkspaceError(f"{shown}: cannot be opened for writing ({error}); check its permissions")
    return WorkspaceError(f"{shown}: {error}")


def connect(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection:
    """Open (or create) the database at ``path`` and bring its schema up to date.

    Transactions are explicit: nothing is written outside a ``with transaction(connection)`` block.
    Raises ArchiveLocked, ArchiveDamaged, DiskFull or WorkspaceError.
    """
    with translated(path):
        connection = sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL: a killed process loses nothing; a power cut may lose the last commits, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    applied = _applied(connection)
    known = [migration.name for migration in migrations]
    foreign = [name for name in applied if name not in known]
    if foreign:
        raise ArchiveDamaged(
            f"{shown_path(path)}: was written by a newer quietmind (it knows {foreign[0]!r}, this one does not); "
            "update quietmind"
        )
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


def _applied(connection: sqlite3.Connection) -> list[str]:
    tables = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'")
    if tables.fetchone() is None:
        return []
    return [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY rowid")]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it. Takes the write lock at once, so that two writers queue, not clash."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
