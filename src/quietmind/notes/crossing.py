"""Finding notes of one language by questions in the other.

Embedders put texts of one language closer together than texts that say the same: of multilingual-e5-small a Russian
question has hundreds of passages in Russian before the first in English. What all texts of a language share is their
mean. Without it, the passages of the other language compare with the question by what they say, and the nearest of
them have a part in the fusion (notes/fusion.py).

They are looked for in two steps, so that one pass over the matrix does and every index can make it: the first finds
passages by the question without its language's mean, pushed towards the other language; the second takes the mean of
their language out of each of these few.

Fused with words, the same page in the other language has a mean reciprocal rank of 0.41 for English questions, 0.31
without this, and of 0.11 for Russian ones, 0.03 without; the page in the language of the question 0.860, 0.863 without
(265 questions that nothing was tuned on; benchmarks/fusion.py).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from quietmind.base.files import write_whole
from quietmind.notes.language import Language, languages_in
from quietmind.notes.nearest import record
from quietmind.notes.vectors import Nearest, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quietmind.notes.filtering import Filter
    from quietmind.notes.finding import Finder

FILE = "language-means"  # beside the matrix: the means of Russian and of English passages, float32 [2, dimensions]
CROSSED_DEPTH = 200  # passages that are looked at more closely
_LEAST = 0.15  # what is less alike does not say the same; more begins to cost what does
_PUSHED = 0.5  # towards the other language, in lengths of the question; with 0 a third is of its own language
_SAMPLE = 1000  # passages of each language, up to twice as many, spread over the archive
_FEWEST = 50  # of each: the mean of fewer says more of what they are about
_APART = 3.0  # standard deviations between the means: with less, an embedder does not mind the language

_OTHER = {Language.RUSSIAN: Language.ENGLISH, Language.ENGLISH: Language.RUSSIAN}


@dataclass(frozen=True)
class Means:
    """The mean vector of the passages of each language, float32 [dimensions]."""

    by_language: Mapping[Language, NDArray[np.float32]]

    @classmethod
    def of(cls, russian: Sequence[NDArray[np.float32]], english: Sequence[NDArray[np.float32]]) -> Self | None:
        """Return the means of vectors of both languages; None where there are too few, or where they are not apart."""
        import numpy as np

        if min(len(russian), len(english)) < _FEWEST:
            return None
        first, second = np.array(russian, np.float32), np.array(english, np.float32)
        between = first.mean(0) - second.mean(0)
        length = float(np.linalg.norm(between))
        spread = math.sqrt((float((first @ between).var()) + float((second @ between).var())) / 2)
        if length == 0.0 or length**2 < _APART * spread:
            return None
        return cls({Language.RUSSIAN: first.mean(0), Language.ENGLISH: second.mean(0)})

    @classmethod
    def beside(cls, vectors: Vectors) -> Self | None:
        """Return the means that are kept beside ``vectors``; None where there are none, or none of such vectors."""
        import numpy as np

        try:
            content = (vectors.folder / FILE).read_bytes()
        except OSError:  # nothing is found by them that would not be found without
            return None
        dimensions = vectors.identity.dimensions
        if len(content) != 2 * 4 * dimensions:
            return None
        means = np.frombuffer(content, "<f4").astype(np.float32).reshape(2, dimensions)
        lengths = np.linalg.norm(means, axis=1)
        if not np.all((lengths > 0) & (lengths <= 1)) or np.array_equal(means[0], means[1]):
            return None
        return cls({Language.RUSSIAN: means[0], Language.ENGLISH: means[1]})

    def save(self, vectors: Vectors) -> None:
        """Keep the means beside ``vectors``. Raises OSError."""
        import numpy as np

        means = np.array([self.by_language[Language.RUSSIAN], self.by_language[Language.ENGLISH]], np.dtype("<f4"))
        write_whole(vectors.folder / FILE, means.tobytes())


def measure_means(connection: sqlite3.Connection, vectors: Vectors) -> None:
    """Measure the means of the ``vectors`` of the archive in ``connection``, and keep them beside these.

    Raises sqlite3.Error, ArchiveLocked, ArchiveDamaged, and OSError where they cannot be written.
    """
    samples = []
    for language in (Language.RUSSIAN, Language.ENGLISH):
        rows = connection.execute("SELECT passage FROM facets WHERE languages = ? ORDER BY passage", (language.value,))
        passages = [passage for (passage,) in rows]
        some = passages[:: max(1, len(passages) // _SAMPLE)]
        samples.append([vector for _, vector in vectors.read(some).values()])
    means = Means.of(*samples)
    if means is None:
        (vectors.folder / FILE).unlink(missing_ok=True)
    else:
        means.save(vectors)


def crossed(
    connection: sqlite3.Connection,
    finder: Finder,
    vectors: Vectors,
    question: str,
    vector: NDArray[np.float32],
    count: int,
    within: Filter | None,
) -> Nearest:
    """Return ``count`` passages ``within`` of the other language that say what ``question`` says, nearest first.

    ``vector`` is the question's, float32 [dimensions]. A similarity is the cosine of both without the means of their
    languages. Nothing for a question in both languages or in neither, and where no means are kept. Raises
    sqlite3.Error, ArchiveDamaged for a matrix that cannot be read, and what ``finder`` does.
    """
    import numpy as np

    means, languages = Means.beside(vectors), languages_in(question)
    if means is None or len(languages) != 1 or languages[0] not in _OTHER:
        return Nearest((), 0)
    own, other = means.by_language[languages[0]], means.by_language[_OTHER[languages[0]]]
    asked, push = _unit(vector - own), _unit(other - own)
    nearest = finder.by_meaning(_unit(asked + np.float32(_PUSHED) * push), CROSSED_DEPTH, within)
    theirs = _of_language(connection, _OTHER[languages[0]], [near.passage for near in nearest.found])
    known = vectors.read([near.passage for near in nearest.found if near.passage in theirs])
    found = []
    for near in nearest.found:
        key, kept = known.get(near.passage, (b"", vector))
        if key == near.key:
            found.append(replace(near, similarity=float(_unit(kept - other) @ asked)))
    found = sorted((near for near in found if near.similarity >= _LEAST), key=lambda near: -near.similarity)
    return Nearest(tuple(found[:count]), nearest.placed)


def bytes_read(vectors: Vectors) -> int:
    """Return the bytes of the matrix that a search reads: all, and again where it looks across the languages."""
    times = 1 if Means.beside(vectors) is None else 2
    return times * vectors.counts()[0] * record(vectors.identity.dimensions).itemsize


def _of_language(connection: sqlite3.Connection, language: Language, passages: Sequence[int]) -> set[int]:
    rows = connection.execute(
        "SELECT passage, languages FROM facets WHERE passage IN (SELECT value FROM json_each(?))",
        (json.dumps(passages),),
    )
    return {passage for passage, languages in rows if language in (languages or "").split()}  # NULL: not looked at yet


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``vector`` at length 1; one of no length as it is."""
    import numpy as np

    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector
