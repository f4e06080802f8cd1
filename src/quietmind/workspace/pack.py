"""Choosing which passages go into the context, counted with the engine's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quietmind.notes.document import Hit, Passage

# Room for the few tokens by which a prompt tokenized whole may differ from its parts.
_SLACK_TOKENS = 16


@dataclass(frozen=True)
class Given:
    """A passage that the model is given, under the number by which it may cite it.

    ``passage`` may be a shortened copy (fewer lines) of what was found. ``tokens`` counts its ``block``.
    """

    number: int
    passage: Passage
    score: float
    tokens: int

    @property
    def block(self) -> str:
        """The passage as it stands in the prompt."""
        return _block(self.number, self.passage)


def _block(number: int, passage: Passage) -> str:
    said = f" ({passage.speaker}, {passage.when})" if passage.speaker and passage.when else ""
    return f"[{number}] {passage.place}{said}\n{passage.text.strip()}\n"


def pack(hits: Sequence[Hit], budget: int, count: Callable[[str], int]) -> tuple[Given, ...]:
    """Return as many of ``hits``, best first, as ``budget`` tokens hold.

    ``count`` gives the tokens of a text. A passage that no longer fits is passed over in favour of smaller ones behind
    it; only the very best is cut, by whole lines from its end, when it is too large on its own.
    """
    left = budget - _SLACK_TOKENS
    given: list[Given] = []
    for hit in hits:
        number = len(given) + 1
        passage: Passage | None = hit.passage
        tokens = count(_block(number, hit.passage))
        if tokens > left:
            passage = _cut(hit.passage, left, count) if not given else None
            tokens = count(_block(number, passage)) if passage else 0
        if passage is None:
            continue
        given.append(Given(number, passage, hit.score, tokens))
        left -= tokens
    return tuple(given)


def _cut(passage: Passage, budget: int, count: Callable[[str], int]) -> Passage | None:
    """Return the longest beginning of ``passage``, in whole lines, that fits; None when not even one line does."""
    lines = passage.text.split("\n")
    fits, too_many = 0, len(lines)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if count(_block(1, _head(passage, lines, middle))) <= budget:
            fits = middle
        else:
            too_many = middle
    return _head(passage, lines, fits) if fits else None


def _head(passage: Passage, lines: list[str], count: int) -> Passage:
    return replace(passage, text="\n".join(lines[:count]), last_line=passage.first_line + count - 1)
