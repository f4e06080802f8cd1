"""Finding the line of a note that the anchor of a link means: a heading, a marked block, a named place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from quietmind.notes.markdown import plain

_HEADING = re.compile(r"[\s>]*#{1,6}\s+(.+?)\s*#*\s*\Z")
_UNDERLINE = re.compile(r"\s{0,3}(?:=+|-+)\s*\Z")
_NAMED = re.compile(r"(?:\b(?:id|name)=[\"']?|\{#|(?:\s|\A)\^)([^\s\"'>}]+)")
_REPEATED = re.compile(r"-\d+\Z")  # the second heading of the same words is words-1
_NOT_WORDS = re.compile(r"[\W_]+")


class Headings:
    """The anchors of notes, read when first asked for. Anything that may be one counts: a link is not called broken
    because its heading stands in an example.
    """

    def __init__(self, text: Callable[[Path], Iterable[tuple[int, str]]]) -> None:
        self._text = text
        self._known: dict[Path, dict[str, int]] = {}

    def line(self, path: Path, anchor: str) -> int | None:
        """Return the line of the note at ``path`` that ``anchor`` means, or None. Compared are letters and digits, as
        editors differ in all else; of a path of headings (``A#B``) the last counts.
        """
        if path not in self._known:
            self._known[path] = self._read(path)
        known = self._known[path]
        last = anchor.rpartition("#")[2]
        return known.get(_key(last)) or known.get(_key(_REPEATED.sub("", last)))

    def _read(self, path: Path) -> dict[str, int]:
        found: dict[str, int] = {}
        before = (0, "")
        for number, line in self._text(path):
            if heading := _HEADING.match(line):
                found.setdefault(_key(plain(heading[1])), number)
            elif _UNDERLINE.match(line) and before[0] == number - 1 and before[1].strip():
                found.setdefault(_key(plain(before[1])), before[0])
            for named in _NAMED.finditer(line) if "=" in line or "^" in line or "{#" in line else ():
                found.setdefault(_key(named[1]), number)
            before = (number, line)
        return found


def _key(words: str) -> str:
    return _NOT_WORDS.sub("", unicodedata.normalize("NFC", words)).casefold()
