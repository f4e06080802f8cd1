"""Checking a citation against the file as it is now, not as it was when it was indexed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.notes.document import Document, Passage
from quietmind.notes.reading import read_document


class Standing(StrEnum):
    """How the quoted words stand in the file now."""

    VERIFIED = "verified"
    EDITED = "edited"  # the words stand there, but something around them has changed since indexing
    MOVED = "moved"  # the words stand on other lines than when the file was indexed
    CHANGED = "changed"  # the words no longer stand in the file
    GONE = "gone"  # the file can no longer be read


@dataclass(frozen=True)
class Citation:
    """Words of a note that an answer rests on: ``path:first-last`` and the quote.

    ``number`` is the mark in the answer. ``supports`` holds the sentences of the answer that it bears; it is empty for
    a passage that is only close to the question. ``place`` says where a person finds them ("page 3") in a file whose
    lines have no numbers to go by; None where they have.
    """

    number: int
    path: Path
    first_line: int
    last_line: int
    quote: str
    standing: Standing
    supports: tuple[str, ...] = ()
    place: str | None = None

    @property
    def verified(self) -> bool:
        """Whether the quoted words stand in the file, on exactly these lines, now."""
        return self.standing in (Standing.VERIFIED, Standing.EDITED, Standing.MOVED)


class Verifier:
    """Reads each cited file once and compares."""

    def __init__(self) -> None:
        self._documents: dict[Path, Document | None] = {}

    def check(self, passage: Passage, quote: str) -> tuple[Standing, int, int]:
        """Return how ``quote`` (words of ``passage``) stands in the file, and the lines it takes there now."""
        document = self._read(passage.path)
        first, last = quoted_lines(passage, quote)
        if document is None:
            return Standing.GONE, first, last
        if quote in document.text(first, last):
            unchanged = passage.text in document.text(passage.first_line, passage.last_line)
            return (Standing.VERIFIED if unchanged else Standing.EDITED), first, last
        whole = document.text(1, len(document.lines))
        if (at := whole.find(quote)) >= 0:
            first = whole.count("\n", 0, at) + 1
            return Standing.MOVED, first, first + quote.count("\n")
        return Standing.CHANGED, first, last

    def _read(self, path: Path) -> Document | None:
        if path not in self._documents:
            try:
                self._documents[path] = read_document(path)
            except NotesError:
                self._documents[path] = None
        return self._documents[path]


def quoted_lines(passage: Passage, quote: str) -> tuple[int, int]:
    """Return the first and last line that ``quote`` takes, as indexed. It must stand in the passage."""
    first = passage.first_line + passage.text.count("\n", 0, passage.text.index(quote))
    return first, first + quote.count("\n")
