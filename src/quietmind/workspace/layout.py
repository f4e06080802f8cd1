"""A notebook as a prompt: a prefix that stays the same whatever is asked, then the question.

The chat template is asked once, with a stand-in for what the person says; the notebook's blocks take its place. Each
block is a segment of its own, tokenized alone, so that its tokens do not depend on its neighbours: where the blocks
agree with those of an earlier reading the tokens do, and the cache serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quietmind.base.errors import ContextOverflow
from quietmind.engine.port import Engine, Message, Prompt, Segment
from quietmind.notes.document import Passage
from quietmind.workspace.notebook import Block

# Said once for all questions in any language: the language to answer in is asked for beside the question.
SYSTEM = (
    "You answer questions from the person's own notes. The numbered notes below are all that you know; some are in "
    "English, some in Russian. Keep their exact names, numbers and words. After each sentence write the number of the "
    "note that it comes from in square brackets, like [1]. If the notes do not answer the question, say so."
)
NOTES = "Notes:\n\n"


@dataclass(frozen=True)
class Layout:
    """A notebook laid out for one engine.

    ``head`` ends where the first block begins, ``tail`` begins after the question. ``tokens`` has the token ids of the
    head and of each block, in that order. ``left_out`` passages found no room.
    """

    head: tuple[Segment, ...]
    blocks: tuple[Block, ...]
    tail: tuple[Segment, ...]
    tokens: tuple[tuple[int, ...], ...]
    left_out: tuple[Passage, ...] = ()

    def prefix(self, blocks: int | None = None) -> Prompt:
        """Return the prompt up to and with the first ``blocks`` blocks, all of them by default."""
        count = len(self.blocks) if blocks is None else blocks
        return Prompt([*self.head, *self._segments(count)])

    def prefix_tokens(self, blocks: int | None = None) -> list[int]:
        """Return the token ids of :meth:`prefix`."""
        count = len(self.blocks) if blocks is None else blocks
        return [token for part in self.tokens[: count + 1] for token in part]

    def beginning(self, tokens: int) -> Prompt:
        """Return a prompt of the first ``tokens`` tokens of :meth:`prefix`, the head at least.

        It may end within a block, whose text then goes further than its tokens.
        """
        segments, left = list(self.head), tokens - len(self.tokens[0])
        for block, ids in zip(self.blocks, self.tokens[1:], strict=True):
            if left <= 0:
                break
            segments.append(Segment(block.text, trusted=False, tokens=ids[:left]))
            left -= len(ids)
        return Prompt(segments)

    def asking(self, question: str) -> Prompt:
        """Return the prompt that asks ``question`` of the whole notebook."""
        return Prompt([*self.head, *self._segments(len(self.blocks)), Segment(question, trusted=False), *self.tail])

    def _segments(self, count: int) -> list[Segment]:
        return [
            Segment(block.text, trusted=False, tokens=tokens)
            for block, tokens in zip(self.blocks[:count], self.tokens[1:], strict=False)
        ]


def lay_out(
    engine: Engine,
    passages: Sequence[Passage],
    *,
    reserve: int,
    known: Mapping[str, tuple[int, ...]] | None = None,
    advance: Callable[[int], None] = lambda _count: None,
) -> Layout:
    """Lay ``passages`` out in this order, as many as the context holds beside ``reserve`` tokens.

    ``known`` has the tokens of texts that this engine has tokenized before. ``advance`` is told of each passage done.
    Raises ContextOverflow where not even the first passage fits, EngineError.
    """
    prompt = engine.render([Message("system", SYSTEM), Message("user", NOTES)])
    person = max(number for number, segment in enumerate(prompt.segments) if not segment.trusted)
    head, tail = prompt.segments[: person + 1], prompt.segments[person + 1 :]
    head_tokens = tuple(engine.tokenize(Prompt(head)))
    room = engine.context - reserve - len(head_tokens) - len(engine.tokenize(Prompt(tail)))
    blocks: list[Block] = []
    tokens = [head_tokens]
    left_out: list[Passage] = []
    for passage in passages:
        advance(1)
        if not passage.text.strip():
            continue
        block = Block(len(blocks) + 1, passage)
        taken = (known or {}).get(block.text) or tuple(engine.tokenize(block.text))
        if len(taken) > room:
            left_out.append(passage)
            continue
        blocks.append(block)
        tokens.append(taken)
        room -= len(taken)
    if not blocks and left_out:
        needed = min(len(engine.tokenize(passage.text)) for passage in left_out[:10])
        raise ContextOverflow(
            f"no note fits: the shortest of the first takes {needed:,} tokens, and a context of {engine.context:,} "
            f"leaves {max(room, 0):,} beside question and answer; give a larger --context",
            needed=needed,
            context=engine.context,
        )
    return Layout(tuple(head), tuple(blocks), tuple(tail), tuple(tokens), tuple(left_out))
