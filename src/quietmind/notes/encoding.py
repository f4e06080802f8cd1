"""Bytes to text: byte order marks, UTF-8, UTF-16 without a mark, and the 8-bit encodings of Russian notes.

The 8-bit encodings are told apart by a small model of our own. General detectors need a paragraph and guess from
dozens of encodings; an archive needs the right one of four for a note of five words. What a note says of itself is
enough: how often Russian uses each letter, and which letters stand together; that words are not written lIKE tHIS
(KOI8-R read as cp1251 flips the case of every letter), and that box-drawing does not stand inside words.
"""

from __future__ import annotations

import codecs
import itertools
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

# Letters of running Russian text per mille, rounded (Lyashevskaya, Sharov: Frequency dictionary, 2009).
_PER_MILLE = (
    ("о", 110), ("е", 85), ("а", 80), ("и", 74), ("н", 67), ("т", 63), ("с", 55), ("р", 47), ("в", 45), ("л", 44),
    ("к", 35), ("м", 32), ("д", 30), ("п", 28), ("у", 26), ("я", 20), ("ы", 19), ("ь", 17), ("г", 17), ("з", 16),
    ("б", 16), ("ч", 14), ("й", 12), ("х", 10), ("ж", 9), ("ш", 7), ("ю", 6), ("ц", 5), ("щ", 4), ("э", 3),
    ("ф", 3), ("ъ", 0.4), ("ё", 1),
)  # fmt: skip
# How two letters get on as neighbours: row the first, column the second, "^" the edge of a word. Digit d stands for
# a pointwise mutual information of (d - 6) / 1.5 nats, counted over a seventh of the word forms of OpenCorpora.
_ALPHABET = "^абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
_NEIGHBOURS = (
    "0586772168517567696766866553000933",
    "5077675277366777066673777656000686",
    "0743467663605755727548245446974534",
    "4810236615604515623535114393583204",
    "1702235110602735807217000440001420",
    "2645557885706546756547237642975535",
    "7166775076286787367763656654000562",
    "0077760086015679068770060460200020",
    "1740387962805237434416315100505520",
    "2876775674704666605207013330974435",
    "6358565268376676357662788844000445",
    "9030540002005335112860526463000200",
    "3724104303703614807567117040001500",
    "3740437943805523710336430300069478",
    "8650106621703434651648423301082504",
    "4721567743705007700567527512597436",
    "6188884376386776266773756744000663",
    "0600007500602703838346313411064304",
    "1752657764705355732558555543165446",
    "1544335530509655573586656542868329",
    "4745447741705435747537434532777446",
    "7275775286256765076770566876000693",
    "1700306511801733707467811110145233",
    "9614113000602655625745002230401500",
    "4725218002907221520216114000171610",
    "3701008910806317101137110010006000",
    "0603009700805524240156000000008220",
    "0600009800900002001007000000000000",
    "0000009910000000000000101000500389",
    "6068556066086583065651194664000001",
    "8053566635406058130760747656000678",
    "1045560044059977167672854050300301",
    "8061340264024333014760355639000230",
    "9046554076044565044661076528000072",
)
_COMMON_SYMBOLS = frozenset("«»—–…№“”„‘’•°§©®™·\u00a0±×")
_LOG_COMMON_SYMBOL = math.log(0.01)
_LOG_RARE_SYMBOL = math.log(0.0001)
_LOG_ACCENT_AMONG_LATIN = math.log(0.02)  # é in café
_LOG_ACCENT_ELSEWHERE = math.log(0.002)  # the accents of Ïðèâåò
_LOG_UNDEFINED = math.log(1e-6)
# What one word costs for its case, in nats. A flipped case (пРИВЕТ) is what a wrong encoding looks like.
_CAPITALIZED, _ALL_CAPITALS, _FLIPPED = -0.5, -2.5, -9.0

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOSTLY = 0.9
_CYRILLIC = re.compile("[Ѐ-ӿ]")
_WORD = re.compile(r"[^\W\d_]+")


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of ``data``, without a byte order mark, and the name of its encoding.

    UTF-8 with a few damaged bytes stays UTF-8, with U+FFFD in their place. Raises NotesError, whose message says
    what is wrong but not where, when the bytes are no text.
    """
    text, name = _decode(data)
    if "\0" in text:
        raise NotesError("binary, not text (it holds zero bytes)")
    allowed = 0.01 if name in _EIGHT_BIT else 0.1  # any bytes are text in an 8-bit encoding
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


def _decode(data: bytes) -> tuple[str, str]:
    for bom, name in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(name, "replace"), name
    if wide := _utf16_without_mark(data):
        return data.decode(wide), wide
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
        if _CYRILLIC.search(word):
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
    neighbours = _neighbours()
    edged = f"^{lower}^"
    return total + sum(neighbours.get(pair, 0.0) for pair in itertools.pairwise(edged))


@cache
def _neighbours() -> dict[tuple[str, str], float]:
    return {
        (one, two): (int(digit) - 6) / 1.5
        for one, row in zip(_ALPHABET, _NEIGHBOURS, strict=True)
        for two, digit in zip(_ALPHABET, row, strict=True)
    }


@cache
def _prices() -> dict[str, float]:
    """Return the log-probability of characters beyond ASCII."""
    prices = {letter: math.log(share / 1000) for letter, share in _PER_MILLE}
    prices.update(dict.fromkeys(_COMMON_SYMBOLS, _LOG_COMMON_SYMBOL))
    prices["\ufffd"] = _LOG_UNDEFINED
    return prices
