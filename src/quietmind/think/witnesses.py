"""Many passages that may bear a sentence: a whole notebook's, of which most are ruled out before any is compared.

A passage can support a sentence only when it holds most of its content words and all of its numbers somewhere. Which
do is looked up; only those are compared window by window, the likeliest first, until no other can be better. The
verdict is that of holding the sentence against every passage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from quietmind.notes.lemmas import content_lemmas
from quietmind.think.support import Facts, Prepared, Support, facts_of, least_shared, numbers_of


class Witnesses:
    """Passages, each as its text and the headings above it; they are named by their place in the sequence.

    Nothing is worked out before the first sentence is held against them.
    """

    def __init__(self, passages: Sequence[tuple[str, str]]) -> None:
        self._passages = passages
        self._prepared: dict[int, Prepared] = {}

    def among(self, sentence: str, passages: Collection[int]) -> list[tuple[int, Support]]:
        """Return those of ``passages`` that support ``sentence``, the one that holds most of its words first."""
        claim = facts_of(sentence)
        found = [(each, support) for each in sorted(passages) if (support := self._support(claim, each)) is not None]
        return sorted(found, key=lambda pair: -pair[1].share)

    def best(self, sentence: str, but: Collection[int] = ()) -> tuple[int, Support] | None:
        """Return the passage that supports ``sentence`` best, the first of equals; none of ``but``. None if none."""
        claim = facts_of(sentence)
        best: tuple[float, int] | None = None
        support: Support | None = None
        for most, passage in self._candidates(claim, numbers_of(sentence)):
            if best is not None and most < best[0]:
                break  # the candidates come in the order of the most that they can hold
            if passage in but or (best is not None and (most, -passage) < best):
                continue
            found = self._support(claim, passage)
            if found is not None and (best is None or (found.share, -passage) > best):
                best, support = (found.share, -passage), found
        return None if best is None or support is None else (-best[1], support)

    def _candidates(self, claim: Facts, numbers: frozenset[str]) -> Iterator[tuple[float, int]]:
        """Yield the passages that may support ``claim`` with the largest share that each can have, largest first."""
        if claim.empty:
            return
        words = len(claim.words)
        held: Counter[int] = Counter()
        for word in claim.words:
            held.update(self._holding.get(word, ()))
        able = [
            (held[passage], passage)
            for passage in (held if words else range(len(self._passages)))
            if held[passage] >= least_shared(words) and numbers <= self._numbers[passage]
        ]
        for count, passage in sorted(able, key=lambda each: (-each[0], each[1])):
            yield (count / words if words else 1.0), passage

    def _support(self, claim: Facts, passage: int) -> Support | None:
        if claim.empty:
            return None
        if passage not in self._prepared:
            self._prepared[passage] = Prepared(*self._passages[passage])
        return self._prepared[passage].support(claim)

    @cached_property
    def _holding(self) -> dict[str, list[int]]:
        """Of each content lemma, the passages that hold it in their text or headings."""
        holding: dict[str, list[int]] = {}
        for number, (text, headings) in enumerate(self._passages):
            for lemma in content_lemmas(f"{headings}\n{text}"):
                holding.setdefault(lemma, []).append(number)
        return holding

    @cached_property
    def _numbers(self) -> list[frozenset[str]]:
        return [numbers_of(text) for text, _ in self._passages]
