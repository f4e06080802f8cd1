"""Choosing notes of the index otherwise than by a question: below a folder, by a tag, by their names."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quietmind.notes.document import Passage
from quietmind.notes.front_matter import front_matter
from quietmind.notes.tags import hashed_tags, listed_tags, normal

_ALL = "SELECT path, sha256, mtime_ns, size, title FROM documents ORDER BY path"
_AFTER = "SELECT path, sha256, mtime_ns, size, title FROM documents WHERE path > ? ORDER BY path LIMIT ?"
_ONE = "SELECT path, sha256, mtime_ns, size, title FROM documents WHERE path = ?"
_BELOW = (
    "SELECT path, sha256, mtime_ns, size, title FROM documents WHERE path = ? OR substr(path, 1, ?) = ? ORDER BY path"
)
_NUMBERED = (
    "SELECT path, sha256, mtime_ns, size, title FROM documents"
    " WHERE id IN (SELECT value FROM json_each(?)) ORDER BY path"
)
_TAGGED = "SELECT document FROM tags WHERE tag = ? OR (tag >= ? AND tag < ?)"
_NEVER_LOOKED_THROUGH = (
    "SELECT document, first_line, text FROM passages WHERE instr(text, '#') + (first_line = 1)"
    " AND document IN (SELECT id FROM documents WHERE made_by NOT LIKE '%, facets %')"
)


@dataclass(frozen=True)
class Indexed:
    """A note of the index: where it is, the SHA-256 of its bytes, when it was written, its size and its title."""

    path: Path
    sha256: str
    mtime_ns: int
    size: int
    title: str


def notes_below(connection: sqlite3.Connection, path: Path) -> list[Indexed]:
    """Return the note at ``path``, or all below it, in the order of their paths."""
    whole = os.fsencode(path)
    below = whole.rstrip(b"/") + b"/"
    return _indexed(connection, _BELOW, (whole, len(below), below))


def notes_named(connection: sqlite3.Connection, paths: Sequence[Path]) -> list[Indexed]:
    """Return those of ``paths`` that the index has, in the order of their paths."""
    wanted = sorted({os.fsencode(path) for path in paths})
    return [note for path in wanted for note in _indexed(connection, _ONE, (path,))]


def notes_after(connection: sqlite3.Connection, path: Path | None, count: int) -> list[Indexed]:
    """Return the first ``count`` notes that come after ``path``, in the order of their paths; None: of all."""
    return _indexed(connection, _AFTER, (b"" if path is None else os.fsencode(path), count))


def notes_tagged(connection: sqlite3.Connection, tag: str) -> list[Indexed]:
    """Return the notes that bear ``tag`` or a part of it (notes/tags.py), in the order of their paths.

    Those that were indexed before tags were kept are looked through.
    """
    name = normal(tag)
    found = {document for (document,) in connection.execute(_TAGGED, (name, f"{name}/", f"{name}0"))}
    for document, first, text in connection.execute(_NEVER_LOOKED_THROUGH):
        front = front_matter(text.split("\n")) if first == 1 else {}
        borne = {*listed_tags(front), *(borne for _, borne in hashed_tags(text))}
        if any(each == name or each.startswith(f"{name}/") for each in borne):
            found.add(document)
    return _indexed(connection, _NUMBERED, (json.dumps(sorted(found)),))


def passages_of(
    connection: sqlite3.Connection, path: Path, first_line: int | None = None, last_line: int | None = None
) -> list[Passage]:
    """Return the passages of a note, in order; of a stretch of lines, those that begin there."""
    rows = connection.execute(
        "SELECT path, first_line, last_line, text, title, heading, speaker, said_at"
        " FROM passages JOIN documents ON documents.id = document"
        " WHERE path = ? AND first_line BETWEEN ? AND ? ORDER BY first_line",
        (os.fsencode(path), first_line or 0, last_line or 1 << 62),
    )
    return [
        Passage(Path(os.fsdecode(at)), first, last, text, title, tuple(json.loads(heading)), speaker, when)
        for at, first, last, text, title, heading, speaker, when in rows
    ]


def count_notes(connection: sqlite3.Connection) -> int:
    """Return how many notes the index has."""
    (count,) = connection.execute("SELECT count(*) FROM documents").fetchone()
    return int(count)


def sample(connection: sqlite3.Connection, count: int, below: Path | None = None) -> list[Passage]:
    """Return at most ``count`` passages, spread evenly over all notes or over those below a path."""
    notes = notes_below(connection, below) if below is not None else _indexed(connection, _ALL, ())
    chosen = [notes[number * len(notes) // count] for number in range(count)] if len(notes) > count else notes
    passages = [passage for note in chosen for passage in passages_of(connection, note.path)]
    if len(passages) <= count:
        return passages
    return [passages[number * len(passages) // count] for number in range(count)]


def _indexed(connection: sqlite3.Connection, query: str, given: tuple[object, ...]) -> list[Indexed]:
    return [Indexed(Path(os.fsdecode(path)), *others) for path, *others in connection.execute(query, given)]
