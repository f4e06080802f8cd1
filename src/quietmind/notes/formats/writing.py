"""Writing Markdown line by line: what documents of other formats are rendered as, so that one parser finds headings,
lists, tables and links in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from quietmind.notes.formats.rendered import clean, flat

LONGEST_LINE = 1000  # characters: a passage is a run of whole lines, and a page of text in one could not be cut
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")
# Words that Markdown would take for the mark of a block.
_MARK = re.compile(r"#{1,6}(?:\s|\Z)|[-*+](?:\s|\Z)|\d{1,9}[.)](?:\s|\Z)|>|```|~~~|\||[=-]+\s*\Z|<[a-zA-Z!/?]")


class Writer:
    """Lines of Markdown in the making. Texts are given as they are to be read; those of one line are made so here."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0  # of the item that was written last; 0 after anything else

    def heading(self, level: int, text: str) -> None:
        """Write a heading of ``level`` 1 to 6; nothing where it says nothing."""
        if words := flat(text):
            self._blank()
            self.lines.append(f"{'#' * min(max(level, 1), 6)} {words}")

    def paragraph(self, text: str, quoted: int = 0) -> None:
        """Write a paragraph, of lines of at most LONGEST_LINE characters where its sentences allow."""
        if words := flat(text):
            self._blank()
            mark = "> " * quoted
            self.lines += [f"{mark}{_escaped(line)}" for line in broken(words)]

    def item(self, depth: int, text: str, mark: str = "-") -> None:
        """Write an item of a list; ``depth`` is 1 for one that is in no other item."""
        if words := flat(text):
            depth = min(depth, self._depth + 1, 8)  # indented further than under an item, it would be code
            if not self._depth:
                self._blank()
            self._depth = depth
            indent = "    " * (depth - 1)
            first, *rest = broken(words)
            self.lines.append(f"{indent}{mark} {first}")
            self.lines += [f"{indent}{' ' * (len(mark) + 1)}{_escaped(line)}" for line in rest]

    def further(self, depth: int, text: str) -> None:
        """Write another paragraph of the item at ``depth``."""
        if words := flat(text):
            indent = "    " * min(depth, self._depth)
            if self.lines and self.lines[-1]:
                self.lines.append("")
            self.lines += [f"{indent}{_escaped(line)}" for line in broken(words)]

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Write a table; its first row stands over the others."""
        filled = [[flat(cell).replace("|", "\\|") for cell in row] for row in rows]
        filled = [row for row in filled if any(row)]
        width = max(map(len, filled), default=0)
        if not width:
            return
        self._blank()
        for number, row in enumerate(filled):
            self.lines.append(f"| {' | '.join([*row, *[''] * (width - len(row))])} |")
            if number == 0:
                self.lines.append(f"|{' --- |' * width}")
        self.lines.append("")

    def code(self, text: str, language: str = "") -> None:
        """Write code, as it is, in a fence longer than any that stands in it."""
        code = [line.rstrip() for line in clean(text).strip("\n").split("\n")]
        if any(code):
            fence = "```"
            while any(line.lstrip().startswith(fence) for line in code):
                fence += "`"
            self._blank()
            self.lines += [f"{fence}{language}", *code, fence]

    def verbatim(self, lines: Sequence[str]) -> None:
        """Write lines that are Markdown already."""
        self._blank()
        self.lines += lines

    def _blank(self) -> None:
        self._depth = 0
        if self.lines and self.lines[-1]:
            self.lines.append("")


def broken(text: str) -> list[str]:
    """Return one line of text as lines of at most LONGEST_LINE characters, broken where sentences end.

    A longer sentence is broken between words, a longer word stays whole.
    """
    if len(text) <= LONGEST_LINE:
        return [text]
    lines: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        pieces = [sentence] if len(sentence) <= LONGEST_LINE else sentence.split(" ")
        for number, piece in enumerate(pieces):
            if lines and (number or lines[-1]) and len(lines[-1]) + len(piece) < LONGEST_LINE:
                lines[-1] += f" {piece}"
            else:
                lines.append(piece)
    return lines


def _escaped(line: str) -> str:
    mark = _MARK.match(line)
    if mark is None:
        return line
    digits = len(line) - len(line.lstrip("0123456789"))
    return f"{line[:digits]}\\{line[digits:]}"
