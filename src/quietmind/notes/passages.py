"""Cutting a document into passages along its structure.

A passage stays within one section (or joins tiny neighbours), holds whole blocks where they fit, begins with the
heading that stands over it, and is a run of whole lines. Sizes are in characters: what a model's tokenizer makes of
them is the business of whoever packs passages into a prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quietmind.notes.document import Block, Document, Form, Passage, Section

# Raise it when the same document comes out in other passages: indexes cut their documents again.
CUTTER_VERSION = 1

TARGET_CHARS = 1200  # passages are filled up to this
MAX_CHARS = 2400  # a block that fits into this is not torn apart; a single longer line is a passage of its own
TINY_CHARS = 300  # sections below this join a neighbour


@dataclass(frozen=True)
class _Piece:
    """Lines that will not be separated any more, and the section they stand in."""

    first_line: int
    last_line: int
    section: Section
    opens: bool = False  # a heading or who speaks: stays with what follows
    closes: bool = False  # the mark that ends a turn: stays with what it ends


def passages(document: Document) -> tuple[Passage, ...]:
    """Return the passages of ``document``: in order, without overlap, every line that is not blank in one of them."""
    sizes = _Sizes(document.lines)
    found: list[_Piece] = []
    blocks = iter(document.blocks)
    waiting = next(blocks, None)
    for section in document.sections:
        pieces: list[_Piece] = []
        while waiting is not None and waiting.first_line <= section.last_line:
            closes = waiting.form is Form.MARK and bool(pieces)
            opens = waiting.form is Form.HEADING or (waiting.form is Form.MARK and not closes)
            pieces += [_Piece(first, last, section, opens, closes) for first, last in _split(waiting, sizes)]
            waiting = next(blocks, None)
        found += _filled(pieces, sizes)
    return tuple(
        Passage(
            path=document.path,
            first_line=piece.first_line,
            last_line=piece.last_line,
            text=document.text(piece.first_line, piece.last_line),
            title=document.title,
            heading=piece.section.heading,
            speaker=piece.section.speaker,
            when=piece.section.when,
        )
        for piece in _joined(found, sizes)
    )


class _Sizes:
    """The size in characters of any run of lines, newlines between them included."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._ends = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
        self.blank = [not line.strip() for line in lines]

    def __call__(self, first_line: int, last_line: int) -> int:
        return self._ends[last_line] - self._ends[first_line - 1] - 1


def _split(block: Block, sizes: _Sizes) -> Iterator[tuple[int, int]]:
    """Yield the runs of lines that ``block`` is cut into: itself if it fits, else by its cuts, else by lines."""
    if sizes(block.first_line, block.last_line) <= MAX_CHARS:
        yield from _trimmed(block.first_line, block.last_line, sizes)
        return
    for first, last in _packed(block.first_line, block.last_line, block.cuts, sizes):
        if sizes(first, last) <= MAX_CHARS:
            yield first, last
        else:
            yield from _packed(first, last, range(first + 1, last + 1), sizes)


def _packed(first_line: int, last_line: int, cuts: Sequence[int], sizes: _Sizes) -> Iterator[tuple[int, int]]:
    """Yield runs of at most TARGET_CHARS from one of ``cuts`` to the next, larger ones where the cuts are far apart."""
    start = first_line
    for cut, following in itertools.pairwise([*cuts, last_line + 1]):
        if sizes(start, following - 1) > TARGET_CHARS:
            yield from _trimmed(start, cut - 1, sizes)
            start = cut
    yield from _trimmed(start, last_line, sizes)


def _trimmed(first: int, last: int, sizes: _Sizes) -> Iterator[tuple[int, int]]:
    while first <= last and sizes.blank[first - 1]:
        first += 1
    while first <= last and sizes.blank[last - 1]:
        last -= 1
    if first <= last:
        yield first, last


def _filled(pieces: Sequence[_Piece], sizes: _Sizes) -> Iterator[_Piece]:
    """Yield passages of one section: pieces one after another while they fit into TARGET_CHARS.

    What opens or closes a section is not left alone as long as its neighbour fits beside it into MAX_CHARS.
    """
    current: _Piece | None = None
    for piece in pieces:
        if current is not None:
            limit = MAX_CHARS if current.opens or piece.closes else TARGET_CHARS
            if sizes(current.first_line, piece.last_line) <= limit:
                opens = current.opens and piece.opens
                current = _Piece(current.first_line, piece.last_line, piece.section, opens)
                continue
            yield current
        current = piece
    if current is not None:
        yield current


def _joined(pieces: Sequence[_Piece], sizes: _Sizes) -> Iterator[_Piece]:
    """Yield ``pieces`` with tiny neighbours of one parent (or a parent and its first child) made into one."""
    current: _Piece | None = None
    for piece in pieces:
        if current is not None:
            together = _together(current, piece, sizes)
            if together is None:
                yield current
            piece = together or piece  # noqa: PLW2901 - the joined piece takes its place
        current = piece
    if current is not None:
        yield current


def _together(one: _Piece, two: _Piece, sizes: _Sizes) -> _Piece | None:
    if one.section.uid != two.section.uid or one.section.speaker != two.section.speaker:
        return None
    tiny = min(sizes(one.first_line, one.last_line), sizes(two.first_line, two.last_line)) < TINY_CHARS
    if not tiny or sizes(one.first_line, two.last_line) > TARGET_CHARS:
        return None
    path, other = one.section.heading, two.section.heading
    shared = tuple(a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False)))
    if len(shared) < min(len(path), len(other), max(len(path), len(other)) - 1):
        return None
    section = Section(
        one.section.first_line,
        two.section.last_line,
        shared,
        one.section.speaker,
        one.section.when,
        one.section.uid,
    )
    return _Piece(one.first_line, two.last_line, section)
