"""What vectors say of a question: which passages are nearest to it, and which say the same in the other language.

A passage is as near as it is itself and, to a fifth, as all of its note is, by the mean of the note's vectors: a note
about the question is worth more than one sentence of another that happens to sound like it. Fused with words, notes so
weighed have a mean reciprocal rank of 0.863, and of 0.850 by their passages alone (265 questions that nothing was tuned
on; on those for tuning 0.863 and 0.860, and all weights from 0.1 to 0.4 helped a little; benchmarks/fusion.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quietmind.base.errors import ArchiveDamaged
from quietmind.notes.crossing import crossed
from quietmind.notes.search import some_of, spans_of
from quietmind.notes.vectors import Nearest, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quietmind.notes.filtering import Filter
    from quietmind.notes.finding import Finder

NOTE_WEIGHT = 0.2  # of 1, in how near a passage is

_NOTHING = Nearest((), 0)


@dataclass(frozen=True)
class Meaning:
    """The passages ``nearest`` to a question, and those of the other language that say what it says (``crossed``).

    ``closeness`` is by passage what the order of the nearest goes by; where it has none, their similarity.
    """

    nearest: Nearest
    closeness: Mapping[int, float] = field(default_factory=dict)
    crossed: Nearest = _NOTHING


def meaning_of(
    connection: sqlite3.Connection,
    finder: Finder,
    vectors: Vectors,
    question: str,
    vector: NDArray[np.float32],
    count: int,
    within: Filter | None = None,
) -> Meaning:
    """Return what ``vectors`` say of ``question``, whose own is ``vector`` (float32 [dimensions]): ``count`` passages.

    Raises sqlite3.Error, and what ``finder`` does.
    """
    nearest = finder.by_meaning(vector, count, within)
    try:
        across = crossed(connection, finder, vectors, question, vector, count, within)
        return Meaning(nearest, closeness_of(connection, vectors, vector, nearest), across)
    except ArchiveDamaged:  # the vectors here, where an index elsewhere has found by its own
        return Meaning(nearest)


def closeness_of(
    connection: sqlite3.Connection,
    vectors: Vectors,
    vector: NDArray[np.float32],
    nearest: Nearest,
    instead: Mapping[int, NDArray[np.float32] | None] | None = None,
) -> dict[int, float]:
    """Return how close each passage of ``nearest`` is to ``vector`` with its note counted along.

    A passage that was changed counts in its note as it was until it has a new vector. ``instead`` has other vectors of
    some passages than those that are kept; None: they do not count. Raises sqlite3.Error, ArchiveDamaged.
    """
    import numpy as np

    other = instead or {}
    spans = spans_of(connection, [near.passage for near in nearest.found])
    some = {span: some_of(span) for span in set(spans.values())}
    known = vectors.read([passage for passages in some.values() for passage in passages])
    of_note: dict[range, float] = {}
    for span, passages in some.items():
        kept = {passage: known[passage][1] for passage in passages if passage in known}
        changed = {passage: other[passage] for passage in span if passage in other}
        mean = np.sum([each for each in (kept | changed).values() if each is not None], axis=0)
        length = float(np.linalg.norm(mean))
        if length > 0:
            of_note[span] = float(mean @ vector) / length
    return {
        near.passage: (1 - NOTE_WEIGHT) * near.similarity + NOTE_WEIGHT * of_note[spans[near.passage]]
        for near in nearest.found
        if spans.get(near.passage) in of_note
    }
