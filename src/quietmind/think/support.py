"""Does a passage hold what a sentence says? Judged on words, numbers and negation, without a model.

A sentence is supported by a *window* of a passage (one to three neighbouring sentences) when the window, with the
headings above it, holds its content words as lemmas but for a few, holds every number in it with its sign and unit,
every name and every word that turns a meaning round ("after", «выше»), and negates the same words. This is strict on
purpose: a true sentence marked as unsupported costs the reader a glance, a false one that passes costs them trust. It
cannot see across languages; the same words in another order, or one word in five exchanged, pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, reduce

from quietmind.notes.lemmas import content_lemmas, lemma_spans, lemmas_of
from quietmind.think.sentences import sentence_spans

# How many content words of a sentence its window may lack: none of four, then one of five. Chosen, like the next, on
# benchmarks/support_gate.py.
_WORDS_FOR_ONE_MISSING = 5
# Share of the content words that must stand in the window itself, and not in the headings above it.
_ENOUGH_ALONE = 0.4
_WINDOW_SENTENCES = 3
# A unit may stand this many words behind its number: "32 % of the soil", "3 new pumps".
_UNIT_WITHIN = 3
_CONTENT_OF_A_HEADING_CLAIM = 4

# With its sign, thousands, decimals, and the other half of a time of day.
# Not the 12 of REQ-12 and the 5 of v5; in "2-3" both are numbers.
_NUMBER = re.compile(
    r"(?:(?<![\w.,)\]])[-−–]|(?<![\w.])(?<![^\W\d_]-))\d+(?:[\u00a0\u202f ,]\d{3}(?!\d))*(?:[.,:]\d+)*"
)
_UNIT = re.compile(r"[%‰°]\s?[CFСF]?|[^\W\d_]+")
_NEGATION = re.compile(
    r"\b(?:not|no|never|without|cannot|neither|nor|не|нет|без|никогда|нельзя|ни)\b(?!\s+(?:only|just|только)\b)|n['’]t\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.,;:!?()\n]")
# Words that search takes for empty and that decide what a sentence says.
_DECISIVE = frozenset(
    "before after above below over under until since up down more less most least first last "  # noqa: SIM905
    "до после перед над под выше ниже больше меньше более менее раньше позже включая кроме".split()
)
_COUNTED = {
    word: str(number)
    for number, words in enumerate(
        "zero нуль|one один одна одно|two два две|three три|four четыре|five пять|six шесть|seven семь|eight восемь"  # noqa: SIM905
        "|nine девять|ten десять|eleven одиннадцать|twelve двенадцать".split("|")
    )
    for word in words.split()
}
_YES_OR_NO = re.compile(r"(?:yes|no|true|false|да|нет|верно|неверно)\W*", re.IGNORECASE)
_COURTESY = re.compile(r"(?:sure|certainly|of course|ok|okay|конечно|хорошо|разумеется)\W*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_NAME = re.compile(r"(?<=[^\s.!?:] )[A-ZА-ЯЁ][^\W\d_]+")


@dataclass(frozen=True)
class Support:
    """The words of a passage that bear a sentence: ``text[start:end]``; ``share`` of its content lemmas is there."""

    start: int
    end: int
    share: float


@dataclass(frozen=True)
class Facts:
    """What is compared of a sentence or a window. ``said`` and ``denied`` are lemmas without and with a "not".

    ``required`` may not be missing. ``quantities`` maps each number to the words that follow it.
    """

    said: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    decisive: frozenset[str] = frozenset()
    quantities: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __or__(self, other: Facts) -> Facts:
        return Facts(
            self.said | other.said,
            self.denied | other.denied,
            self.required | other.required,
            self.decisive | other.decisive,
            self.quantities + other.quantities,
        )

    @cached_property
    def words(self) -> frozenset[str]:
        """The lemmas that are no numbers: those are compared by value."""
        return frozenset(lemma for lemma in self.said | self.denied if not lemma[0].isdigit())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compare."""
        return not self.words and not self.quantities

    def found_in(self, other: Facts) -> int:
        """Return how many of these words ``other`` holds; -1 where it has one of them the other way round."""
        said, denied = self.said - self.denied, self.denied - self.said
        return -1 if said & other.denied or denied & other.said else len(self.words & other.words)

    def counts_like(self, other: Facts) -> bool:
        """Say whether ``other`` holds each number, and behind it the unit that stands here."""
        return all(
            any(
                number == theirs and (not units or units[0] in words or not words) for theirs, words in other.quantities
            )
            for number, units in self.quantities
        )


def is_claim(sentence: str) -> bool:
    """Say whether a sentence states anything to check. Questions, lead-ins, courtesies and bare headings do not."""
    if sentence.rstrip("\"'»”’)*_ ").endswith("?") or _COURTESY.fullmatch(sentence):
        return False
    facts = facts_of(sentence)
    if sentence.startswith("#") or sentence.endswith(":"):
        return bool(facts.quantities) or len(facts.words) >= _CONTENT_OF_A_HEADING_CLAIM
    return not facts.empty or _YES_OR_NO.fullmatch(sentence) is not None


