"""How good search is on a person's own archive: questions made of the notes, asked in each way that there is.

A *leg* is a way to rank passages: by words, by meaning, by both, and by both with the first judged by the loaded model.
A question is asked as if its note had never said it (notes/known_items.py); right is any passage of that note. Passages
of other notes that hold the question word for word are neither right nor wrong, and are passed over.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from quietmind.base.errors import UsageError
from quietmind.base.progress import SILENT, Progress
from quietmind.notes.crossing import crossed
from quietmind.notes.document import Hit, Passage
from quietmind.notes.embedded import Embedded as OwnIndex
from quietmind.notes.embedding import Embedder, embedded_text
from quietmind.notes.fusion import DEPTH as NEAREST
from quietmind.notes.fusion import fused, key_of
from quietmind.notes.known_items import Item, Source, items_of, without
from quietmind.notes.language import Language
from quietmind.notes.meaning import Meaning, closeness_of
from quietmind.notes.search import search
from quietmind.notes.vectors import Near, Nearest, Vectors
from quietmind.notes.withholding import Noted, Place, notes_in_index, numbered, said_elsewhere, withheld
from quietmind.workspace.scoring import DEPTH, Figures, Interval, Rank, difference, figures

WORDS, MEANING, FUSED, RERANK = "words", "meaning", "fused", "rerank"
LEGS = (WORDS, MEANING, FUSED, RERANK)
FEW = 30  # questions; with fewer, the numbers mean little

_LARGE_NOTE = 200  # passages; almost anything leads to it
_MOST_ELSEWHERE = 20  # passages of other notes that hold a question: more, and it leads to none of them
_FOUND = DEPTH + _MOST_ELSEWHERE
# Passages of the note that are embedded anew without the words: of those near the question with them, the nearest.
# The others, and those not near even so, are taken as not found.
_EMBEDDED_ANEW = 4

Rerank = Callable[[str, Sequence[Hit]], Sequence[Hit]]
"""Puts what was found for a question in another order."""
ByWords = Callable[[sqlite3.Connection, str, int], Sequence[Hit]]
"""Finds the best passages for a query, at most so many, best first."""
OURS: Mapping[str, ByWords] = MappingProxyType({WORDS: search})


@dataclass(frozen=True)
class Asked:
    """A question, and where its note stood in each leg."""

    item: Item
    ranks: Mapping[str, Rank]


@dataclass(frozen=True)
class Comparison:
    """The leg with the highest mean reciprocal rank, and by how much it is above each other one."""

    best: str
    above: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """What was asked of ``notes`` notes, with ``seed``; ``seconds`` of each leg, for all questions."""

    notes: int
    seed: int
    legs: tuple[str, ...]
    asked: tuple[Asked, ...]
    seconds: Mapping[str, float]

    def figures(self, leg: str, language: Language | None = None) -> Figures | None:
        """Return the figures of a leg, of one language or of all; None where there is no question.

        A question that mixes languages counts for each of them.
        """
        ranks = [each.ranks[leg] for each in self.asked if language is None or language in each.item.languages]
        return figures(ranks, self.seed) if ranks else None

    def comparison(self) -> Comparison | None:
        """Return which leg is best; None where there is nothing to compare. Of equal ones, the simplest is."""
        if not self.asked or len(self.legs) < 2:
            return None
        ranks = {leg: [each.ranks[leg] for each in self.asked] for leg in self.legs}
        means = {leg: figures(ranks[leg], self.seed).mrr.value for leg in self.legs}
        best = max(self.legs, key=lambda leg: (means[leg], -self.legs.index(leg)))
        return Comparison(
            best, {leg: difference(ranks[best], ranks[leg], self.seed) for leg in self.legs if leg != best}
        )


def evaluate(
    connection: sqlite3.Connection,
    serving: tuple[Vectors, Embedder] | None,
    *,
    questions: int,
    seed: int,
    legs: Collection[str] | None = None,
    rerank: Rerank | None = None,
    by_words: Mapping[str, ByWords] = OURS,
    progress: Progress = SILENT,
) -> Evaluation:
    """Ask at most ``questions`` questions in ``legs``, or in all that there are; the same ones for the same ``seed``.

    By meaning only with ``serving`` vectors, reranked only with ``rerank``, which is given what is found by words and
    meaning, without vectors by words. ``by_words`` may hold other ways to search by words, by name, each a leg of its
    own. Writes nothing. Raises UsageError for a leg that there is not, ArchiveLocked, EngineError, and WorkspaceError
    for an archive that may only be read: words are withheld in transactions that are undone.
    """
    there = (*by_words, *((MEANING, FUSED) if serving else ()), *((RERANK,) if rerank else ()))
    for leg in legs or ():
        if leg not in there:
            raise UsageError(f"{leg}: there are no vectors to search by; make some with `quietmind embed`")
    chosen = tuple(leg for leg in there if leg in (legs or there))
    notes = notes_in_index(connection)
    progress.begin("Choosing questions", questions)
    items = list(_chosen(connection, notes, questions, seed, progress))
    used = serving if {MEANING, FUSED, RERANK} & set(chosen) else None
    asking = _Asking(connection, used, rerank, by_words, chosen)
    progress.begin("Asking", len(items))
    asked = []
    for item, elsewhere in items:
        asked.append(Asked(item, asking.ranks(item, elsewhere)))
        progress.advance()
    return Evaluation(len(notes), seed, chosen, tuple(asked), asking.seconds)


def _chosen(
    connection: sqlite3.Connection, notes: Sequence[Noted], most: int, seed: int, progress: Progress
) -> Iterator[tuple[Item, set[Place]]]:
    """Yield at most ``most`` questions, one of a note, each with the places elsewhere that hold it word for word.

    Each source has its turn as far as the notes go. Notes come in an order of chance that depends on their names alone,
    below the folder that was indexed: where some are added, most questions stay.
    """
    times: Counter[Source] = Counter()
    found = 0
    for note in sorted(notes, key=lambda note: _lot(note, seed)):
        if found == most:
            return
        if not 0 < note.passages <= _LARGE_NOTE:
            continue
        items = items_of([*numbered(connection, note.path).values()])
        for item in sorted(items, key=lambda item: times[item.source]):
            elsewhere = said_elsewhere(connection, item, _MOST_ELSEWHERE)
            if elsewhere is not None:
                times[item.source] += 1
                found += 1
                progress.advance()
                yield item, elsewhere
                break


def _lot(note: Noted, seed: int) -> bytes:
    return hashlib.blake2b(b"%d\0%s" % (seed, note.below_root), digest_size=16).digest()


class _Asking:
    """Asks questions in each of ``legs``; ``seconds`` are those that searches alone took, by leg."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        serving: tuple[Vectors, Embedder] | None,
        rerank: Rerank | None,
        by_words: Mapping[str, ByWords],
        legs: Sequence[str],
    ) -> None:
        self.seconds = dict.fromkeys(legs, 0.0)
        self._connection = connection
        self._serving = serving
        self._rerank = rerank
        self._by_words = by_words

    def ranks(self, item: Item, elsewhere: Collection[Place]) -> dict[str, Rank]:
        """Return where the note of ``item`` stands in each leg."""
        own = numbered(self._connection, item.path)
        as_if = {number: without(passage, item) for number, passage in own.items()}
        meaning = self._meaning(item, own, as_if) if self._serving else None
        found: dict[str, Sequence[Hit]] = {}
        with withheld(self._connection, item):
            for name, find in self._by_words.items():
                if name in self.seconds or meaning is None:
                    with self._timed(name, *((RERANK,) if meaning is None else ())):
                        found[name] = find(self._connection, item.query, _FOUND)
            if meaning is not None and self._serving is not None:
                with self._timed(FUSED, RERANK):
                    placed = self._serving[0].placed
                    found[FUSED] = fused(self._connection, item.query, meaning, _FOUND, placed)
        if self._rerank is not None and RERANK in self.seconds:
            with self._timed(RERANK):
                found[RERANK] = self._rerank(item.query, found.get(FUSED, found.get(WORDS, ())))
        ranks = {leg: _rank((_place(hit.passage) for hit in hits), item, elsewhere) for leg, hits in found.items()}
        if meaning is not None:
            ranks[MEANING] = _rank(_places(self._connection, meaning.nearest, as_if), item, elsewhere)
        return {leg: ranks[leg] for leg in self.seconds}

    def _meaning(self, item: Item, own: Mapping[int, Passage], as_if: Mapping[int, Passage]) -> Meaning:
        """Return what is near the question, as if the note had never said it: ``as_if`` its ``own`` passages then.

        In the other language only those of its passages count that say nothing of the question as they are.
        """
        assert self._serving is not None
        vectors, embedder = self._serving
        connection, index = self._connection, OwnIndex(self._connection, vectors)
        with self._timed(MEANING, FUSED, RERANK):
            query = embedder.query(item.query)
            nearest = vectors.nearest(query, NEAREST)
        changed = {number for number, passage in as_if.items() if passage != own[number]}
        anew = [near.passage for near in nearest.found if near.passage in changed][:_EMBEDDED_ANEW]
        texts = [embedded_text(each.title, each.heading, each.text) for each in (as_if[number] for number in anew)]
        made = dict(zip(anew, embedder.passages(texts), strict=True)) if texts else {}
        found = [near for near in nearest.found if near.passage not in changed]
        found += [Near(number, key_of(as_if[number]), float(vector @ query)) for number, vector in made.items()]
        nearest = Nearest(tuple(sorted(found, key=lambda near: -near.similarity)), nearest.placed)
        with self._timed(FUSED, RERANK):
            across = crossed(connection, index, vectors, item.query, query, NEAREST, None)
            instead = {number: made.get(number) for number in changed}
            closeness = closeness_of(connection, vectors, query, nearest, instead)
        others = tuple(near for near in across.found if near.passage not in changed)
        return Meaning(nearest, closeness, Nearest(others, across.placed))

    @contextmanager
    def _timed(self, *legs: str) -> Iterator[None]:
        """Count the seconds of the block for each of ``legs``: what a search of this kind would take."""
        began = time.perf_counter()
        yield
        for leg in self.seconds.keys() & legs:
            self.seconds[leg] += time.perf_counter() - began


def _rank(places: Iterable[Place], item: Item, elsewhere: Collection[Place]) -> Rank:
    """Return where the first passage of the item's note stands among those that are right or wrong."""
    for rank, (path, _) in enumerate((place for place in places if place not in elsewhere), 1):
        if rank > DEPTH:
            break
        if path == item.path:
            return rank
    return None


def _place(passage: Passage) -> Place:
    return passage.path, passage.first_line


def _places(connection: sqlite3.Connection, nearest: Nearest, own: Mapping[int, Passage]) -> Iterator[Place]:
    """Yield the places of what is nearest, of each text once: the others that share it would only repeat it."""
    seen: set[bytes] = set()
    for near in nearest.found:
        row = connection.execute(
            "SELECT path, first_line FROM passages JOIN documents ON documents.id = document WHERE passages.id = ?",
            (near.passage,),
        ).fetchone()
        if row is not None and (near.key not in seen or near.passage in own):
            seen.add(near.key)
            yield Path(os.fsdecode(row[0])), row[1]
