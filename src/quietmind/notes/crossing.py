"""Finding notes of one language by questions in the other.

Embedders put texts of one language closer together than texts that say the same: of multilingual-e5-small a Russian
question has hundreds of passages in Russian before the first in English. What tells the languages apart is nearly one
direction, the line between the means of both (6 standard deviations lie between them). Half of it is taken out of a
question before its nearest passages are looked for; the passages stay as they are.

Fused with words, the same page in the other language has a mean reciprocal rank of 0.39 for English questions, 0.30
without this, and of 0.060 for Russian ones, 0.032 without; the page in the language of the question 0.849, 0.850
without (265 questions that nothing was tuned on; benchmarks/fusion.py).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quietmind.base.files import write_whole
from quietmind.notes.language import Language
from quietmind.notes.vectors import Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "language-axis"  # beside the matrix: the numbers of the axis, float32
TAKEN_OUT = 0.5  # of what a question has along the axis; more costs questions whose note is in their own language
_SAMPLE = 1000  # passages of each language, spread over the archive
_FEWEST = 50  # of each: the mean of fewer says more of what they are about
_APART = 3.0  # standard deviations between the means: with less, an embedder does not mind the language


def measure_axis(connection: sqlite3.Connection, vectors: Vectors) -> None:
    """Measure the axis of the ``vectors`` of the archive in ``connection``, and keep it beside them.

    Raises ArchiveLocked, ArchiveDamaged, and OSError where it cannot be written.
    """
    import numpy as np

    samples = []
    for language in (Language.RUSSIAN, Language.ENGLISH):
        rows = connection.execute("SELECT passage FROM facets WHERE languages = ? ORDER BY passage", (language.value,))
        passages = [passage for (passage,) in rows]
        some = passages[:: max(1, len(passages) // _SAMPLE)]
        samples.append([vector for _, vector in vectors.read(some).values()])
    axis = axis_between(*samples)
    file = vectors.folder / FILE
    if axis is None:
        file.unlink(missing_ok=True)
    else:
        write_whole(file, axis.astype(np.dtype("<f4")).tobytes())


def axis_between(
    one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    """Return the direction, of length 1, from the mean of ``other`` to that of ``one``, each float32 [dimensions].

    None where there are too few, or where they are not apart.
    """
    import numpy as np

    if min(len(one), len(other)) < _FEWEST:
        return None
    first, second = np.array(one, np.float32), np.array(other, np.float32)
    between = first.mean(0) - second.mean(0)
    length = float(np.linalg.norm(between))
    if length == 0.0:
        return None
    axis: NDArray[np.float32] = between / np.float32(length)
    spread = math.sqrt((float((first @ axis).var()) + float((second @ axis).var())) / 2)
    return axis if length >= _APART * spread else None


def crossed(query: NDArray[np.float32], vectors: Vectors) -> NDArray[np.float32]:
    """Return ``query`` as its nearest among ``vectors`` are to be looked for: float32 [dimensions], of length 1."""
    axis = _axis(vectors.folder, vectors.identity.dimensions)
    return query if axis is None else without(query, axis)


def without(query: NDArray[np.float32], axis: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``query`` with TAKEN_OUT of what it has along ``axis`` taken out, of length 1 again."""
    import numpy as np

    left = query - np.float32(TAKEN_OUT) * (query @ axis) * axis
    length = np.linalg.norm(left)
    return left / length if length > 0 else query


def _axis(folder: Path, dimensions: int) -> NDArray[np.float32] | None:
    """Return the axis that is kept in ``folder``; None where there is none, or none of so many dimensions."""
    import numpy as np

    try:
        content = (folder / FILE).read_bytes()
    except OSError:  # nothing is found by it that would not be found without
        return None
    if len(content) != 4 * dimensions:
        return None
    axis = np.frombuffer(content, "<f4").astype(np.float32)
    return axis if abs(float(np.linalg.norm(axis)) - 1) < 1e-3 else None
