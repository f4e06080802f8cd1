"""Keeping a copy of the index elsewhere in step with the archive.

The copy says what it holds, the archive what it should hold, and the difference is carried over: first what is gone,
then what is new or has changed, in batches. Nothing is remembered in between, so that a process killed at any moment, a
server set up anew or one brought back from yesterday's backup all mean the same: the next update does what is missing.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any, TypeVar

from quietmind.base.progress import SILENT, Progress
from quietmind.notes.embedding import KEY_BYTES, embedded_text, text_key
from quietmind.notes.finding import Copy, Counts, Entry, Held
from quietmind.notes.marks import Traits, day_number, marks_of
from quietmind.notes.search import COLUMN_WEIGHTS
from quietmind.notes.sparse import passage_vector
from quietmind.notes.vectors import Vectors

# Raise it when the same passage becomes another entry: copies are made anew.
COPY_VERSION = 1

_BATCH = 256  # passages: 9 MB as JSON with vectors of 4,096 numbers, where Qdrant takes 32 MB
_REMOVED_AT_ONCE = 1000
_DRIFT = 0.1  # of the average length: what it moves a weight by is less than what a word more in the passage does

_ROWS = (
    "SELECT passages.id, documents.title, passages.heading, text, made_by, documents.path, kind,"
    " (SELECT group_concat(tag, ' ') FROM tags WHERE tags.document = documents.id), languages, facets.speaker, day,"
    " mtime_ns FROM passages JOIN documents ON documents.id = passages.document"
    " LEFT JOIN facets ON facets.document = documents.id AND facets.passage = passages.id"
)
_THESE = " WHERE passages.id IN (SELECT value FROM json_each(?))"
_LAST_CHANGED_FIRST = " ORDER BY mtime_ns DESC, passages.id"
_LEMMAS = "SELECT rowid, title, heading, body FROM lemmas WHERE rowid IN (SELECT value FROM json_each(?))"

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Row:
    """What the archive has of a passage. ``key`` is of the text that is embedded."""

    passage: int
    key: bytes
    made_by: str
    traits: Traits


@dataclass(frozen=True)
class Brought:
    """What bringing a copy up to date did: passages that were ``put`` and ``removed``, and what it holds now."""

    put: int
    removed: int
    counts: Counts
    seconds: float


def bring_up_to_date(
    connection: sqlite3.Connection, copy: Copy, vectors: Vectors | None = None, progress: Progress = SILENT
) -> Brought:
    """Have ``copy`` hold what the archive holds, with those of ``vectors`` that there are.

    Raises WorkspaceError where the copy or the archive cannot be used; what was done until then stays.
    """
    began = time.monotonic()
    held = copy.held()
    average = _average(connection, held.values())
    wanted = dict(_states(connection, vectors, average))
    gone = [passage for passage in held if passage not in wanted]
    for batch in _batches(gone, _REMOVED_AT_ONCE):
        copy.remove(batch)
    stale = [passage for passage, state in wanted.items() if passage not in held or held[passage].state != state]
    progress.begin("Copying the index", len(stale))
    put = 0
    for batch in _batches(stale, _BATCH):
        entries = _entries(connection, vectors, batch, average)
        copy.put(entries)
        put += len(entries)
        progress.advance(len(batch))
    return Brought(put, len(gone), copy.counts(), time.monotonic() - began)


def _average(connection: sqlite3.Connection, held: Iterable[Held]) -> float:
    """Return the average number of lemmas in a passage that weights are computed with.

    That of most entries in the copy as long as it is about right: the exact one moves with every note, and every
    weight with it.
    """
    passages, lemmas = connection.execute(
        "SELECT (SELECT count(*) FROM passages), (SELECT sum(cnt) FROM lemma_counts)"
    ).fetchone()
    exact = max((lemmas or 0) / max(passages, 1), 1.0)
    used = Counter(each.average for each in held)
    right = {average: count for average, count in used.items() if abs(average / exact - 1) <= _DRIFT}
    return max(right, key=right.__getitem__) if right else exact


def _states(connection: sqlite3.Connection, vectors: Vectors | None, average: float) -> Iterator[tuple[int, bytes]]:
    """Yield each passage with the state of its entry, those of the notes changed last first."""
    stored = vectors.stored() if vectors is not None else {}
    for row in _rows(connection.execute(_ROWS + _LAST_CHANGED_FIRST)):
        yield row.passage, _state(row, stored.get(row.passage) == row.key, vectors, average)


def _entries(
    connection: sqlite3.Connection, vectors: Vectors | None, passages: Sequence[int], average: float
) -> list[Entry]:
    """Return the entries of ``passages``, without those that are gone meanwhile."""
    wanted = (json.dumps(passages),)
    found = connection.execute(_ROWS + _THESE, wanted).fetchall()
    columns = {passage: texts for passage, *texts in connection.execute(_LEMMAS, wanted)}
    read = vectors.read(passages) if vectors is not None else {}
    entries: list[Entry] = []
    for row in _rows(found):
        of, vector = read.get(row.passage, (b"", None))
        current = vector if of == row.key else None
        entries.append(
            Entry(
                passage=row.passage,
                key=row.key,
                state=_state(row, current is not None, vectors, average),
                words=passage_vector(columns.get(row.passage, ("", "", "")), COLUMN_WEIGHTS, average),
                vector=[float(number) for number in current] if current is not None else None,
                marks=marks_of(row.traits),
                day=day_number(row.traits.day),
                average=average,
            )
        )
    return entries


def _rows(found: Iterable[Sequence[Any]]) -> Iterator[_Row]:
    for passage, title, heading, text, made_by, path, kind, tags, languages, speaker, day, mtime_ns in found:
        traits = Traits(
            path,
            kind,
            tuple(sorted((tags or "").split())),
            tuple((languages or "").split()),
            speaker,
            date.fromisoformat(day) if day else _day_of(mtime_ns),
        )
        yield _Row(passage, text_key(embedded_text(title, json.loads(heading), text)), made_by, traits)


def _day_of(mtime_ns: int) -> date:
    try:
        return date.fromtimestamp(mtime_ns / 1e9)
    except (ValueError, OverflowError, OSError):  # a file of the year 0, or of 292,000,000
        return date.min if mtime_ns < 0 else date.max


def _state(row: _Row, embedded: bool, vectors: Vectors | None, average: float) -> bytes:
    """Return a digest of all that the entry of ``row`` is made of."""
    vector = vectors.identity.digest if vectors is not None and embedded else None
    said = repr((COPY_VERSION, COLUMN_WEIGHTS, average, row.made_by, row.traits, vector))
    return hashlib.blake2b(row.key + said.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _batches(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
