"""The languages of a text, told by the letters of its words.

That is all that is looked at: Cyrillic letters are taken for Russian and Latin ones for English, unless more than one
in thirty of them is a letter that the language does not have (ї, ü). Such text, and every other script, is "other". A
language that has few letters of its own (Dutch, much German) is taken for English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from quietmind.notes.document import Document, Form, Kind, Passage


class Language(StrEnum):
    """What a passage can be searched by, and a question is asked in."""

    RUSSIAN = "ru"
    ENGLISH = "en"
    OTHER = "other"


MIXED = 0.25  # of the letters: a passage is in each language that has so many, so that one may be in two
FEWEST = 20  # letters of prose by which a passage is judged; with fewer, it is taken to be in those of its document
_STRANGE = 1 / 30  # of the letters of a script: names in another language have some

# The characters of Windows-1251, which has the Cyrillic letters of Europe, one byte each; 0x98 is none.
_SINGLE = [bytes([byte]).decode("cp1251", "replace") for byte in range(0x100)]
_RUSSIAN, _ENGLISH, _CYRILLIC, _NONE = b"rec "


def _sort(char: str) -> int:
    if char.isascii():
        return _ENGLISH if char.isalpha() else _NONE
    if "\u0400" <= char <= "\u04ff":
        return _RUSSIAN if "А" <= char <= "я" or char in "Ёё" else _CYRILLIC
    return _NONE


_SORTS = bytes(map(_sort, _SINGLE))
_LAST_LATIN = "\u024f"

# Commands, names and addresses inside of prose: whatever their letters, they are in no language.
_NOT_WORDS = re.compile(r"`[^`\n]*`|\]\([^)\n]*\)|://\S+")


class _Letters(NamedTuple):
    """How many letters a text has: Russian and English ones, other Cyrillic and Latin ones, those of other scripts."""

    russian: int = 0
    english: int = 0
    cyrillic: int = 0
    latin: int = 0
    foreign: int = 0

    def languages(self) -> tuple[Language, ...]:
        """Return the languages that have :data:`MIXED` of the letters, in the order of their names."""
        total = sum(self)
        if total == self.english:
            return (Language.ENGLISH,) if total else ()
        shares = {Language.ENGLISH: self.english, Language.OTHER: self.foreign, Language.RUSSIAN: self.russian}
        for language, own, strange in (
            (Language.RUSSIAN, self.russian, self.cyrillic),
            (Language.ENGLISH, self.english, self.latin),
        ):
            if strange > _STRANGE * (own + strange):
                shares[language] = 0
                shares[Language.OTHER] += own + strange
        return tuple(language for language, letters in shares.items() if letters and letters >= MIXED * total)


def languages_of(document: Document, passages: Sequence[Passage]) -> list[tuple[Language, ...]]:
    """Return the languages of each of ``passages`` of ``document``, sorted by name; none where there are no letters.

    Code does not count where there is prose.
    """
    if all(passage.text.isascii() for passage in passages):
        any_letter = any(passage.text.lower() != passage.text.upper() for passage in passages)
        return [(Language.ENGLISH,) if any_letter else ()] * len(passages)
    letters = [_letters(text) for text in _prose(document, passages)]
    whole = _Letters(*map(sum, zip(*letters, strict=True))) if letters else _Letters()
    if sum(whole) < FEWEST:
        return [languages_in(passage.text) for passage in passages]
    of_document = whole.languages()
    return [each.languages() if sum(each) >= FEWEST else of_document for each in letters]


def languages_in(text: str) -> tuple[Language, ...]:
    """Return the languages of a text that stands alone, sorted by name; none where there are no letters."""
    return _letters(text).languages()


def _prose(document: Document, passages: Sequence[Passage]) -> Iterator[str]:
    """Yield the text of each passage without code, marks of an export and front matter; of plain text and of
    code, whose comments are what people wrote, all of it.
    """
    blocks = document.blocks if document.kind not in (Kind.TEXT, Kind.CODE) else ()
    skipped = {
        line
        for block in blocks
        if block.form in (Form.CODE, Form.MARK) or (block.first_line == 1 and document.lines[0].rstrip() == "---")
        for line in range(block.first_line, block.last_line + 1)
    }
    for passage in passages:
        if skipped.isdisjoint(range(passage.first_line, passage.last_line + 1)):
            yield passage.text
        else:
            lines = enumerate(passage.text.split("\n"), passage.first_line)
            yield "\n".join(line for number, line in lines if number not in skipped)


def _letters(text: str) -> _Letters:
    """Return the letters of ``text``, without those of commands and addresses where they would make it seem mixed."""
    counted = _counted(text)
    mixed = max(counted) < (1 - MIXED / 2) * sum(counted)
    return _counted(_NOT_WORDS.sub(" ", text)) if mixed else counted


def _counted(text: str) -> _Letters:
    ascii_ = text.encode("ascii", "ignore").translate(_SORTS)
    english = ascii_.count(_ENGLISH)
    if len(text) - len(ascii_) <= _STRANGE * english:  # quotes and dashes, or a name: too little to change anything
        return _Letters(english=english)
    sorts = text.encode("cp1251", "ignore").translate(_SORTS)
    latin = foreign = 0
    if len(sorts) < len(text):
        for char in set(text).difference(_SINGLE):
            if char.isalpha():
                number = text.count(char)
                latin, foreign = (latin + number, foreign) if char <= _LAST_LATIN else (latin, foreign + number)
    return _Letters(sorts.count(_RUSSIAN), english, sorts.count(_CYRILLIC), latin, foreign)
