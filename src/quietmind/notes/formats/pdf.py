"""PDF by PDFium: a page is a section, so that a citation says it; chapters come from the outline of the file.

PDFium puts the spaces between Cyrillic words where they are seen, which readers in Python do not for many files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quietmind.base.errors import NotesError
from quietmind.notes.document import Block, Form, Section
from quietmind.notes.formats.rendered import Rendered, clean, flat

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

MOST_PAGES = 20_000
_FEWEST_PAGES = 4  # in which a line that stands on many of them is told from one that is only repeated
_OFTEN = 0.05  # of the pages: a chapter has lines of its own, and other ones left and right
_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b", re.IGNORECASE)
_LETTERS = re.compile(r"[\W\d_]+")
_HYPHEN = "\x02"  # what PDFium gives for a hyphen at the end of a line, with the line's end taken away
_ENDS = re.compile(r"[.!?:;…]['\"»”)]?\Z")
_BEGINS = re.compile(r"(?:[-•–—*▪◦]|\d+(?:\.\d+)*[.)]?)\s")
_PASSWORD = 4  # FPDF_ERR_PASSWORD (fpdfview.h)


@dataclass
class _Page:
    """A page: its lines, and the headings of the outline that lead to it, with their depths from 1."""

    lines: list[str]
    marks: list[tuple[int, str]] = field(default_factory=list)


def read(data: bytes, ending: str) -> Rendered:
    """Return the text of a PDF. Raises NotesError when it is damaged, needs a password or holds no text."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD:
            raise NotesError("is protected by a password; save it without one") from error
        raise NotesError(f"is damaged, or no PDF ({error})") from error
    try:
        pages = _pages(document)
        title = flat(document.get_metadata_value("Title")) or None
    finally:
        document.close()
    if not any(page.lines for page in pages):
        raise NotesError("holds no text, only pictures (a scan?); have its text recognized first, by ocrmypdf say")
    _without_running_lines(pages)
    return _rendered(pages, title)


def _pages(document: PdfDocument) -> list[_Page]:
    if len(document) > MOST_PAGES:
        raise NotesError(f"has {len(document):,} pages, more than the {MOST_PAGES:,} that are read; split it")
    pages = [_Page(_lines(document, number)) for number in range(len(document))]
    for mark in document.get_toc():
        target = mark.get_dest()
        number = target.get_index() if target else None
        if number is not None and 0 <= number < len(pages) and (words := flat(mark.get_title())):
            pages[number].marks.append((mark.level + 1, words))
    return pages


def _lines(document: PdfDocument, number: int) -> list[str]:
    """Return the lines of a page; none of one that is damaged, which the others need not suffer for."""
    import pypdfium2

    try:
        page = document[number]
        text = page.get_textpage()
        found = text.get_text_range()
        text.close()
        page.close()
    except pypdfium2.PdfiumError:
        return []
    found = clean(found.replace(f"{_HYPHEN}\r\n", "").replace(_HYPHEN, "").replace("\ufffe", ""))
    return [words for line in found.split("\n") if (words := line.rstrip().expandtabs(4)).strip()]


def _without_running_lines(pages: Sequence[_Page]) -> None:
    """Take away the first and last lines of the pages that stand, but for numbers, on many of them."""
    for at in (0, -1):
        counts = Counter(_shape(page.lines[at]) for page in pages if page.lines)
        running = {shape for shape, count in counts.items() if count >= max(_FEWEST_PAGES, _OFTEN * len(pages))}
        for page in pages:
            if page.lines and _shape(page.lines[at]) in running:
                del page.lines[at]


def _shape(line: str) -> str:
    return " ".join(_DIGITS.sub("0", line).split())


def _rendered(pages: Sequence[_Page], title: str | None) -> Rendered:
    lines: list[str] = []
    sections: list[Section] = []
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    for number, page in enumerate(pages, 1):
        for start, end, entered in _stretches(page):
            if entered:
                depth, words = entered
                path = [mark for mark in path if mark[0] < depth] + [(depth, words)]
            if start < end:
                first = len(lines) + 1
                lines += page.lines[start:end]
                heading = (*(words for _, words in path), f"page {number}")
                sections.append(Section(first, len(lines), heading, uid=f"page {number}"))
                blocks.append(_block(lines, first))
    return Rendered(tuple(lines), tuple(sections), tuple(blocks), title=title)


def _stretches(page: _Page) -> Iterator[tuple[int, int, tuple[int, str] | None]]:
    """Yield the page as runs of its lines, from which to which, each with the mark of the outline that begins there."""
    start = 0
    entered: tuple[int, str] | None = None
    for mark in page.marks:
        at = _line_of(mark[1], page.lines, start)
        yield start, at, entered
        start, entered = at, mark
    yield start, len(page.lines), entered


def _line_of(words: str, lines: Sequence[str], start: int) -> int:
    """Return where, from ``start`` on, a line says ``words`` and nothing else; ``start`` if none does."""
    wanted = _LETTERS.sub("", words).casefold()
    for at in range(start, len(lines)):
        letters = _LETTERS.sub("", lines[at]).casefold()
        # A heading may go on in the next line.
        if letters and wanted.startswith(letters) and (letters == wanted or 2 * len(letters) > len(wanted)):
            return at
    return start


def _block(lines: Sequence[str], first: int) -> Block:
    """Return the lines from ``first`` on as a block that may be cut where a sentence ends or an item begins."""
    cuts = tuple(
        number
        for number in range(first + 1, len(lines) + 1)
        if _ENDS.search(lines[number - 2]) or _BEGINS.match(lines[number - 1])
    )
    return Block(first, len(lines), Form.PARAGRAPH, cuts)
