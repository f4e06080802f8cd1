"""Choosing which passages go into the context, counted with the engine's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quietmind.notes.document import Hit, Passage
from quietmind.notes.passages import MAX_CHARS

# Room for the few tokens by which a prompt tokenized whole may differ from its parts.
_SLACK_TOKENS = 16
# How far into an endless line the place that matters is looked for.
_LOOKED_AT_CHARS = 200_000
_SENTENCE_ENDS = (". ", "! ", "? ", "\n")


@dataclass(frozen=True)
class Given:
    """A passage that the model is given, under the number by which it may cite it.

    ``passage`` may be a shortened copy of what was found, down to a part of one line. ``tokens`` counts its ``block``.
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


def pack(
    hits: Sequence[Hit], budget: int, count: Callable[[str], int], focus: Callable[[str], int]
) -> tuple[Given, ...]:
    """Return as many of ``hits``, best first, as ``budget`` tokens hold.

    ``count`` gives the tokens of a text, ``focus`` the position in a text that matters most. A passage that is longer
    than passages are (a line without end) is cut to the surroundings of that position. A passage that no longer fits is
    passed over in favour of smaller ones behind it; only the very best is cut, from its end, if it is too large alone.
    """
    left = budget - _SLACK_TOKENS
    given: list[Given] = []
    for hit in hits:
        number = len(given) + 1
        passage: Passage | None = _surroundings(hit.passage, focus)
        tokens = count(_block(number, passage)) if passage else 0
        if tokens > left:
            passage = _beginning(passage, left, count) if passage and not given else None
            tokens = count(_block(number, passage)) if passage else 0
        if passage is None:
            continue
        given.append(Given(number, passage, hit.score, tokens))
        left -= tokens
    return tuple(given)


def _surroundings(passage: Passage, focus: Callable[[str], int]) -> Passage:
    """Return ``passage``, or MAX_CHARS of it around its focus if it is longer."""
    text = passage.text
    if len(text) <= MAX_CHARS:
        return passage
    middle = focus(text[:_LOOKED_AT_CHARS])
    start = max(0, min(middle - MAX_CHARS // 4, len(text) - MAX_CHARS))
    if start:  # begin with a sentence, if one begins before the focus
        start = min(
            (at + len(end) for end in _SENTENCE_ENDS if (at := text.find(end, start, middle)) >= 0), default=start
        )
    return _part(passage, start, start + MAX_CHARS)


def _beginning(passage: Passage, budget: int, count: Callable[[str], int]) -> Passage | None:
    """Return the longest beginning of ``passage`` that fits, cut at a line or sentence where one ends; None if none."""
    fits, too_many = 0, len(passage.text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if count(_block(1, _part(passage, 0, middle))) <= budget:
            fits = middle
        else:
            too_many = middle
    ends = [at + 1 for end in _SENTENCE_ENDS if (at := passage.text.rfind(end, 0, fits)) > 0]
    cut = _part(passage, 0, max(ends, default=fits))
    return cut if cut.text.strip() else None


def _part(passage: Passage, start: int, end: int) -> Passage:
    """Return the passage's characters from ``start`` to ``end``, with the lines that they stand on."""
    text = passage.text[start:end]
    first = passage.first_line + passage.text.count("\n", 0, start)
    return replace(passage, text=text, first_line=first, last_line=first + text.count("\n"))
