"""What a cache that is not the exact one does to answers: the same probes of both, and how far their words differ.

A probe is a question to the notes that are held, as people ask them: what is said about something, or what all of it
is about. Two ask for the rest of a line that stands there once, which is the hardest on a cache: on the same one, word
for word costs several times the divergence of an answer in the model's own words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

from quietmind.engine.port import Engine, Position, Prompt, Segment, probing
from quietmind.notes.document import Passage
from quietmind.workspace.layout import Layout

SUBJECTS = 4  # headings of notes that are asked about
LINES = 2  # that are to be completed
TOKENS = 16  # of a continuation
TOP = 64  # likeliest tokens that are compared one by one; all others count as one

_QUESTIONS = (
    "What are these notes about? Answer in one sentence.",
    "Which of these notes matters most, and why? Name it by its number.",
)
_ABOUT = "What do the notes say about “{}”? Answer in one sentence."
_ABOUT_IN_RUSSIAN = "Что сказано в заметках о «{}»? Ответь одним предложением."
_COMPLETE = "Write out a line of the notes, word for word."
_SHORTEST, _LONGEST = 40, 160  # characters of a line that is asked for
_LEAST_WORDS = 6

_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s+")

# Probabilities come as 32-bit floats, summed over some hundred thousand tokens: below this a remainder is rounding.
_ROUNDING = 1e-6
_NEVER = -100.0  # the logarithm where a probability is 0, which comes as the lowest number that there is

Continuation = tuple[Position, ...]


@dataclass(frozen=True)
class Probes:
    """What is asked behind a prefix: the segments that follow it, and ``tokens`` to continue each by."""

    endings: tuple[tuple[Segment, ...], ...]
    tokens: int = TOKENS

    @classmethod
    def of(
        cls,
        layout: Layout,
        blocks: int | None = None,
        *,
        subjects: int = SUBJECTS,
        lines: int = LINES,
        tokens: int = TOKENS,
    ) -> Self:
        """Return the probes of ``layout``, or of its first ``blocks`` blocks: the same ones each time.

        ``subjects`` and ``lines`` are spread evenly over it. Where notes have fewer headings of their own, more lines
        are asked for; fewer where there are fewer that are long enough and stand there once.
        """
        passages = [block.passage for block in layout.blocks[:blocks]]
        about = _about(passages, subjects)
        beginnings = _beginnings([passage.text for passage in passages], lines + subjects - len(about))
        endings = [(Segment(question, False), *layout.tail) for question in (*_QUESTIONS, *about)]
        endings += [
            # The answer is begun for the model, with a word whole: what it says next is what stood there.
            (Segment(_COMPLETE, False), *layout.tail, Segment(begun, False))
            for begun in beginnings
        ]
        return cls(tuple(endings), tokens)


@dataclass(frozen=True)
class Damage:
    """How far two caches' answers differ.

    ``mean`` and ``worst`` are of the Kullback-Leibler divergence in nats at ``positions`` places: of the exact cache's
    distribution of the next token from the other's. ``same`` of the ``probes`` were continued by the same tokens.
    """

    mean: float
    worst: float
    positions: int
    same: int
    probes: int

    @classmethod
    def between(cls, exact: Sequence[Continuation], other: Sequence[Continuation]) -> Self:
        """Return the damage of ``other``, the answers to the same probes. Raises ValueError where there are none."""
        divergences = [each for pair in zip(exact, other, strict=True) for each in kl(*pair)]
        if not divergences:
            raise ValueError("no probe was answered")
        same = sum(_said(one) == _said(two) for one, two in zip(exact, other, strict=True))
        return cls(sum(divergences) / len(divergences), max(divergences), len(divergences), same, len(exact))


def measure(engine: Engine, prefix: Prompt, probes: Probes) -> tuple[Continuation, ...]:
    """Return how ``engine`` answers ``probes`` behind ``prefix``, of which it keeps what it holds.

    Restored before, a cache is used as it was restored: all but the last token of a prompt may come from it. Raises
    EngineRefused for an engine that tells no probabilities, and what a generation raises.
    """
    asked = probing(engine)
    return tuple(asked.probe(Prompt([*prefix.segments, *ending]), probes.tokens, TOP) for ending in probes.endings)


def kl(exact: Sequence[Position], other: Sequence[Position]) -> list[float]:
    """Return the divergence at each place, in nats, as long as the continuations agree.

    The first place where they differ still counts, since what stands before it is the same; those after it do not.
    """
    found = []
    for one, two in zip(exact, other, strict=False):
        found.append(_divergence(one, two))
        if (one.token, one.text) != (two.token, two.text):
            break
    return found


def _divergence(exact: Position, other: Position) -> float:
    """Return the sum of p log(p / q) over the tokens that both list and the rest taken as one: a lower bound."""
    shared = exact.logprobs.keys() & other.logprobs.keys()
    p = {token: math.exp(exact.logprobs[token]) for token in shared}
    rest = max(_ROUNDING, 1 - sum(p.values()))
    other_rest = max(_ROUNDING, 1 - sum(math.exp(other.logprobs[token]) for token in shared))
    listed = sum(
        p[token] * (max(_NEVER, exact.logprobs[token]) - max(_NEVER, other.logprobs[token])) for token in sorted(shared)
    )
    return max(0.0, listed + rest * math.log(rest / other_rest))


def _about(passages: Sequence[Passage], count: int) -> list[str]:
    """Return questions about at most ``count`` subjects, each of one passage alone, in the language of that passage."""
    times = Counter(passage.place for passage in passages)
    alone = [passage for passage in passages if times[passage.place] == 1]
    count = min(count, len(alone))
    chosen = [alone[len(alone) * number // count] for number in range(count)]
    return [(_ABOUT_IN_RUSSIAN if _is_russian(each.text) else _ABOUT).format(each.place) for each in chosen]


def _is_russian(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(not letter.isascii() for letter in letters) > len(letters)


def _beginnings(texts: Sequence[str], count: int) -> list[str]:
    """Return the first halves of at most ``count`` lines, spread evenly over ``texts``, none of which occurs again."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    times = Counter(lines)
    candidates = [_half(line) for line in lines if times[line] == 1 and _worth_asking(line)]
    whole = "\n".join(texts)
    found: list[str] = []
    for number in range(count):
        start, end = (len(candidates) * edge // count for edge in (number, number + 1))
        found += islice((half for half in candidates[start:end] if whole.count(half) == 1), 1)
    return found


def _worth_asking(line: str) -> bool:
    return len(line) >= _SHORTEST and len(_WORD.findall(line)) >= _LEAST_WORDS


def _half(line: str) -> str:
    """Return the first half of the beginning of ``line``, cut between two words."""
    line = line[:_LONGEST]
    ends = [space.start() for space in _SPACE.finditer(line)] or [len(line)]
    return line[: min(ends, key=lambda end: abs(end - len(line) // 2))]


def _said(positions: Continuation) -> list[tuple[int, str]]:
    return [(position.token, position.text) for position in positions]
