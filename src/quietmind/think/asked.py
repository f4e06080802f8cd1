"""A question with what was said before it: what is looked for in the notes, and what of it the model is told.

A question that goes on ("and in winter?") says too little to be found by. It is looked for together with the questions
that it goes on from, back to the last that stands on its own; one that stands on its own is looked for alone, and only
if nothing is about it together with those before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from quietmind.engine.port import Message
from quietmind.notes.lemmas import content_lemmas
from quietmind.think.telling import without_sources

# A question of fewer words that say something goes on from the one before.
_WORDS_ALONE = 2
# So far back a chain of questions that go on is followed.
_LONGEST_CHAIN = 4
# Characters of an earlier question that is looked for along: a longer one is a text that the person has put in.
_LONGEST_QUESTION = 2000
_GOES_ON = re.compile(
    r"(?:and|but|or|so|then|also|what about|how about|а|и|но|или|тогда|ещё|еще|также)\b", re.IGNORECASE
)
# Words for what has been named before. "That" and "there" mostly mean nothing of the kind.
_REFERS_BACK = re.compile(
    r"\b(?:it|its|they|them|their|this|these|those|he|him|his|she|her"
    r"|он|она|оно|они|его|её|ее|их|ему|ей|им|него|неё|нее|них|нему|ней|ним|нём|нем|это|этот|эта|эти|этого|этой|там)\b",
    re.IGNORECASE,
)
_MARK = re.compile(r"\s?\[(?:\d+|\?)\]")

# Of a context, what was said before may take one part in so many: what the notes say is what the answer is made of.
SHARE = 8
# Characters of a wish; what clients say to their models at length is about other things than the form of an answer.
LONGEST_WISH = 600


@dataclass(frozen=True)
class Asked:
    """``question`` as it was asked, and ``query``, which is looked for. ``turns`` came before it, the oldest first.

    ``wish`` is what a client's system messages say: heard as a wish about the form of the answer. ``left_out`` of the
    turns found no room.
    """

    question: str
    query: str
    turns: tuple[Message, ...] = ()
    wish: str = ""
    left_out: int = 0

    @classmethod
    def after(cls, question: str, earlier: Sequence[Message] = ()) -> Self:
        """Return ``question`` after the turns ``earlier``. The marks of earlier answers were of other passages."""
        wish = " ".join(" ".join(turn.content.split()) for turn in earlier if turn.role == "system")
        spoken = [turn if turn.role == "user" else replace(turn, content=_unmarked(turn.content)) for turn in earlier]
        turns = tuple(turn for turn in spoken if turn.role != "system" and turn.content.strip())
        return cls(question, question, turns, _shortened(wish))

    @property
    def queries(self) -> tuple[str, ...]:
        """What to look for, in this order, until something is found."""
        alone = stands_alone(self.question)
        chain = [self.question]
        for turn in reversed(self.turns):
            if turn.role == "user" and len(turn.content) <= _LONGEST_QUESTION:
                chain.append(turn.content)
                if stands_alone(turn.content) or len(chain) == _LONGEST_CHAIN:
                    break
        together = "\n".join(reversed(chain))
        if len(chain) == 1:
            return (self.question,)
        return (self.question, together) if alone else (together,)

    @property
    def unheard(self) -> str:
        """A line that says what the model is not told of all that was said; empty where it is told everything."""
        if not self.left_out:
            return ""
        told = f"the last {len(self.turns)} are" if self.turns else "none are"
        return f"of {len(self.turns) + self.left_out} earlier turns {told} told to the model; the others have no room"

    def within(self, budget: int, count: Callable[[str], int]) -> Self:
        """Return it with as many of the latest turns, and with the wish, as take ``budget`` tokens together."""
        left = budget - (count(self.wish) if self.wish else 0)
        if left < 0:
            return replace(self, turns=(), wish="", left_out=len(self.turns))
        kept: list[Message] = []
        for turn in reversed(self.turns):
            left -= count(turn.content)
            if left < 0:
                break
            kept.append(turn)
        return replace(self, turns=tuple(reversed(kept)), left_out=len(self.turns) - len(kept))


def stands_alone(question: str) -> bool:
    """Say whether ``question`` says by itself what it is about."""
    said = question.strip()
    if _GOES_ON.match(said) or _REFERS_BACK.search(said):
        return False
    return len(content_lemmas(said)) >= _WORDS_ALONE


def _unmarked(answer: str) -> str:
    return _MARK.sub("", without_sources(answer))


def _shortened(wish: str) -> str:
    return wish if len(wish) <= LONGEST_WISH else wish[:LONGEST_WISH].rsplit(" ", 1)[0] + " …"
