"""Lemmas as a sparse vector, for an index that multiplies vectors and knows nothing of words.

BM25 (Robertson and Zaragoza 2009) falls into a factor for the lemma, its inverse document frequency, and one for the
lemma in the passage. The second is the vector that is stored. The first is the vector of a query: the archive counts
what holds a lemma. Qdrant could (its ``idf`` modifier), but each of its shards counts only its own, deleted points stay
counted for a while, and the formula is another: a ranking would depend on where a passage lies.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

# Those of SQLite's FTS5, which has them fixed: both indexes rank alike.
_K1, _B = 1.2, 0.75
_HARDLY_ANYTHING = 1e-6

Sparse = dict[int, float]


def lemma_number(lemma: str) -> int:
    """Return the number, of 32 bits, that stands for ``lemma`` everywhere and for ever.

    It is a hash: of n lemmas about n * n / 2 ** 33 pairs share a number (5 of 200,000). Two lemmas that do count as
    one, which may bring a passage among the candidates that has nothing to do there; coverage, which is computed from
    the lemmas themselves, lets it fall behind again.
    """
    digest = hashlib.blake2b(lemma.encode("utf-8", "surrogatepass"), digest_size=4, person=b"lemma").digest()
    return int.from_bytes(digest, "little")


def passage_vector(columns: Sequence[str], weights: Sequence[float], average: float) -> Sparse:
    """Return what is stored of a passage: for each lemma ``f * (K1 + 1) / (f + K1 * (1 - B + B * length / average))``.

    ``columns`` hold lemmas separated by spaces, and f adds how often each has the lemma, times its one of ``weights``.
    ``length`` is the number of lemmas in all columns, ``average`` what that is in the whole archive.
    """
    frequency: dict[str, float] = {}
    length = 0
    for column, weight in zip(columns, weights, strict=True):
        lemmas = column.split()
        length += len(lemmas)
        for lemma, count in Counter(lemmas).items():
            frequency[lemma] = frequency.get(lemma, 0.0) + weight * count
    norm = _K1 * (1 - _B + _B * length / average)
    vector: Sparse = {}
    for lemma, times in frequency.items():
        number = lemma_number(lemma)
        vector[number] = vector.get(number, 0.0) + times * (_K1 + 1) / (times + norm)
    return vector


def query_vector(weights: Mapping[str, float]) -> Sparse:
    """Return the vector of a query for lemmas of these ``weights``."""
    vector: Sparse = {}
    for lemma, weight in weights.items():
        number = lemma_number(lemma)
        vector[number] = vector.get(number, 0.0) + weight
    return vector


def document_frequency_weight(total: int, holding: int) -> float:
    """Return ``ln((total - holding + 0.5) / (holding + 0.5))``: ``holding`` of ``total`` passages have the lemma.

    Where more than half have it, hardly anything: as FTS5, never less than nothing.
    """
    return max(math.log((total - holding + 0.5) / (holding + 0.5)), _HARDLY_ANYTHING)
