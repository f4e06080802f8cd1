"""Text without markup: paragraphs between blank lines; in pseudocode, a header line with what is indented under it."""

from __future__ import annotations

from collections.abc import Sequence

from quietmind.notes.document import Block, Form


def paragraphs(lines: Sequence[str]) -> tuple[Block, ...]:
    """Return the paragraphs of ``lines``: runs of lines that are not blank."""
    blocks: list[Block] = []
    first = 0
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            first = first or number
        elif first:
            blocks.append(Block(first, number - 1, Form.PARAGRAPH))
            first = 0
    return tuple(blocks)


def outline(lines: Sequence[str]) -> tuple[Block, ...]:
    """Return the blocks of pseudocode: lines at the margin, each run together with all that is indented below it.

    Blank lines inside the indented part do not end a block. Cuts are where the indentation returns to its smallest.
    """
    blocks: list[Block] = []
    first = last = 0
    indented = False  # whether the block at hand has reached its indented part
    blank = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            blank = True
            continue
        margin = line[0] not in " \t"
        if first and margin and (indented or blank):
            blocks.append(_indented_block(lines, first, last))
            first, indented = 0, False
        first = first or number
        indented = indented or not margin
        last, blank = number, False
    if first:
        blocks.append(_indented_block(lines, first, last))
    return tuple(blocks)


def _indented_block(lines: Sequence[str], first: int, last: int) -> Block:
    depths = {
        number: len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
        for number, line in enumerate(lines[first - 1 : last], first)
        if line.strip()
    }
    inner = min((depth for depth in depths.values() if depth), default=0)
    cuts = tuple(number for number, depth in depths.items() if number > first and depth <= inner) if inner else ()
    return Block(first, last, Form.CODE if inner else Form.PARAGRAPH, cuts)
