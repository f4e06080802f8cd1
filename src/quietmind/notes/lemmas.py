"""Text to lemmas: what a word is searched and compared by, whatever its inflection.

Each word goes by its script: Cyrillic to its dictionary form (pymorphy3), Latin to its English stem (Snowball).
Identifiers, versions and file names are kept whole and also taken apart: ``REQ-12`` gives ``req-12``, ``req``, ``12``.
A lemma is lower case, has е for ё, and holds only letters, digits and ``_ . -``.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Raise it when the same text gives other lemmas: indexes read their files again.
LEMMA_VERSION = 1

MAX_LEMMA_CHARS = 64  # longer runs without a space are data (base64, hashes joined), not words
_MAX_TOKEN_CHARS = 1000  # beyond it nothing is taken apart either
_CACHE_WORDS = 300_000  # about 70 MB
_CACHE_SPANS = 10_000

# Letters and digits, joined by single marks; combining marks (stress, й written as two characters) do not part a word.
# The tail of don't, it's, we'll is no word. Repetitions are bounded: each round of one takes memory.
_TOKEN = re.compile(
    r"[^\W_]+(?:[\u0300-\u036f]+[^\W_]*|[_.\-\u2010\u2011]{1,3}[^\W_]+){0,99}(?:['’](?:s|t|re|ve|ll|d|m)\b)?"
)
_TAIL = re.compile(r"['’][a-z]+$")
_HYPHENS = re.compile(r"[\u2010\u2011]")
# What a compound consists of: numbers with their points (2.5.1), words. The v of v2.5.1 is on its own.
_ATOM = re.compile(r"\d+(?:\.\d+)+|[^\W\d_]+(?=\d+\.\d)|[^\W_]+(?:[\u0300-\u036f]+[^\W_]*)*")
_HUMP = re.compile(  # of readDocument, HTTPServer, qwen3
    "[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[А-ЯЁ]+(?![а-яё])|[А-ЯЁ]?[а-яё]+"
)
_PLAIN = re.compile("[A-Z]?[a-z]+|[А-ЯЁ]?[а-яё]+")  # a word that is one hump: nothing to take apart
_MARKS = re.compile(r"[\u0300-\u036f]+")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]+")

Span = tuple[str, int, int]


def lemmas_of(text: str) -> list[str]:
    """Return the lemmas of ``text`` in order; a compound gives itself first, then its parts."""
    return lemma_text(text).split()


def lemma_text(text: str) -> str:
    """Return the lemmas of ``text`` in order, separated by single spaces; see :func:`lemmas_of`."""
    return " ".join(filter(None, map(_WORDS.__getitem__, _TOKEN.findall(text))))


def lemma_spans(text: str) -> list[Span]:
    """Return ``(lemma, start, end)`` in order: ``text[start:end]`` is what gave the lemma.

    The parts of a compound lie inside the span of the whole. Otherwise as :func:`lemmas_of`.
    """
    return [
        (lemma, match.start() + start, match.start() + end)
        for match in _TOKEN.finditer(text)
        for lemma, start, end in _spans(match[0])
    ]


def query_lemmas(text: str) -> list[str]:
    """Return the lemmas of a question, each once, without words that say nothing; all, if nothing else is left."""
    return content_lemmas(text) or list(dict.fromkeys(lemmas_of(text)))


def content_lemmas(text: str) -> list[str]:
    """Return the lemmas of ``text``, each once, without words that say nothing."""
    return [lemma for lemma in dict.fromkeys(lemmas_of(text)) if lemma not in _stop_lemmas()]


class _Words(dict[str, str]):
    """The lemmas of each token that has been met, separated by spaces. Starts over when it grows too large."""

    def __missing__(self, token: str) -> str:
        if len(token) > _MAX_TOKEN_CHARS:
            return ""
        if len(self) >= _CACHE_WORDS:
            self.clear()
        if len(token) <= MAX_LEMMA_CHARS and _PLAIN.fullmatch(token):
            lemmas = _lemma(token)
        else:
            lemmas = " ".join(lemma for lemma, _, _ in _take_apart(token))
        self[token] = lemmas = token if lemmas == token else lemmas  # most are their own lemma: one string, not two
        return lemmas


_WORDS = _Words()


def _spans(token: str) -> tuple[Span, ...]:
    return _cached_spans(token) if len(token) <= _MAX_TOKEN_CHARS else ()


def _take_apart(token: str) -> tuple[Span, ...]:
    word = _TAIL.sub("", token)
    parts: list[Span] = []
    for atom in _ATOM.finditer(word):
        parts.append((_lemma(atom[0]), *atom.span()))
        humps = list(_HUMP.finditer(atom[0]))
        letters = sum(hump.end() - hump.start() for hump in humps)
        digits = sum(char.isdigit() for char in atom[0])
        if letters + digits == len(atom[0]) and len(humps) + bool(digits) > 1:
            parts += [(_lemma(hump[0]), atom.start() + hump.start(), atom.start() + hump.end()) for hump in humps]
    if not parts or parts[0][2] - parts[0][1] < len(word):
        # A single letter says something as a word of its own, not as a part of one.
        parts = [part for part in parts if part[2] - part[1] > 1 or part[0].isdigit()]
        parts.insert(0, (_HYPHENS.sub("-", _folded(word)), 0, len(word)))
    else:
        parts = parts[:1] + [part for part in parts[1:] if part[2] - part[1] > 1]
    return tuple(part for part in parts if 0 < len(part[0]) <= MAX_LEMMA_CHARS)


_cached_spans = lru_cache(_CACHE_SPANS)(_take_apart)


def _lemma(word: str) -> str:
    folded = _folded(word)
    if _CYRILLIC.fullmatch(folded):
        return _russian()(folded).replace("ё", "е")
    if folded.isascii() and folded.isalpha() and len(folded) <= MAX_LEMMA_CHARS:
        return _english()(folded)
    return folded


def _folded(word: str) -> str:
    lower = word.lower()
    if not lower.isascii():
        lower = _MARKS.sub("", unicodedata.normalize("NFC", lower)).replace("ё", "е")
    return lower


@cache
def _russian() -> Callable[[str], str]:
    """Return the dictionary form of a word. Loading the dictionary takes 0.1 s, a new word 0.07 ms."""
    from pymorphy3 import MorphAnalyzer

    normal_forms = MorphAnalyzer(lang="ru").normal_forms

    def dictionary_form(word: str) -> str:
        return normal_forms(word)[0] if len(word) <= MAX_LEMMA_CHARS else word

    return dictionary_form


@cache
def _english() -> Callable[[str], str]:
    import snowballstemmer

    stem: Callable[[str], str] = snowballstemmer.stemmer("english").stemWord
    return stem


_STOP_WORDS = """
а без бы был быть в ваш вот во все всё вы где да для до его ее если есть еще же за зачем и из или им их к как какой
какая какие какое ко когда который кто куда ли мне мой мы на над наш не него нет ни но ну о об он она они оно от
откуда по под почему при про с свой сколько со так такой там то тоже только тот тут ты у уже через чем что чтобы это
этот я
a about an and any are as at be been but by can could did do does for from had has have how i if in into is it its
many me much my of on or our should so that the their them then there these they this those to was we were what when
where which who why will with would you your
"""


@cache
def _stop_lemmas() -> frozenset[str]:
    return frozenset(lemmas_of(_STOP_WORDS))
