"""What the model is given to answer from: passages that were found, or a whole notebook, each with its prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quietmind.base.errors import ContextOverflow
from quietmind.engine.port import Engine, Prompt
from quietmind.notes.document import Hit
from quietmind.think.asked import SHARE, Asked
from quietmind.think.prompts import behind_notebook, conversation
from quietmind.think.support import closest
from quietmind.workspace.choose import Held
from quietmind.workspace.pack import Given, pack

# Less room than this holds no answer: a sentence or two with their marks.
LEAST_ANSWER = 64


@dataclass(frozen=True)
class Sheet:
    """Passages and the prompt that asks of them. ``nearest`` of ``given`` come closest to the question, best first.

    The engine has yet to read ``unread`` tokens of the passages. ``cut_at`` says what bounds the answer, for one that
    reaches its ``max_tokens``. ``held`` is the notebook whose prompt this is. ``asked`` is what of the question and the
    turns before it the model is told.
    """

    given: tuple[Given, ...]
    nearest: tuple[Given, ...]
    prompt: str
    unread: int
    max_tokens: int
    cut_at: str
    asked: Asked
    held: Held | None = None


def passages_sheet(engine: Engine, asked: Asked, hits: Sequence[Hit], max_tokens: int) -> Sheet:
    """Pack what of ``hits`` fits beside the question and ``max_tokens`` of answer. Raises ContextOverflow."""
    asked = _heard(engine, asked, max_tokens, lambda asked: engine.render(conversation(asked, ())))
    bare = len(engine.tokenize(engine.render(conversation(asked, ()))))
    budget = engine.context - max_tokens - bare
    given = pack(
        hits,
        budget,
        count=lambda text: len(engine.tokenize(text)),
        focus=lambda text: closest(asked.query, text).start,
    )
    while given:
        prompt = engine.render(conversation(asked, given))
        if len(engine.tokenize(prompt)) + max_tokens <= engine.context:
            tokens = sum(each.tokens for each in given)
            return Sheet(given, given, prompt, tokens, max_tokens, _asked_for(max_tokens), asked)
        given = given[:-1]
    raise ContextOverflow(
        f"the question takes {bare:,} tokens and {max_tokens:,} are kept for the answer, which leaves no room for "
        f"notes in a context of {engine.context:,}; ask more briefly or give a larger --context",
        needed=bare + max_tokens,
        context=engine.context,
    )


def notebook_sheet(engine: Engine, asked: Asked, held: Held, hits: Sequence[Hit], max_tokens: int) -> Sheet:
    """Ask the question of the whole notebook. Where ``max_tokens`` do not fit behind it, the answer may take fewer.

    Raises ContextOverflow where hardly any are left.
    """
    layout, name = held.layout, held.notebook.name
    scores = {(hit.passage.path, hit.passage.first_line): hit.score for hit in hits}
    given = tuple(
        Given(block.number, block.passage, scores.get((block.passage.path, block.passage.first_line), 0.0), len(tokens))
        for block, tokens in zip(layout.blocks, layout.tokens[1:], strict=True)
    )
    nearest = tuple(sorted((each for each in given if each.score), key=lambda each: -each.score))
    prefix = sum(map(len, layout.tokens))
    asked = _heard(engine, asked, max_tokens, lambda asked: layout.asking(behind_notebook(asked)))
    prompt = layout.asking(behind_notebook(asked))
    needed = len(engine.tokenize(prompt))
    room = engine.context - needed
    if room < min(max_tokens, LEAST_ANSWER):
        raise ContextOverflow(
            f"notebook {name!r} takes {prefix:,} tokens and the question {needed - prefix:,}, which leaves no room for "
            f"an answer in a context of {engine.context:,}; ask more briefly, or of passages with --passages",
            needed=needed + min(max_tokens, LEAST_ANSWER),
            context=engine.context,
        )
    tokens, cut_at = max_tokens, _asked_for(max_tokens)
    if room < max_tokens:
        tokens, cut_at = room, f"{room:,} tokens, all that a context of {engine.context:,} holds behind the notebook"
    there = prefix if held.read else held.restored.tokens if held.restored else 0
    return Sheet(given, nearest, prompt, prefix - there, tokens, cut_at, asked, held)


def _asked_for(max_tokens: int) -> str:
    """Say what bounds an answer, by the name that it has in an option, in the settings and in a request."""
    return f"{max_tokens:,} tokens (max_tokens)"


def _heard(engine: Engine, asked: Asked, max_tokens: int, prompt: Callable[[Asked], Prompt]) -> Asked:
    """Return ``asked`` with what of the turns before it has room beside the question and its answer."""
    if not asked.turns and not asked.wish:
        return asked
    alone = len(engine.tokenize(prompt(replace(asked, turns=(), wish=""))))
    budget = min(engine.context // SHARE, engine.context - max_tokens - alone)
    return asked.within(budget, lambda text: len(engine.tokenize(text)))
