"""One ranking out of two: by words (notes/search.py) and by meaning (notes/vectors.py).

The legs are fused by what they say and not by ranks alone: each passage has a share of the best by words and a share of
the nearest, from 0 to 1, and the sum of both, weighted, is its score. What each thing was worth, by the mean
reciprocal rank of 266 questions that are for tuning (900 pages of manuals and help in two languages; words alone 0.774,
meaning alone 0.768, reciprocal rank fusion 0.828 and with the best constants 0.834):

- the shares themselves: a first hit that is far ahead of the second counts for more than its rank says;
- the best passage of a note counts for what all its passages have shown: a note that the legs find by two passages is
  found by both. With it 0.855, and 0.852 without it;
- words weigh by how much of the question any passage covers: where they hardly say it, meaning decides: 0.860;
- a passage is as near as its note lets it be (notes/meaning.py): 0.863, and the same with what says the same in the
  other language (notes/crossing.py), which has most of a share of the nearest.

Of the 265 questions that nothing was tuned on: words 0.812, meaning 0.774, reciprocal ranks 0.844, this 0.860
(benchmarks/fusion.py).

And it has to be fair while vectors are still being made:

- A passage without a vector has of meaning the share that it has of words: the leg that knows nothing of it neither
  lifts nor lowers it. With no vectors at all the ranking is the one by words.
- Where a share s of the archive has one, the r-th nearest of these counts as about the r / s-th of all: only the first
  DEPTH * s have a share of the nearest. Otherwise what has a vector buries what has none.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.notes.document import Hit, Passage
from quietmind.notes.embedding import embedded_text, text_key
from quietmind.notes.filtering import Filter, count_within
from quietmind.notes.meaning import Meaning
from quietmind.notes.search import Candidates, hits_of, ranked
from quietmind.notes.vectors import Near

DEPTH = 100  # passages of each leg that are fused, at least; past it there is nothing of meaning
MEANING_WEIGHT = 0.4  # of 1; 0.3 to 0.5 differ by chance
# What says the same best in the other language has so much of what the nearest has, if it is at least so near: how near
# the nearest is across languages tells more than within one.
CROSSED_WEIGHT, CROSSED_FULLY = 0.8, 0.25

Embedded = Callable[[Sequence[int]], set[int]]


@dataclass(frozen=True)
class Standing:
    """What the legs say of a passage of the document ``path``: shares of the best by words and of the nearest, 0 to 1.

    ``meaning`` is None where the passage has no vector.
    """

    path: Path
    words: float
    meaning: float | None


def scores(standings: Mapping[int, Standing], coverage: float) -> dict[int, float]:
    """Return the fused score of each passage, from 0 to 1, by its number.

    ``coverage`` is the largest share of the query's weight that a passage found by words has, from 0 to 1.
    """
    by_words = (1 - MEANING_WEIGHT) * coverage
    both = by_words + MEANING_WEIGHT

    def score(words: float, meaning: float | None) -> float:
        return both * words if meaning is None else by_words * words + MEANING_WEIGHT * meaning

    own = {passage: score(each.words, each.meaning) for passage, each in standings.items()}
    documents: dict[Path, list[int]] = {}
    for passage, each in standings.items():
        documents.setdefault(each.path, []).append(passage)
    for passages in documents.values():
        first = max(passages, key=lambda passage: own[passage])
        known = [each.meaning for each in (standings[passage] for passage in passages) if each.meaning is not None]
        words = max(standings[passage].words for passage in passages)
        own[first] = max(own[first], score(words, max(known, default=None)))
    return own


def shares(similarities: Sequence[float], share: float) -> list[float]:
    """Return the share of the nearest that each of ``similarities``, in falling order, has: 1 for the first, 0 from
    the (DEPTH * ``share``)-th on, or from the last. ``share`` of all passages, above 0 and at most 1, have a vector.
    """
    if not similarities:
        return []
    last = max(1, min(math.ceil(DEPTH * share), len(similarities))) - 1
    best, floor = similarities[0], similarities[last]
    if best == floor:
        return [1.0 if each == best else 0.0 for each in similarities]
    return [max(0.0, (each - floor) / (best - floor)) for each in similarities]


def fused(
    connection: sqlite3.Connection,
    query: str,
    meaning: Meaning,
    limit: int,
    embedded: Embedded,
    within: Filter | None = None,
    candidates: Candidates | None = None,
) -> list[Hit]:
    """Return the passages that answer ``query`` best by words and by meaning together, best first, at most ``limit``.

    ``meaning`` is what the vectors found (:data:`DEPTH` of them or more) among the passages ``within``, and
    ``embedded`` says of passages, by their numbers, which have a vector; ``candidates`` are as for :func:`ranked`. What
    the archive has changed since a vector was made is not found by it. Raises ArchiveLocked, ArchiveDamaged or
    WorkspaceError.
    """
    by_words = ranked(connection, query, max(DEPTH, limit), within, candidates)
    near = [each.passage for each in (*meaning.nearest.found, *meaning.crossed.found) if each.passage not in by_words]
    hits = {**by_words, **hits_of(connection, query, near)}
    standing, crossed = (
        {each.passage: each for each in nearest.found if _still(hits.get(each.passage), each)}
        for nearest in (meaning.nearest, meaning.crossed)
    )
    with_vector = embedded([*by_words])
    total = count_within(connection, within)
    share = min(meaning.nearest.placed / total, 1.0) if total else 1.0
    near_shares = _shares_of(standing.values(), meaning.closeness, share)
    crossed_weight = CROSSED_WEIGHT * min(
        1.0, max((near.similarity / CROSSED_FULLY for near in crossed.values()), default=0)
    )
    for passage, of_crossed in _shares_of(crossed.values(), {}, share).items():
        near_shares[passage] = max(near_shares.get(passage, 0.0), crossed_weight * of_crossed)
    best = max((hit.score for hit in by_words.values()), default=0.0)
    standings = {
        passage: Standing(
            hits[passage].passage.path,
            by_words[passage].score / best if passage in by_words and best > 0 else 0.0,
            near_shares.get(passage, 0.0 if passage in with_vector else None),
        )
        for passage in {*by_words, *standing, *crossed}
    }
    fused_scores = scores(standings, max((hit.coverage for hit in by_words.values()), default=0.0))
    scored = [
        replace(
            hits[passage],
            score=score,
            similarity=standing[passage].similarity if passage in standing else None,
            crossed=crossed[passage].similarity if passage in crossed else None,
        )
        for passage, score in fused_scores.items()
    ]
    scored.sort(key=lambda hit: (-hit.score, os.fsencode(hit.passage.path), hit.passage.first_line))
    return scored[:limit]


def _shares_of(standing: Iterable[Near], closeness: Mapping[int, float], share: float) -> dict[int, float]:
    """Return the share of the nearest that each passage has; those that share a text count once, as the closest."""
    found = list(standing)
    first: dict[bytes, float] = {}
    for near in found:
        close = closeness.get(near.passage, near.similarity)
        first[near.key] = max(first.get(near.key, close), close)
    ordered = sorted(first.items(), key=lambda item: -item[1])
    by_key = dict(zip((key for key, _ in ordered), shares([value for _, value in ordered], share), strict=True))
    return {near.passage: by_key[near.key] for near in found}


def _still(hit: Hit | None, near: Near) -> bool:
    """Say whether the passage is the one whose vector was found: numbers are used again, texts tell."""
    return hit is not None and key_of(hit.passage) == near.key


def key_of(passage: Passage) -> bytes:
    """Return the key of what is embedded of ``passage``."""
    return text_key(embedded_text(passage.title, passage.heading, passage.text))
