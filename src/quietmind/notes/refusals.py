"""Files that were read once and are no notes: remembered with the reason, so that they are not read again and again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from quietmind.notes.formats import ending_of
from quietmind.notes.intake import Refused, refused_by
from quietmind.notes.reading import FileState
from quietmind.notes.scan import Found, Skipped


class Refusals:
    """Those of an archive whose paths lie from ``first`` up to but not ``end``, as the database orders them."""

    def __init__(self, connection: sqlite3.Connection, first: bytes, end: bytes) -> None:
        self._connection = connection
        rows = connection.execute("SELECT * FROM refusals WHERE path >= ? AND path < ?", (first, end))
        by = cache(refused_by)
        self._known = {
            path: (Refused(path, FileState(*state), bool(settled), reason), maker == by(ending_of(path)))
            for path, *state, settled, maker, reason in ((os.fsdecode(first), *rest) for first, *rest in rows)
        }

    def standing(self, files: Iterable[Found], *, proven: bool = True) -> tuple[list[Found], list[Skipped]]:
        """Return those of ``files`` of which nothing stands, and why the others were refused.

        ``proven``: only what the state of a file proves stands, not what was read right after it was written.
        """
        to_read: list[Found] = []
        refused: list[Skipped] = []
        for found in files:
            known, current = self._known.get(found.path, (None, False))
            if known is not None and current and known.state == found.state and (known.settled or not proven):
                refused.append(Skipped(Path(found.path), known.reason))
            else:
                to_read.append(found)
        return to_read, refused

    def beyond(self, paths: Iterable[str]) -> list[str]:
        """Return the paths that are remembered and not among ``paths``."""
        return sorted(self._known.keys() - set(paths))


def remember(connection: sqlite3.Connection, refused: Refused) -> None:
    """Remember what was refused. Call it inside a transaction."""
    state = refused.state
    connection.execute(
        "INSERT OR REPLACE INTO refusals VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            os.fsencode(refused.path),
            *(state.size, state.mtime_ns, state.ctime_ns, state.inode),
            refused.settled,
            refused_by(ending_of(refused.path)),
            refused.reason,
        ),
    )


def forget(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Remember nothing of ``paths`` any more. Call it inside a transaction."""
    connection.executemany("DELETE FROM refusals WHERE path = ?", ((os.fsencode(path),) for path in paths))