def find_support(sentence: str, text: str, headings: str = "") -> Support | None:
    """Return the shortest window of ``text`` that supports ``sentence`` best, or None when none supports it.

    ``headings`` stand above the text: a sentence may name what the text itself takes as said.
    """
    claim = facts_of(sentence)
    return None if claim.empty else Prepared(text, headings).support(claim)


class Prepared:
    """A passage with what each of its windows says, worked out when a sentence is first held against it."""

    def __init__(self, text: str, headings: str = "") -> None:
        self._text = text
        self._headings = headings

    def support(self, claim: Facts) -> Support | None:
        """Return the shortest window that supports ``claim`` best, or None when none supports it."""
        supported = [
            Support(start, end, share)
            for start, end, window in self._windows
            if (share := _share(claim, window, self._above)) is not None
        ]
        return max(supported, key=lambda support: (support.share, support.start - support.end), default=None)

    @cached_property
    def _above(self) -> Facts:
        return facts_of(self._headings)

    @cached_property
    def _windows(self) -> list[tuple[int, int, Facts]]:
        spans = [span for span in sentence_spans(self._text) if self._text[span[0]] != "#"]
        facts = [facts_of(self._text[start:end]) for start, end in spans]
        return [
            (spans[first][0], spans[last][1], reduce(Facts.__or__, facts[first : last + 1]))
            for first in range(len(spans))
            for last in range(first, min(first + _WINDOW_SENTENCES, len(spans)))
        ]


def closest(query: str, text: str) -> Support:
    """Return the sentence of ``text``, no heading, that shares most with ``query``, whether or not that is much."""
    wanted = frozenset(content_lemmas(query))
    every = sentence_spans(text) or [(0, len(text))]
    spans = [span for span in every if text[span[0] : span[0] + 1] != "#"] or every

    def shared(span: tuple[int, int]) -> int:
        return len(wanted.intersection(content_lemmas(text[span[0] : span[1]])))

    best = max(spans, key=lambda span: (shared(span), -span[0]))
    return Support(*best, share=shared(best) / max(1, len(wanted)))


def least_shared(words: int) -> int:
    """Return how many of a sentence's content words what supports it must hold, its headings included."""
    return words - words // _WORDS_FOR_ONE_MISSING


def _share(claim: Facts, window: Facts, above: Facts) -> float | None:
    """Return the share of the claim's words that the window holds under its headings; None when it is no support."""
    if not claim.counts_like(window) or not claim.decisive <= window.decisive:
        return None
    if not claim.words:
        return 1.0
    if claim.found_in(window) < _ENOUGH_ALONE * len(claim.words):
        return None
    below = Facts(window.said | (above.said - window.denied), window.denied)
    found = claim.found_in(below)
    if found < least_shared(len(claim.words)) or not claim.required <= below.words:
        return None
    return found / len(claim.words)


def facts_of(text: str) -> Facts:
    """Return what ``text`` says, as far as it is compared."""
    content = frozenset(content_lemmas(text))
    spans = [(lemma, start) for lemma, start, _ in lemma_spans(text) if lemma in content]
    negated = {start for match in _NEGATION.finditer(text) if (start := _negated(match, spans, text)) is not None}
    return Facts(
        said=frozenset(lemma for lemma, start in spans if start not in negated),
        denied=frozenset(lemma for lemma, start in spans if start in negated),
        required=frozenset(lemma for name in _NAME.findall(text) for lemma in lemmas_of(name) if lemma in content),
        decisive=frozenset(word for word in map(str.lower, _WORD.findall(text)) if word in _DECISIVE),
        quantities=tuple(_quantities(text)),
    )


def _quantities(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return each number with the lemmas of the next words: «не дольше 90 секунд» gives ("90", ("секунда",))."""
    found = []
    for match, number in _numbers(text):
        clause = _CLAUSE_END.split(text[match.end() : match.end() + 64], maxsplit=1)[0]
        units = [unit for word in _UNIT.findall(clause) for unit in _unit(word)]
        found.append((number, tuple(units[:_UNIT_WITHIN])))
    return found


def numbers_of(text: str) -> frozenset[str]:
    """Return the numbers of ``text``, each in one spelling: of a sentence, those that what supports it must hold."""
    return frozenset(number for _, number in _numbers(text))


def _numbers(text: str) -> list[tuple[re.Match[str], str]]:
    written = [(match, _number(match[0])) for match in _NUMBER.finditer(text)]
    return written + [
        (match, _COUNTED[match[0].lower()]) for match in _WORD.finditer(text) if match[0].lower() in _COUNTED
    ]


def _unit(word: str) -> list[str]:
    if word[0] in "%‰°":
        return [word[0]]
    return content_lemmas(word)[:1]


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
    """Return a number in one spelling: "1 200", "1,200" and "1200" are the same, so are "−2,5" and "-2.5"."""
    plain = re.sub(r"[\u00a0\u202f ,](?=\d{3}(?!\d))", "", written)
    return re.sub("[−–]", "-", plain).replace(",", ".").rstrip(".")
