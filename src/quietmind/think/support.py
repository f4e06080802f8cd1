"""Does a passage hold what a sentence says? Judged on words, numbers and negation, without a model.

A sentence is supported by a *window* of a passage (one to three neighbouring sentences) when the window, with the
headings above it, holds most of its content words as lemmas, holds every number in it, and negates the same words. This
is strict on purpose: a true sentence marked as unsupported costs the reader a glance, a false one that passes costs
them trust. It cannot see across languages, and a sentence that turns the meaning round with the same words passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce

from quietmind.notes.lemmas import content_lemmas, lemma_spans
from quietmind.think.sentences import sentence_spans

# Shares of a sentence's content lemmas that its window must hold: with the headings above it, and on its own.
# Chosen on benchmarks/support_gate.py.
ENOUGH = 0.6
ENOUGH_ALONE = 0.4
_WINDOW_SENTENCES = 3
_CONTENT_FOR_A_CLAIM = 2

# With its thousands, decimals, and the other half of a time of day.
_NUMBER = re.compile(r"\d+(?:[\u00a0\u202f ,]\d{3}(?!\d))*(?:[.,:]\d+)*")
_NEGATION = re.compile(
    r"\b(?:not|no|never|without|cannot|neither|nor|не|нет|без|никогда|нельзя|ни)\b(?!\s+(?:only|just|только)\b)|n['’]t\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.,;:!?()\n]")


@dataclass(frozen=True)
class Support:
    """The words of a passage that bear a sentence: ``text[start:end]``; ``share`` of its content lemmas is there."""

    start: int
    end: int
    share: float


@dataclass(frozen=True)
class _Facts:
    """What is compared: lemmas that stand without "not" and those that stand with one, and numbers."""

    said: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()

    def __or__(self, other: _Facts) -> _Facts:
        return _Facts(self.said | other.said, self.denied | other.denied, self.numbers | other.numbers)

    @property
    def words(self) -> frozenset[str]:
        """The lemmas that are no numbers: those are compared by value."""
        return frozenset(lemma for lemma in self.said | self.denied if not lemma[0].isdigit())

    def found_in(self, other: _Facts) -> int:
        """Return how many of these lemmas ``other`` holds; -1 where it has one of them the other way round."""
        said, denied = self.said - self.denied, self.denied - self.said
        return -1 if said & other.denied or denied & other.said else len(self.words & other.words)


def is_claim(sentence: str) -> bool:
    """Say whether a sentence states anything that could be checked: "Sure!", a question and a heading do not."""
    if sentence.startswith("#") or sentence.rstrip("\"'»”’)*_ ").endswith("?"):
        return False
    facts = _facts(sentence)
    return len(facts.words) >= _CONTENT_FOR_A_CLAIM or bool(facts.numbers)


def find_support(sentence: str, text: str, headings: str = "") -> Support | None:
    """Return the shortest window of ``text`` that supports ``sentence`` best, or None when none supports it.

    ``headings`` stand above the text: a sentence may name what the text itself takes as said.
    """
    claim = _facts(sentence)
    if not claim.words and not claim.numbers:
        return None
    above = _facts(headings)
    spans = sentence_spans(text)
    facts = [_facts(text[start:end]) for start, end in spans]
    supported = []
    for first in range(len(spans)):
        for last in range(first, min(first + _WINDOW_SENTENCES, len(spans))):
            share = _share(claim, reduce(_Facts.__or__, facts[first : last + 1]), above)
            if share is not None:
                supported.append(Support(spans[first][0], spans[last][1], share))
    return max(supported, key=lambda support: (support.share, support.start - support.end), default=None)


def closest(query: str, text: str) -> Support:
    """Return the sentence of ``text``, no heading, that shares most with ``query``, whether or not that is much."""
    wanted = frozenset(content_lemmas(query))
    every = sentence_spans(text) or [(0, len(text))]
    spans = [span for span in every if text[span[0]] != "#"] or every

    def shared(span: tuple[int, int]) -> int:
        return len(wanted.intersection(content_lemmas(text[span[0] : span[1]])))

    best = max(spans, key=lambda span: (shared(span), -span[0]))
    return Support(*best, share=shared(best) / max(1, len(wanted)))


def _share(claim: _Facts, window: _Facts, above: _Facts) -> float | None:
    """Return the share of the claim's lemmas that the window holds under its headings; None when it is no support."""
    if not claim.numbers <= window.numbers:
        return None
    if not claim.words:
        return 1.0
    alone = claim.found_in(window) / len(claim.words)
    share = claim.found_in(_Facts(window.said | (above.said - window.denied), window.denied)) / len(claim.words)
    return share if share >= ENOUGH and alone >= ENOUGH_ALONE else None


def _facts(text: str) -> _Facts:
    content = frozenset(content_lemmas(text))
    spans = [(lemma, start) for lemma, start, _ in lemma_spans(text) if lemma in content]
    negated = {start for match in _NEGATION.finditer(text) if (start := _negated(match, spans, text)) is not None}
    return _Facts(
        said=frozenset(lemma for lemma, start in spans if start not in negated),
        denied=frozenset(lemma for lemma, start in spans if start in negated),
        numbers=frozenset(_number(found) for found in _NUMBER.findall(text)),
    )


def _negated(match: re.Match[str], spans: list[tuple[str, int]], text: str) -> int | None:
    """Return where the word stands that a "not" speaks of: the next content word of its clause.

    «нет» often follows what is not there: without a word behind it, it is the one before.
    """
    following = next((start for _, start in spans if start >= match.end()), None)
    if following is not None and not _CLAUSE_END.search(text, match.end(), following):
        return following
    before = next((start for _, start in reversed(spans) if start < match.start()), None)
    return before if match[0].lower() == "нет" else None


def _number(written: str) -> str:
    """Return a number in one spelling: "1 200", "1,200" and "1200" are the same, so are "2,5" and "2.5"."""
    plain = re.sub(r"[\u00a0\u202f ,](?=\d{3}(?!\d))", "", written)
    return plain.replace(",", ".").rstrip(".")
