"""Counting what the index holds of a folder, and how that stands to the files as they are now."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.notes.formats import ending_of
from quietmind.notes.intake import made_by
from quietmind.notes.refusals import Refusals
from quietmind.notes.scan import Scan, Skipped, scan
from quietmind.notes.unread import without_unread

_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CYRILLIC_LEADS = (b"\xd0", b"\xd1")  # the first byte, in UTF-8, of U+0400 to U+047F


@dataclass(frozen=True)
class Census:
    """What the index holds of ``root``. All counts but ``passages`` are of documents.

    ``letters`` are the shares of the letters in the passages, ``cyrillic`` and ``latin``, that of all together being 1;
    empty where there are none. ``updated``: when all below the root was last held against its files, in seconds since
    1970; None for an index of an older version. ``new``, ``changed`` and ``gone`` files are not followed yet.
    ``away`` says why the root cannot be looked at; then these three are 0 and ``skipped`` is empty.
    """

    root: Path
    documents: int
    passages: int
    kinds: Mapping[str, int]
    letters: Mapping[str, float]
    repaired: int
    encodings: Mapping[str, int]
    updated: float | None
    new: int = 0
    changed: int = 0
    gone: int = 0
    skipped: tuple[Skipped, ...] = ()
    away: str | None = None


def census(connection: sqlite3.Connection, root: Path) -> Census:
    """Count what the index holds of ``root``, and walk it to see what became of its files. Writes nothing."""
    prefix = os.fsencode(os.path.join(root, ""))  # noqa: PTH118 - a Path has no trailing separator
    below = (prefix, prefix[:-1] + bytes([prefix[-1] + 1]))
    rows = connection.execute(
        "SELECT path, size, mtime_ns, made_by FROM documents WHERE path >= ? AND path < ?", below
    ).fetchall()
    passages, letters = _passages(connection, below)
    (repaired,) = connection.execute(
        "SELECT count(*) FROM documents WHERE path >= ? AND path < ? AND repaired_lines > 0", below
    ).fetchone()
    updated = connection.execute("SELECT at FROM updates WHERE root = ?", (os.fsencode(root),)).fetchone()
    counted = Census(
        root=root,
        documents=len(rows),
        passages=passages,
        kinds=_by(connection, "kind", below),
        letters=letters,
        repaired=repaired,
        encodings={name: count for name, count in _by(connection, "encoding", below).items() if name != "utf-8"},
        updated=updated[0] if updated else None,
    )
    known = {os.fsdecode(path): (size, mtime, maker) for path, size, mtime, maker in rows}
    return _held_against(counted, known, Refusals(connection, *below))


def _held_against(counted: Census, known: Mapping[str, tuple[int, int, str]], refusals: Refusals) -> Census:
    """Add to a census what a walk finds that the index does not hold."""
    try:
        seen = scan(counted.root)
    except NotesError as error:
        return replace(counted, away=str(error))
    strange, unread = without_unread(seen.root, [found for found in seen.found if found.path not in known])
    unknown, refused = refusals.standing(strange, proven=False)
    by = cache(made_by)
    changed = sum(
        found.path in known and known[found.path] != (found.state.size, found.state.mtime_ns, by(ending_of(found.path)))
        for found in seen.found
    )
    gone = known.keys() - {found.path for found in seen.found} - {str(skip.path) for skip in seen.skipped}
    return replace(
        counted,
        new=len(unknown),
        changed=changed,
        gone=len(gone) if _all_listed(seen) else 0,
        skipped=(*seen.skipped, *unread, *refused),
    )


def _all_listed(seen: Scan) -> bool:
    """Say whether no folder was passed over: what lies in one is not gone."""
    return not any(skip.transient and skip.path.is_dir() for skip in seen.skipped)


def _by(connection: sqlite3.Connection, column: str, below: tuple[bytes, bytes]) -> dict[str, int]:
    """Return how many documents have each value of a column, the most frequent first."""
    rows = connection.execute(
        f"SELECT {column}, count(*) FROM documents WHERE path >= ? AND path < ? GROUP BY 1 ORDER BY 2 DESC, 1",  # noqa: S608 - names of ours
        below,
    )
    return dict(rows.fetchall())


def _passages(connection: sqlite3.Connection, below: tuple[bytes, bytes]) -> tuple[int, dict[str, float]]:
    """Return how many passages there are, and the share of each script in their letters."""
    count = cyrillic = latin = 0
    for (text,) in connection.execute(
        "SELECT CAST(text AS BLOB) FROM passages JOIN documents ON documents.id = document"
        " WHERE path >= ? AND path < ?",
        below,
    ):
        count += 1
        cyrillic += sum(text.count(lead) for lead in _CYRILLIC_LEADS)
        latin += len(text) - len(text.translate(None, _LETTERS))
    letters = cyrillic + latin
    return count, {"cyrillic": cyrillic / letters, "latin": latin / letters} if letters else {}
