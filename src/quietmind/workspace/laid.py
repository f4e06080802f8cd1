"""A notebook of the workspace laid out for an engine, its texts tokenized only once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from quietmind.base.errors import NothingIndexed
from quietmind.engine.port import Engine
from quietmind.notes.document import Passage
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.notebook import Block
from quietmind.workspace.notebooks import Notebooks, text_digest

# Kept free behind a notebook for the question and its answer; of a small context, a share.
RESERVE = 1024
_SHARE = 4


def reserve_of(context: int) -> int:
    """Return the tokens that a notebook leaves free in ``context``: reading and asking must cut it alike."""
    return min(RESERVE, context // _SHARE)


def laid_out(
    notebooks: Notebooks,
    name: str,
    passages: Sequence[Passage],
    engine: Engine,
    tokenizer: str,
    advance: Callable[[int], None] = lambda _count: None,
) -> Layout:
    """Return ``passages`` of the notebook ``name`` laid out for ``engine``; their tokens are kept for the next time.

    ``tokenizer`` is that of the run's fingerprint: with another one, nothing that was kept is used. ``advance`` is told
    of each passage done. Raises ContextOverflow where nothing fits, NothingIndexed where there is nothing any more,
    EngineError, WorkspaceError.
    """
    if not any(passage.text.strip() for passage in passages):
        raise NothingIndexed(
            f"notebook {name!r}: none of its notes is in the index any more; run `quietmind index`, or drop it with "
            f"`quietmind notebook drop {shlex.quote(name)}`"
        )
    known = _Kept(notebooks.tokens(name, tokenizer))
    layout = lay_out(engine, passages, reserve=reserve_of(engine.context), known=known, advance=advance)
    texts = {block.text: ids for block, ids in zip(layout.blocks, layout.tokens[1:], strict=True)}
    if any(text not in known for text in texts):
        notebooks.note_tokens(name, tokenizer, texts)
    return layout


def left_out(notebooks: Notebooks, name: str, passages: Sequence[Passage]) -> list[Passage] | None:
    """Return which of ``passages`` had no room when the notebook was last laid out; None if it never was as it is."""
    kept = notebooks.texts_kept(name)
    without: list[Passage] = []
    number = 1
    for passage in passages:
        if text_digest(Block(number, passage).text) in kept:
            number += 1
        elif passage.text.strip():
            without.append(passage)
    return without if kept and number == len(kept) + 1 else None


class _Kept(Mapping[str, tuple[int, ...]]):
    """The tokens of texts, which are kept by their digests."""

    def __init__(self, by_digest: Mapping[str, tuple[int, ...]]) -> None:
        self._by_digest = by_digest

    def __getitem__(self, text: str) -> tuple[int, ...]:
        return self._by_digest[text_digest(text)]

    def __iter__(self) -> Iterator[str]:  # the texts themselves are not kept
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._by_digest)
