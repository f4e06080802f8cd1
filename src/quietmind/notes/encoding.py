"""Bytes to text: byte order marks, UTF-8, UTF-16 without a mark, and the 8-bit encodings of Russian notes.

The 8-bit encodings are told apart by a small model of our own. General detectors need a paragraph and guess from
dozens of encodings; an archive needs the right one of four for a note of five words. What a note says of itself is
enough: how often Russian uses each letter and each pair of neighbours' classes, that words are not written lIKE tHIS
(KOI8-R read as cp1251 flips the case of every letter), and that box-drawing does not stand inside words.
"""

from __future__ import annotations

import codecs
import math
import re
from functools import cache

from quietmind.base.errors import NotesError

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_EIGHT_BIT = ("cp1251", "koi8-r", "cp866", "cp1252")  # in the order of preference when two score the same

# Letters of running Russian text per mille, Russian National Corpus (O. Lyashevskaya, S. Sharov, 2009).
_PER_MILLE = dict(
    zip(
        "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
        (110, 85, 80, 74, 67, 63, 55, 47, 45, 44, 35, 32, 30, 28, 26, 20, 19, 17, 17, 16.5, 16, 14.5, 12)
        + (9.7, 9.4, 7.2, 6.4, 4.9, 3.6, 3.3, 2.7, 0.4, 1.3),
        strict=True,
    )
)
_VOWELS = frozenset("аеиоуыэюяё")
_SIGNS = frozenset("ьъ")
_COMMON_SYMBOLS = frozenset("«»—–…№“”„‘’•°§©®™·\u00a0±×")
_LOG_COMMON_SYMBOL = math.log(0.01)
_LOG_RARE_SYMBOL = math.log(0.0004)
_LOG_ACCENT_AMONG_LATIN = math.log(0.02)  # é in café
_LOG_ACCENT_ELSEWHERE = math.log(0.002)  # the accents of Ïðèâåò
_LOG_UNDEFINED = math.log(1e-6)
# What one word costs for its case, in nats. A flipped case (пРИВЕТ) is what a wrong encoding looks like.
_CAPITALIZED, _ALL_CAPITALS, _FLIPPED = -0.5, -2.5, -9.0

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOSTLY = 0.9
_WORD = re.compile(r"[^\W\d_]+")


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of ``data``, without a byte order mark, and the name of its encoding.

    UTF-8 with a few damaged bytes stays UTF-8, with U+FFFD in their place. Raises NotesError, whose message says
    what is wrong but not where, when the bytes are no text.
    """
    for bom, name in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(name, "replace"), name
    if wide := _utf16_without_mark(data):
        return data.decode(wide), wide
    if 0 in data:
        raise NotesError("binary, not text (it holds zero bytes)")
    text, name = _decode_narrow(data)
    allowed = 0.1 if name == "utf-8" else 0.01
    if len(_CONTROL.findall(text)) > max(1, allowed * len(text)):
        raise NotesError("binary, not text (it is full of control characters)")
    return text, name


def split_lines(text: str) -> tuple[str, ...]:
    r"""Return the lines of ``text`` as editors count them: ended by \n, \r\n or \r and by nothing else.

    A last line that ends with a newline is not followed by another, empty one.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return tuple(lines)


def _decode_narrow(data: bytes) -> tuple[str, str]:
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    patched = data.decode("utf-8", "replace")
    multibyte = sum(c > "\x7f" for c in patched)
    if patched.count("\ufffd") <= (1 - _MOSTLY) * multibyte:
        return patched, "utf-8"
    name = max(_EIGHT_BIT, key=lambda candidate: _plausibility(data, candidate))  # max keeps the first of equals
    return data.decode(name, "replace"), name


def _utf16_without_mark(data: bytes) -> str | None:
    """Return the byte order of UTF-16 text in Latin or Cyrillic letters, None when ``data`` is no such text.

    Must come before UTF-8: Cyrillic in UTF-16 consists of bytes below 0x80 and is valid UTF-8, full of controls.
    """
    sample = data[: 1 << 16]
    if len(data) % 2 or not _CONTROL.search(sample.decode("latin-1")):
        return None
    for name in ("utf-16-le", "utf-16-be"):
        try:
            text = sample.decode(name)
            data.decode(name)
        except UnicodeDecodeError:
            continue
        usual = sum(" " <= c <= "~" or "Ѐ" <= c <= "џ" or c in "\t\n\r" or c in _COMMON_SYMBOLS for c in text)
        if usual > _MOSTLY * len(text):
            return name
    return None


def _plausibility(data: bytes, name: str) -> float:
    """Return the log-likelihood of ``data`` as text in the encoding ``name``, up to a constant."""
    text = data[: 1 << 14].decode(name, "replace")
    prices = _prices()
    total = 0.0
    for word in _WORD.findall(text):
        if word.isascii():
            continue
        latin = sum(c < "\x80" for c in word)
        if "а" <= word[-1].lower() <= "я" or "а" <= word[0].lower() <= "я" or word[0] in "ёЁ":
            total += _cyrillic_word(word, latin, prices)
        else:
            accent = _LOG_ACCENT_AMONG_LATIN if 2 * latin >= len(word) or len(word) == 1 else _LOG_ACCENT_ELSEWHERE
            total += (len(word) - latin) * accent
    for char in text:
        if char > "\x7f" and not char.isalpha():
            total += prices.get(char, _LOG_RARE_SYMBOL)
    return total


def _cyrillic_word(word: str, latin: int, prices: dict[str, float]) -> float:
    lower = word.lower()
    total = sum(prices.get(c, _LOG_RARE_SYMBOL) for c in lower if c > "\x7f") + latin * _LOG_ACCENT_ELSEWHERE
    if word != lower:
        if word == word.capitalize():
            total += _CAPITALIZED
        elif word == word.upper():
            total += _ALL_CAPITALS
        else:
            total += _FLIPPED
    if lower[0] in "ьъы":
        total += _LOG_ACCENT_ELSEWHERE  # no Russian word begins so
    for one, two in zip(lower, lower[1:], strict=False):
        total += _pair(one, two)
    return total


@cache
def _pair(one: str, two: str) -> float:
    """Return how much likelier (in nats, roughly) two letters are as neighbours than by their frequencies alone."""
    if two in _SIGNS and (one in _VOWELS or one in _SIGNS or one == "й"):
        return -6.0
    if one in _VOWELS:
        return -1.0 if two in _VOWELS else 0.25
    if one in _SIGNS:
        return 0.0
    return 0.3 if two in _VOWELS else -0.5


@cache
def _prices() -> dict[str, float]:
    """Return the log-probability of characters beyond ASCII."""
    prices = {letter: math.log(share / 1000) for letter, share in _PER_MILLE.items()}
    prices.update(dict.fromkeys(_COMMON_SYMBOLS, _LOG_COMMON_SYMBOL))
    prices["\ufffd"] = _LOG_UNDEFINED
    return prices
