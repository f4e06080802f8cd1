"""What every reader of a format gives: lines that a citation can count, and their structure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quietmind.base.errors import NotesError
from quietmind.notes import encoding, markdown, mojibake
from quietmind.notes.document import Block, Link, Repair, Section

MAX_LINES = 1_000_000  # a file of nothing but newlines must not take gigabytes

# Control characters but tab and newline, and halves of surrogate pairs: none is text, and no database takes the latter.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Rendered:
    """A file as lines, with what :class:`quietmind.notes.document.Document` says of each part.

    The same bytes give the same lines: a citation counts them. ``title`` is None where the file does not say one.
    """

    lines: tuple[str, ...]
    sections: tuple[Section, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...] = ()
    title: str | None = None
    encoding: str = "utf-8"
    repairs: tuple[Repair, ...] = ()


def from_markdown(lines: Sequence[str], title: str | None = None) -> Rendered:
    """Return what ``lines`` of Markdown say; the first heading of the first level is the title where none is given."""
    parsed = markdown.parse(lines)
    first_level = (heading.text for heading in parsed.headings if heading.level == 1 and heading.text)
    return Rendered(
        lines=tuple(lines),
        sections=tuple(markdown.sections(parsed.headings, 1, len(lines))),
        blocks=parsed.blocks,
        links=parsed.links,
        title=title or parsed.front_title or next(first_level, None),
    )


def own_lines(data: bytes) -> tuple[tuple[str, ...], str, tuple[Repair, ...]]:
    """Return the lines of a file that is text itself, its encoding and what was repaired. Raises NotesError."""
    text, name = encoding.decode(data)
    lines = encoding.split_lines(text)
    if len(lines) > MAX_LINES:
        raise NotesError(f"{len(lines):,} lines are more than the {MAX_LINES:,} that a note may have; split it")
    lines, repairs = mojibake.repair(lines)
    return lines, name, repairs


def clean(text: str) -> str:
    """Return ``text`` without what is no character of a text, its lines ended by newlines only."""
    return _NO_TEXT.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def flat(text: str) -> str:
    """Return ``text`` as one line: every run of white space is one space."""
    return " ".join(clean(text).split())
