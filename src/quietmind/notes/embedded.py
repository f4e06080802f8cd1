"""The index inside the archive itself: full text in its database, vectors in a file beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quietmind.notes.filtering import Filter, passages_within
from quietmind.notes.finding import Counts
from quietmind.notes.search import best_by_words
from quietmind.notes.vectors import Nearest, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedded:
    """A Finder of what the archive in ``connection`` holds, with ``vectors`` or without. It owns neither."""

    def __init__(self, connection: sqlite3.Connection, vectors: Vectors | None = None) -> None:
        self._connection = connection
        self._vectors = vectors

    def by_words(self, lemmas: Sequence[str], count: int, within: Filter | None) -> list[tuple[int, float]]:
        """See Finder."""
        return best_by_words(self._connection, lemmas, count, within)

    def by_meaning(self, query: NDArray[np.float32], count: int, within: Filter | None) -> Nearest:
        """See Finder."""
        if self._vectors is None:
            return Nearest((), 0)
        return self._vectors.nearest(query, count, passages_within(self._connection, within))

    def placed(self, passages: Sequence[int]) -> set[int]:
        """See Finder."""
        return self._vectors.placed(passages) if self._vectors is not None else set()

    def counts(self) -> Counts:
        """See Finder."""
        (passages,) = self._connection.execute("SELECT count(*) FROM passages").fetchone()
        return Counts(passages, self._vectors.counts()[1] if self._vectors is not None else 0)

    def close(self) -> None:
        """See Finder."""
