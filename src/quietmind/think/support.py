"""Does a passage hold what a sentence says? Judged on words, numbers and negation, without a model.

A sentence is supported by a *window* of a passage (one to three neighbouring sentences) when the window holds most of
its content words as lemmas, every number and identifier in it, and says neither more nor less "not". This is strict on
purpose: a true sentence marked as unsupported costs the reader a glance, a false one that passes costs them trust. It
cannot see across languages, and a sentence that turns the meaning round with the same words passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quietmind.notes.lemmas import STOP_WORDS, lemma_spans
from quietmind.think.sentences import sentence_spans

# Share of a sentence's content lemmas that its window must hold. Chosen on benchmarks/support_gate.py.
ENOUGH = 0.6
_WINDOW_SENTENCES = 3
_CONTENT_FOR_A_CLAIM = 2

_NUMBER = re.compile(r"\d+(?:[\u00a0\u202f ,]\d{3}(?!\d))*(?:[.,]\d+)*")
_NEGATIONS = frozenset(
    "not no never without cannot neither nor none n't не нет без никогда нельзя ни".split()  # noqa: SIM905
)
_WORD = re.compile(r"n't\b|[^\W\d_]+", re.IGNORECASE)


@dataclass(frozen=True)
class Support:
    """The words of a passage that bear a sentence: ``text[start:end]``; ``share`` of its content lemmas is there."""

    start: int
    end: int
    share: float


@dataclass(frozen=True)
class _Facts:
    lemmas: frozenset[str]
    numbers: frozenset[str]
    negated: bool


def is_claim(sentence: str) -> bool:
    """Say whether a sentence states anything that could be checked: "Sure!" and "Here is the list:" do not."""
    facts = _facts(sentence)
    return len(facts.lemmas) >= _CONTENT_FOR_A_CLAIM or bool(facts.numbers)


def find_support(sentence: str, text: str) -> Support | None:
    """Return the shortest window of ``text`` that supports ``sentence`` best, or None when none supports it."""
    claim = _facts(sentence)
    if not claim.lemmas and not claim.numbers:
        return None
    supported = [
        Support(start, end, share)
        for start, end in _windows(text)
        if (share := _share(claim, _facts(text[start:end]))) >= ENOUGH
    ]
    return max(supported, key=lambda s: (s.share, s.start - s.end), default=None)


def closest(query: str, text: str) -> Support:
    """Return the sentence of ``text`` that shares most with ``query``, whether or not that is much."""
    wanted = _facts(query).lemmas
    spans = sentence_spans(text) or [(0, len(text))]

    def shared(span: tuple[int, int]) -> int:
        return len(wanted & _facts(text[span[0] : span[1]]).lemmas)

    best = max(spans, key=lambda span: (shared(span), -span[0]))
    return Support(*best, share=shared(best) / max(1, len(wanted)))


def _share(claim: _Facts, window: _Facts) -> float:
    if not claim.numbers <= window.numbers or claim.negated != window.negated:
        return 0.0
    if not claim.lemmas:
        return 1.0
    return len(claim.lemmas & window.lemmas) / len(claim.lemmas)


def _windows(text: str) -> list[tuple[int, int]]:
    spans = sentence_spans(text)
    return [
        (spans[first][0], spans[last][1])
        for first in range(len(spans))
        for last in range(first, min(first + _WINDOW_SENTENCES, len(spans)))
    ]


def _facts(text: str) -> _Facts:
    words = {word.lower() for word in _WORD.findall(text)}
    lemmas = {lemma for lemma, _, _ in lemma_spans(text)}
    return _Facts(
        lemmas=frozenset(lemma for lemma in lemmas if lemma not in STOP_WORDS and not lemma.isdigit()),
        numbers=frozenset(_number(found) for found in _NUMBER.findall(text)),
        negated=bool(words & _NEGATIONS),
    )


def _number(written: str) -> str:
    """Return a number in one spelling: "1 200", "1,200" and "1200" are the same, so are "2,5" and "2.5"."""
    plain = re.sub(r"[\u00a0\u202f ,](?=\d{3}(?!\d))", "", written)
    return plain.replace(",", ".").rstrip(".")
