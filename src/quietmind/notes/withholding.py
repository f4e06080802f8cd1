"""The archive for a moment as if a note had never said some words: how known items are asked for.

The rows of the note's passages are changed in a transaction that is always rolled back, so that what searches is the
search itself, with all its weights and statistics, on the whole archive. Nothing of it reaches the disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.sqlite import transaction
from quietmind.notes.document import Passage
from quietmind.notes.known_items import Item, without
from quietmind.notes.lemmas import lemmas_of

Place = tuple[Path, int]
"""The path of a passage and its first line."""


@dataclass(frozen=True)
class Noted:
    """A note of the index: where it is, that as bytes below its root, and how many passages it has."""

    path: Path
    below_root: bytes
    passages: int


class _Undo(Exception):
    """Ends a transaction that nothing may remain of."""


@contextmanager
def withheld(connection: sqlite3.Connection, item: Item) -> Iterator[None]:
    """Have the index lack the words of ``item`` in its note within the block, which must not write.

    Others wait for as long as it takes to write to the archive, so it should be short. The vectors of the note still
    know the words. Raises ArchiveLocked, and what SQLite says of an archive that may only be read.
    """
    connection.execute("PRAGMA cache_spill = OFF")  # what is changed stays in memory until it is undone
    try:
        with transaction(connection):
            for number, passage in numbered(connection, item.path).items():
                _replace(connection, number, passage, without(passage, item))
            yield
            raise _Undo
    except _Undo:
        pass
    finally:
        connection.execute("PRAGMA cache_spill = ON")


def numbered(connection: sqlite3.Connection, path: Path) -> dict[int, Passage]:
    """Return the passages of the note at ``path``, in order, by their numbers."""
    rows = connection.execute(
        "SELECT passages.id, first_line, last_line, text, title, heading, speaker, said_at"
        " FROM passages JOIN documents ON documents.id = document WHERE path = ? ORDER BY first_line",
        (os.fsencode(path),),
    )
    return {
        number: Passage(path, first, last, text, title, tuple(json.loads(heading)), speaker, when)
        for number, first, last, text, title, heading, speaker, when in rows
    }


def said_elsewhere(connection: sqlite3.Connection, item: Item, most: int) -> set[Place] | None:
    """Return which passages of other notes hold the item's question word for word; None for more than ``most``.

    Copies, lists of contents and links do: they are no wrong answers, and what many notes say leads to none of them.
    """
    words = " ".join(lemmas_of(item.query))  # no lemma holds a quote
    rows = connection.execute(
        "SELECT path, first_line FROM lemmas JOIN passages ON passages.id = lemmas.rowid"
        " JOIN documents ON documents.id = document WHERE lemmas MATCH ? AND path <> ? LIMIT ?",
        (f'"{words}"', os.fsencode(item.path), most + 1),
    ).fetchall()
    return None if len(rows) > most else {(Path(os.fsdecode(path)), line) for path, line in rows}


def _replace(connection: sqlite3.Connection, number: int, before: Passage, after: Passage) -> None:
    if after == before:
        return
    connection.execute(
        "UPDATE passages SET text = ?, heading = ? WHERE id = ?",
        (after.text, json.dumps(after.heading, ensure_ascii=False), number),
    )
    heading, body = (" ".join(lemmas_of(text)) for text in ("\n".join(after.heading), after.text))
    connection.execute("UPDATE lemmas SET heading = ?, body = ? WHERE rowid = ?", (heading, body, number))
    if after.title != before.title:
        # The column holds the file's name too, which as a rule says what the title does.
        connection.execute("UPDATE lemmas SET title = '' WHERE rowid = ?", (number,))
        connection.execute(
            "UPDATE documents SET title = ? WHERE id = (SELECT document FROM passages WHERE id = ?)",
            (after.title, number),
        )


def notes_in_index(connection: sqlite3.Connection) -> list[Noted]:
    """Return all notes of the index, in the order of their paths."""
    rows = connection.execute(
        "SELECT path, (SELECT max(length(roots.path)) FROM roots"
        " WHERE substr(documents.path, 1, length(roots.path)) = roots.path),"
        " (SELECT count(*) FROM passages WHERE document = documents.id) FROM documents ORDER BY path"
    )
    return [Noted(Path(os.fsdecode(path)), path[root or 0 :], count) for path, root, count in rows]
