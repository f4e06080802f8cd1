"""The port of indexes that passages are found by, and searching through one.

The archive holds the notes themselves, their passages and lines. What finds them is the archive's own index
(notes/embedded.py), or a copy of it elsewhere (notes/qdrant.py) which notes/copying.py keeps in step.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quietmind.base.sqlite import translated
from quietmind.notes.embedding import embedded_text, text_key
from quietmind.notes.filtering import Filter, chosen
from quietmind.notes.fusion import DEPTH, fused
from quietmind.notes.meaning import Meaning, meaning_of
from quietmind.notes.search import ranked
from quietmind.notes.sparse import document_frequency_weight
from quietmind.notes.vectors import Nearest, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quietmind.notes.document import Hit
    from quietmind.notes.sparse import Sparse

_TEXTS = (
    "SELECT passages.id, title, heading, text FROM passages JOIN documents ON documents.id = document"
    " WHERE passages.id IN (SELECT value FROM json_each(?))"
)


@dataclass(frozen=True)
class Counts:
    """How many passages an index holds, and how many of them with a vector."""

    passages: int
    with_vector: int


class Finder(Protocol):
    """What retrieval needs of an index. Passages go by their numbers in the archive (``passages.id``).

    Every method raises WorkspaceError where the index cannot be asked.
    """

    def by_words(self, lemmas: Sequence[str], count: int, within: Filter | None) -> Sequence[tuple[int, float]]:
        """Return the ``count`` passages ``within`` of the highest bm25 for ``lemmas``, best first, and what it is."""

    def by_meaning(self, query: NDArray[np.float32], count: int, within: Filter | None) -> Nearest:
        """Return the ``count`` passages ``within`` nearest to ``query``, float32 [dimensions]; or some more."""

    def placed(self, passages: Sequence[int]) -> set[int]:
        """Return those of ``passages`` that have a vector."""

    def counts(self) -> Counts:
        """Return what there is."""

    def close(self) -> None:
        """Let go of the index. Calling it again does nothing."""


def find(
    connection: sqlite3.Connection,
    finder: Finder,
    query: str,
    limit: int,
    *,
    vector: NDArray[np.float32] | None = None,
    vectors: Vectors | None = None,
    within: Filter | None = None,
) -> list[Hit]:
    """Return the passages ``within`` that answer ``query`` best, best first, at most ``limit``.

    By words, and where ``vector`` (of the query, float32 [dimensions]) is given by meaning too. With ``vectors``, those
    of the archive, whole notes count along and the other language is searched. Raises as :func:`ranked`, and as
    ``finder`` does.
    """

    def candidates(lemmas: Sequence[str], count: int) -> Sequence[tuple[int, float]]:
        return finder.by_words(lemmas, count, within)

    with translated(Path(connection.execute("PRAGMA database_list").fetchone()[2] or "archive")):
        if vector is None:
            return list(ranked(connection, query, limit, within, candidates).values())
        count = max(DEPTH, limit)
        if vectors is None:
            meaning = Meaning(finder.by_meaning(vector, count, within))
        else:
            meaning = meaning_of(connection, finder, vectors, query, vector, count, within)
        return fused(connection, query, meaning, limit, finder.placed, within, candidates)


@dataclass(frozen=True)
class Entry:
    """A passage as a copy holds it: what it is found by, and nothing that could be read.

    ``key`` is of the text that its vector is of (notes/embedding.py). ``state`` says in a few bytes what all the rest
    is. ``marks`` and ``day`` are what it is filtered by (notes/marks.py), ``average`` the length that ``words`` were
    weighted by (notes/sparse.py).
    """

    passage: int
    key: bytes
    state: bytes
    words: Sparse
    vector: Sequence[float] | None
    marks: Sequence[str]
    day: int
    average: float


@dataclass(frozen=True)
class Held:
    """What a copy knows of a passage: see :class:`Entry`."""

    state: bytes
    average: float


@dataclass(frozen=True)
class Worded:
    """A passage that shares lemmas with a query, as it was when it was copied: its key and its bm25."""

    passage: int
    key: bytes
    bm25: float


class Copy(Protocol):
    """An index that has to be told what the archive holds. Killed at any moment, it holds whole entries only.

    The archive uses numbers of passages again: the key tells whether a passage is still the one that was copied. Every
    method raises WorkspaceError where the index cannot be asked.
    """

    def held(self) -> Mapping[int, Held]:
        """Return what it holds, by passage."""

    def put(self, entries: Sequence[Entry]) -> None:
        """Hold ``entries``, each in the place of what was held of the same passage; return when they can be found."""

    def remove(self, passages: Sequence[int]) -> None:
        """Hold none of ``passages`` any more; those that it does not hold are no fault."""

    def by_words(self, weights: Mapping[str, float], count: int, within: Filter | None) -> Sequence[Worded]:
        """Do what a Finder does, for lemmas of these ``weights`` and the passages as they were when copied."""

    def by_meaning(self, query: NDArray[np.float32], count: int, within: Filter | None) -> Nearest:
        """Do what a Finder does, for the passages as they were when copied."""

    def placed(self, passages: Sequence[int]) -> set[int]:
        """Return those of ``passages`` that have a vector."""

    def counts(self) -> Counts:
        """Return what there is."""

    def close(self) -> None:
        """Let go of the index. Calling it again does nothing."""


class Copied:
    """A copy as a Finder. The archive has the last word: what has changed since, or is filtered out, is not found."""

    def __init__(self, connection: sqlite3.Connection, copy: Copy) -> None:
        self._connection = connection
        self._copy = copy

    def by_words(self, lemmas: Sequence[str], count: int, within: Filter | None) -> list[tuple[int, float]]:
        """See Finder."""
        found = self._copy.by_words(_weights(self._connection, lemmas), count, within)
        keys = _keys(self._connection, [each.passage for each in found], within)
        return [(each.passage, each.bm25) for each in found if keys.get(each.passage) == each.key]

    def by_meaning(self, query: NDArray[np.float32], count: int, within: Filter | None) -> Nearest:
        """See Finder."""
        nearest = self._copy.by_meaning(query, count, within)
        keys = _keys(self._connection, [each.passage for each in nearest.found], within)
        return replace(nearest, found=tuple(each for each in nearest.found if keys.get(each.passage) == each.key))

    def placed(self, passages: Sequence[int]) -> set[int]:
        """See Finder."""
        return self._copy.placed(passages)

    def counts(self) -> Counts:
        """See Finder."""
        return self._copy.counts()

    def close(self) -> None:
        """See Finder."""
        self._copy.close()


def _weights(connection: sqlite3.Connection, lemmas: Sequence[str]) -> dict[str, float]:
    """Return the inverse document frequency of those of ``lemmas`` that a passage holds."""
    (total,) = connection.execute("SELECT count(*) FROM passages").fetchone()
    rows = connection.execute(
        "SELECT term, doc FROM lemma_counts WHERE term IN (SELECT value FROM json_each(?))", (json.dumps(list(lemmas)),)
    )
    return {lemma: document_frequency_weight(total, holding) for lemma, holding in rows}


def _keys(connection: sqlite3.Connection, passages: Collection[int], within: Filter | None) -> dict[int, bytes]:
    """Return the keys of those of ``passages`` that are there and ``within``, as the archive has them now."""
    allowed, given = chosen(within)
    only = f" AND +passages.id IN ({allowed})" if allowed else ""
    rows = connection.execute(
        _TEXTS + only,
        (json.dumps(list(passages)), *given),
    )
    return {
        passage: text_key(embedded_text(title, json.loads(heading), text)) for passage, title, heading, text in rows
    }
