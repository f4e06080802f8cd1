"""Finding passages: BM25 over lemmas in SQLite's FTS5, then a second look at the best (notes/ranking.py)."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.sqlite import translated
from quietmind.notes.document import Hit, Kind, Passage
from quietmind.notes.filtering import Filter, chosen
from quietmind.notes.lemmas import lemmas_of, query_lemmas
from quietmind.notes.ranking import boost, question, whole

# Weights of bm25: a word in the title or a heading says more about a passage than one in its body.
COLUMN_WEIGHTS = (2.0, 1.5, 1.0)  # title, heading, body
# More of either found no more in an archive of 20,000 pages, and took half as long again.
_CANDIDATES = 100  # passages by bm25 that are looked at more closely, at least
_READ_PASSAGES = 30  # of a document, spread evenly, that say what it is about
_MAX_LEMMAS = 48  # of a question; the rarest are kept
_MATCHING = "SELECT rowid, -bm25(lemmas, ?, ?, ?) AS score FROM lemmas WHERE lemmas MATCH ?"

# Given lemmas and a number: the passages of the highest bm25, by their numbers, best first, and what it is.
Candidates = Callable[[Sequence[str], int], Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Entry:
    """A document of the index, without its text."""

    path: Path
    kind: Kind
    title: str
    encoding: str
    lines: int
    repaired_lines: int
    passages: int


def search(connection: sqlite3.Connection, query: str, limit: int = 10, within: Filter | None = None) -> list[Hit]:
    """Return the passages ``within`` that answer ``query`` best, best first, at most ``limit``; any text is a query.

    A passage is found when it shares a lemma with the query. The score is BM25 (over title, heading and body) and what
    a second look at the best adds to it (notes/ranking.py). Raises ArchiveLocked, ArchiveDamaged or WorkspaceError.
    """
    return list(ranked(connection, query, limit, within).values())


def ranked(
    connection: sqlite3.Connection,
    query: str,
    limit: int,
    within: Filter | None = None,
    candidates: Candidates | None = None,
) -> dict[int, Hit]:
    """Return what :func:`search` does, in the same order, by the numbers of the passages.

    ``candidates`` are those of another index than the archive's own; numbers that the archive lacks are left out.
    """
    with translated(_file(connection)):
        weights = _weights(connection, query_lemmas(query))
        if not weights or limit < 1:
            return {}
        most = max(_CANDIDATES, 2 * limit)
        best = (
            best_by_words(connection, [*weights], most, within) if candidates is None else candidates([*weights], most)
        )
        columns = _columns(connection, [rowid for rowid, _ in best])
        boosts = _boosts(connection, query, weights, columns)
        scored = [(rowid, bm25 + boosts[rowid]) for rowid, bm25 in best if rowid in columns]
        found = _passages(connection, [rowid for rowid, _ in scored])
    hits = [(rowid, Hit(found[rowid], score, _coverage(weights, columns[rowid]))) for rowid, score in scored]
    hits.sort(key=lambda each: (-each[1].score, os.fsencode(each[1].passage.path), each[1].passage.first_line))
    return dict(hits[:limit])


def hits_of(connection: sqlite3.Connection, query: str, ids: Sequence[int]) -> dict[int, Hit]:
    """Return the passages ``ids``, those that are there, as hits with a score of 0 and the coverage that they have.

    Raises as :func:`search`.
    """
    with translated(_file(connection)):
        weights = _weights(connection, query_lemmas(query))
        columns_of = _columns(connection, ids)
        found = _passages(connection, [*columns_of])
    return {
        rowid: Hit(found[rowid], 0.0, _coverage(weights, columns))
        for rowid, columns in columns_of.items()
        if rowid in found
    }


def documents(connection: sqlite3.Connection) -> list[Entry]:
    """Return all documents of the index, in the order of their paths."""
    with translated(_file(connection)):
        rows = connection.execute(
            "SELECT path, kind, title, encoding, lines, repaired_lines,"
            " (SELECT count(*) FROM passages WHERE document = documents.id) FROM documents ORDER BY path"
        )
        return [Entry(Path(os.fsdecode(path)), Kind(kind), *others) for path, kind, *others in rows]


def best_by_words(
    connection: sqlite3.Connection, lemmas: Sequence[str], count: int, within: Filter | None
) -> list[tuple[int, float]]:
    """Return the passages ``within`` of the highest bm25 for ``lemmas``, at most ``count``, best first, and what it is.

    Raises sqlite3.Error.
    """
    asked = " OR ".join(f'"{lemma}"' for lemma in lemmas)  # no lemma holds a quote
    allowed, given = chosen(within)
    # The plus keeps SQLite from asking the full text anew for each passage that is allowed.
    only = f" AND +rowid IN ({allowed})" if allowed else ""
    return connection.execute(
        _MATCHING + only + " ORDER BY score DESC, rowid LIMIT ?",
        (*COLUMN_WEIGHTS, asked, *given, count),
    ).fetchall()


def _boosts(
    connection: sqlite3.Connection, query: str, weights: Mapping[str, float], columns: Mapping[int, Sequence[str]]
) -> dict[int, float]:
    """Return what the second look adds to the BM25 of each passage, given its columns of lemmas."""
    spans = spans_of(connection, [*columns])
    read = {span: some_of(span) for span in set(spans.values())}
    bodies = {
        rowid: (title, body)
        for rowid, (title, _, body) in _columns(connection, [row for rows in read.values() for row in rows]).items()
    }
    asked = question(lemmas_of(query), weights)
    wholes = {
        span: whole(bodies.get(span.start, ("", ""))[0], (bodies[row][1] for row in rows if row in bodies), weights)
        for span, rows in read.items()
    }
    return {
        rowid: boost(asked, body, wholes[spans[rowid]], rowid - spans[rowid].start)
        for rowid, (_, _, body) in columns.items()
    }


def some_of(span: range) -> range:
    """Return the passages that say what the document whose passages are ``span`` is about: all, or some of a long one.

    The passages of a document are written at once and have numbers in a row.
    """
    return range(span.start, span.stop, -(-len(span) // _READ_PASSAGES))


def spans_of(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, range]:
    """Return for each of the passages ``ids`` the numbers of all passages of its document. Raises sqlite3.Error."""
    rows = connection.execute(
        "WITH found AS (SELECT id, document FROM passages WHERE id IN (SELECT value FROM json_each(?)))"
        " SELECT found.id, first, last FROM found JOIN ("
        "  SELECT document, min(id) AS first, max(id) AS last FROM passages"
        "  WHERE document IN (SELECT document FROM found) GROUP BY document) AS span USING (document)",
        (json.dumps(ids),),
    )
    return {rowid: range(first, last + 1) for rowid, first, last in rows}


def _columns(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, tuple[str, str, str]]:
    """Return the lemmas of passages: of the title, the headings and the text, separated by spaces."""
    rows = connection.execute(
        "SELECT rowid, title, heading, body FROM lemmas WHERE rowid IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    )
    return {rowid: (title, heading, body) for rowid, title, heading, body in rows}


def _weights(connection: sqlite3.Connection, lemmas: Sequence[str]) -> dict[str, float]:
    """Return the inverse document frequency of each lemma: ln(1 + (N - n + 0.5) / (n + 0.5)), n of N passages hold it.

    The form that stays positive (Robertson and Zaragoza 2009, as Lucene uses it). A lemma that no passage holds is
    as likely chat or a slip as what the question is about, and gets the mean of the others. Of more than _MAX_LEMMAS,
    the rarest.
    """
    (total,) = connection.execute("SELECT count(*) FROM passages").fetchone()
    weights: dict[str, float | None] = {}
    for lemma in lemmas:
        row = connection.execute("SELECT doc FROM lemma_counts WHERE term = ?", (lemma,)).fetchone()
        weights[lemma] = math.log(1 + (total - row[0] + 0.5) / (row[0] + 0.5)) if row else None
    known = [weight for weight in weights.values() if weight is not None]
    mean = sum(known) / len(known) if known else 0.0
    settled = {lemma: mean if weight is None else weight for lemma, weight in weights.items()}
    rarest = sorted(settled, key=lambda lemma: -settled[lemma])[:_MAX_LEMMAS] if known else []
    return {lemma: settled[lemma] for lemma in rarest}


def _coverage(weights: Mapping[str, float], columns: Sequence[str]) -> float:
    """Return the share of ``weights`` whose lemmas stand in ``columns``, from 0 to 1."""
    present = f" {' '.join(columns)} "
    total = sum(weights.values())
    held = sum(weight for lemma, weight in weights.items() if f" {lemma} " in present)
    return min(held / total, 1.0) if total else 0.0


def _passages(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, Passage]:
    rows = connection.execute(
        "SELECT passages.id, path, first_line, last_line, text, title, heading, speaker, said_at"
        " FROM passages JOIN documents ON documents.id = document"
        " WHERE passages.id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    ).fetchall()
    # Of a note once: making one takes 8 us.
    paths = {path: Path(os.fsdecode(path)) for path in {row[1] for row in rows}}
    return {
        id_: Passage(paths[path], first, last, text, title, tuple(json.loads(heading)), speaker, when)
        for id_, path, first, last, text, title, heading, speaker, when in rows
    }


def _file(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2] or "archive")
