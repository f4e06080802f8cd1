"""What a cache that is not the exact one does to answers: the same probes of both, and how far their words differ.

A probe asks for a fact of the notes that are held, or for an answer in the model's own words, as people ask: what is
said about something, or what all of it is about; where only the divergence of all together is wanted, also for a line
of the notes word for word. A fact has one right answer, so that its probes say what was lost; of them only those count
that the exact cache answers rightly. In its own words a model can go on in several ways that are equally good: a
divergence there is several times as large on the same cache, and changes the words more than what is said.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from quietmind.engine.port import Engine, Position, Prompt, Segment, probing
from quietmind.notes.document import Passage
from quietmind.workspace.facts import facts_of, lines_of
from quietmind.workspace.layout import Layout

SUBJECTS = 4  # headings of notes that are asked about
FACTS = 32  # that are asked for; a third of them even a small model finds
TOKENS = 16  # of a continuation
TOP = 64  # likeliest tokens that are compared one by one; all others count as one

# With fewer facts that the exact cache knows, answers in the model's own words are held to the bounds.
_LEAST_FACTS = 4

_QUESTIONS = (
    "What are these notes about? Answer in one sentence.",
    "Which of these notes matters most, and why? Name it by its number.",
)
_ABOUT = "What do the notes say about “{}”? Answer in one sentence."
_ABOUT_IN_RUSSIAN = "Что сказано в заметках о «{}»? Ответь одним предложением."
_COMPLETE = "Write out a line of the notes, word for word."

# Probabilities come as 32-bit floats, summed over some hundred thousand tokens: below this a remainder is rounding.
_ROUNDING = 1e-6
_NEVER = -100.0  # the logarithm where a probability is 0, which comes as the lowest number that there is

Continuation = tuple[Position, ...]


@dataclass(frozen=True)
class Probe:
    """What is asked behind a prefix: the segments that follow it, to be continued by ``tokens``.

    ``value`` is the fact that is asked for; empty where the answer may be of any words, or a line is written out.
    """

    ending: tuple[Segment, ...]
    tokens: int
    value: str = ""

    def answer(self, positions: Continuation) -> Continuation:
        """Return the places of a continuation that say the value, or all of them where none is asked for."""
        said = ""
        for number, position in enumerate(positions):
            said += position.text
            if self.value and len(said.lstrip()) >= len(self.value):
                return positions[: number + 1]
        return positions

    def is_right(self, answer: Continuation) -> bool:
        """Say whether ``answer`` has the value that was asked for."""
        return bool(self.value) and _text(answer).lstrip().startswith(self.value)


@dataclass(frozen=True)
class Probes:
    """What is asked of a cache, facts first."""

    asked: tuple[Probe, ...]

    @classmethod
    def of(
        cls,
        layout: Layout,
        blocks: int | None = None,
        *,
        subjects: int = SUBJECTS,
        facts: int = FACTS,
        lines: int = 0,
        tokens: int = TOKENS,
    ) -> Self:
        """Return the probes of ``layout``, or of its first ``blocks`` blocks: the same ones each time.

        ``subjects``, ``facts`` and ``lines`` to be written out are at most so many, spread evenly over it; ``tokens``
        are of answers in the model's own words and of lines.
        """
        passages = [block.passage for block in layout.blocks[:blocks]]
        texts = [passage.text for passage in passages]

        asked = [
            Probe(completing(layout, fact.begun), len(fact.value) + 1, fact.value) for fact in facts_of(texts, facts)
        ]
        asked += [Probe(completing(layout, line.begun), tokens) for line in lines_of(texts, lines)]
        asked += [
            Probe((Segment(question, False), *layout.tail), tokens)
            for question in (*_QUESTIONS, *_about(passages, subjects))
        ]
        return cls(tuple(asked))

    def known(self, answers: Sequence[Continuation]) -> tuple[Probes, tuple[Continuation, ...]]:
        """Return the probes that say something, with those of ``answers``, the exact cache's, that are theirs.

        Without the facts that it does not know; without any where it knows too few.
        """
        right = [probe.is_right(answer) for probe, answer in zip(self.asked, answers, strict=True)]
        enough = sum(right) >= _LEAST_FACTS
        kept = [
            (probe, answer)
            for probe, answer, is_right in zip(self.asked, answers, right, strict=True)
            if not probe.value or (is_right and enough)
        ]
        return replace(self, asked=tuple(probe for probe, _ in kept)), tuple(answer for _, answer in kept)


@dataclass(frozen=True)
class Damage:
    """How far two caches' answers differ.

    ``mean`` and ``worst`` are of the Kullback-Leibler divergence in nats at ``positions`` places where a fact is said:
    of the exact cache's distribution of the next token from the other's. ``same`` of the ``probes`` of facts were
    continued by the same tokens. ``prose`` is the mean of all other answers, in the model's own words or of lines; None
    where no facts were asked for, and all that was measured is of these.
    """

    mean: float
    worst: float
    positions: int
    same: int
    probes: int
    prose: float | None = None
    prose_positions: int = 0

    @property
    def everywhere(self) -> float:
        """The mean divergence at all places together."""
        if self.prose is None:
            return self.mean
        total = self.mean * self.positions + self.prose * self.prose_positions
        return total / (self.positions + self.prose_positions)

    @classmethod
    def between(
        cls, exact: Sequence[Continuation], other: Sequence[Continuation], probes: Probes | None = None
    ) -> Self:
        """Return the damage of ``other``, the answers to the same ``probes``; None: all are of one kind.

        Raises ValueError where there are none.
        """
        asked = [""] * len(exact) if probes is None else [probe.value for probe in probes.asked]
        pairs = list(zip(exact, other, asked, strict=True))
        facts = [(one, two) for one, two, value in pairs if value]
        prose = [(one, two) for one, two, value in pairs if not value]
        held = facts or prose
        divergences = [each for pair in held for each in kl(*pair)]
        if not divergences:
            raise ValueError("no probe was answered")
        free = [each for pair in prose for each in kl(*pair)] if facts else []
        return cls(
            mean=sum(divergences) / len(divergences),
            worst=max(divergences),
            positions=len(divergences),
            same=sum(_said(one) == _said(two) for one, two in held),
            probes=len(held),
            prose=sum(free) / len(free) if free else None,
            prose_positions=len(free),
        )


def completing(layout: Layout, begun: str) -> tuple[Segment, ...]:
    """Return a question whose answer is ``begun`` for the model: what it says next is what stood in the notes."""
    return (Segment(_COMPLETE, False), *layout.tail, Segment(begun, False))


def measure(engine: Engine, prefix: Prompt, probes: Probes) -> tuple[Continuation, ...]:
    """Return how ``engine`` answers ``probes`` behind ``prefix``, of which it keeps what it holds.

    Restored before, a cache is used as it was restored: all but the last token of a prompt may come from it. Raises
    EngineRefused for an engine that tells no probabilities, and what a generation raises.
    """
    asked = probing(engine)
    return tuple(
        probe.answer(asked.probe(Prompt([*prefix.segments, *probe.ending]), probe.tokens, TOP))
        for probe in probes.asked
    )


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


def _said(positions: Continuation) -> list[tuple[int, str]]:
    return [(position.token, position.text) for position in positions]


def _text(positions: Continuation) -> str:
    return "".join(position.text for position in positions)
