"""Some notes from all over an archive, laid out in pieces as they are read: what a model's basis is learned from."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from quietmind.base.errors import NothingIndexed, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.engine.port import Engine
from quietmind.notes.document import Passage
from quietmind.workspace.laid import reserve_of
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.notebook import Block
from quietmind.workspace.workspace import Workspace

_COUNTED = 64  # passages of which the tokens are counted to know how many to take
_ORDER = 1  # the same each time
_SURPLUS = 1.25  # passages that are taken beyond those that should do, since they differ in length


@dataclass(frozen=True)
class Sample:
    """Notes laid out: ``pieces`` to learn from, and one ``held_out`` with none of theirs to check with."""

    pieces: tuple[Layout, ...]
    held_out: Layout

    @property
    def tokens(self) -> int:
        """Tokens of ``pieces``."""
        return sum(len(piece.prefix_tokens()) for piece in self.pieces)


def sampled(engine: Engine, archive: Workspace, *, tokens: int, piece: int, held_out: int, least: int) -> Sample:
    """Return about ``tokens`` of notes in pieces of up to ``piece``, and about ``held_out`` others.

    Spread evenly over all folders, and every piece over all of them too. Raises NothingIndexed, WorkspaceError where
    both together are fewer than ``least``, ContextOverflow where not even one passage fits into a piece, EngineError.
    """
    counted = [len(engine.tokenize(Block(1, each).text)) for each in archive.sample(count=_COUNTED)]
    if not counted:
        raise NothingIndexed(
            f"{shown_path(archive.folder)}: no notes are indexed here yet; run `quietmind index FOLDER` first"
        )
    mean = sum(counted) / len(counted)
    passages = archive.sample(count=math.ceil(_SURPLUS * (tokens + held_out) / mean))
    there = min(tokens + held_out, int(len(passages) * mean))
    apart = max(2, there // held_out)  # of so many passages, one is held out
    checked = _laid(engine, passages[::apart], held_out)
    left = [*checked.left_out, *(passage for number, passage in enumerate(passages) if number % apart)]
    count = max(1, math.ceil((there - held_out) / min(piece, engine.context - reserve_of(engine.context))))
    hands, pieces = [left[number::count] for number in range(count)], list[Layout]()
    for hand in hands:
        over = pieces[-1].left_out if pieces else ()
        if hand or over:
            pieces.append(_laid(engine, [*over, *hand], min(piece, math.ceil(tokens / count))))
    found = Sample(tuple(pieces), checked)
    total = found.tokens + len(checked.prefix_tokens())
    if total < least:
        raise WorkspaceError(
            f"the notes indexed here come to {total:,} tokens, and calibrating takes at least {least:,}; index more"
        )
    return found


def blocks_within(layout: Layout, tokens: int) -> int:
    """Return how many blocks of ``layout`` the first ``tokens`` tokens hold whole, one at least."""
    reached, count = len(layout.tokens[0]), 0
    for ids in layout.tokens[1:]:
        reached += len(ids)
        if count and reached > tokens:
            break
        count += 1
    return count


def _laid(engine: Engine, passages: Sequence[Passage], tokens: int) -> Layout:
    """Return as many of ``passages`` as ``tokens`` hold, beginning and all."""
    mixed = list(passages)
    random.Random(_ORDER).shuffle(mixed)  # noqa: S311 - else it would always be the last folders that find no room
    return lay_out(engine, mixed, reserve=max(reserve_of(engine.context), engine.context - tokens))
