"""What a search can be narrowed by: the tags of a note, and the languages, the speaker and the day of each passage.

Found when a note is read, kept in rows of their own, and looked at by :mod:`quietmind.notes.filtering`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from quietmind.notes.dates import note_day
from quietmind.notes.document import Document, Kind, Passage
from quietmind.notes.front_matter import front_matter
from quietmind.notes.language import Language, languages_of
from quietmind.notes.tags import find_tags

# Raise it when the same document comes out with others: indexes read their files again.
FACETS_VERSION = 2

_OF_PASSAGE = (
    "SELECT documents.kind, facets.languages, facets.day, documents.mtime_ns FROM documents"
    " JOIN passages ON passages.document = documents.id"
    " JOIN facets ON facets.document = documents.id AND facets.passage = passages.id"
    " WHERE documents.path = ? AND passages.first_line = ?"
)


@dataclass(frozen=True)
class Facets:
    """Those of a document. ``languages`` has those of each passage, ``day`` (ISO) is of the note: of what nobody said
    at a time of its own. None: the note does not say, and the time of its file counts.
    """

    tags: tuple[str, ...]
    languages: tuple[tuple[Language, ...], ...]
    day: str | None


@dataclass(frozen=True)
class PassageFacets:
    """Those of one passage, as a filter sees them. ``languages`` is None where its note was not looked at for them."""

    kind: Kind
    languages: tuple[Language, ...] | None
    day: date


def find_facets(document: Document, passages: Sequence[Passage]) -> Facets:
    """Return the facets of ``document`` and its ``passages``."""
    front = front_matter(document.lines)
    day = note_day(front, document.path.name)
    return Facets(
        find_tags(document, front),
        tuple(languages_of(document, passages)),
        day.isoformat() if day else None,
    )


def write_facets(
    connection: sqlite3.Connection, document: int | None, facets: Facets, passages: Iterable[tuple[int, Passage]]
) -> None:
    """Write the rows of a document inside the caller's transaction; ``passages`` with their numbers, in order."""
    connection.executemany("INSERT INTO tags VALUES (?, ?)", [(tag, document) for tag in facets.tags])
    connection.executemany(
        "INSERT INTO facets VALUES (?, ?, ?, ?, ?)",
        [
            (document, number, " ".join(languages), passage.speaker, passage.when[:10] if passage.when else facets.day)
            for (number, passage), languages in zip(passages, facets.languages, strict=True)
        ],
    )


def facets_of(connection: sqlite3.Connection, passages: Sequence[Passage]) -> list[PassageFacets | None]:
    """Return the facets of each of ``passages``, None for one that the index does not have any more."""
    found: list[PassageFacets | None] = []
    for passage in passages:
        row = connection.execute(_OF_PASSAGE, (os.fsencode(passage.path), passage.first_line)).fetchone()
        if row is None:
            found.append(None)
            continue
        kind, languages, day, mtime_ns = row
        known = None if languages is None else tuple(map(Language, languages.split()))
        when = date.fromisoformat(day) if day else date.fromtimestamp(mtime_ns / 1e9)
        found.append(PassageFacets(Kind(kind), known, when))
    return found


def unread(connection: sqlite3.Connection) -> int:
    """Return how many notes were indexed by a version that looked for neither tags, nor languages, nor dates."""
    (count,) = connection.execute("SELECT count(*) FROM documents WHERE made_by NOT LIKE '%, facets %'").fetchone()
    return int(count)
