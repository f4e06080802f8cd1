"""An answer while it grows: each finished sentence is judged by the passages, and what holds becomes a citation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quietmind.notes.formats import place_in_source
from quietmind.think.sentences import Claim, ClaimStream
from quietmind.think.support import Support, closest, is_claim
from quietmind.think.verify import Citation, Verifier
from quietmind.think.witnesses import Witnesses
from quietmind.workspace.pack import Given

# Stands behind a sentence that no passage supports.
UNSUPPORTED_MARK = "[?]"
# How many of the best passages are quoted where the question comes closest: beside an answer that rests on the notes,
# and in the place of one that does not.
_CLOSEST_BESIDE, CLOSEST_INSTEAD = 1, 3
# A few words again and again at the end of the text: weak models fall into this and do not come out.
_LOOP = re.compile(r"(.{6,80}?)\1{4,}\Z", re.DOTALL)
_LOOP_CHARS = 480


@dataclass(frozen=True)
class Borne:
    """A sentence of an answer and a passage that supports it."""

    sentence: str
    given: Given
    support: Support

    @property
    def quote(self) -> str:
        """The words that bear the sentence."""
        return self.given.passage.text[self.support.start : self.support.end]


class Draft:
    """Takes the text of the model as it comes, gives back what to show, and keeps what was found out about it.

    ``text`` is all that was shown. ``unsupported`` holds the sentences that no given passage supports, ``borne`` the
    others, once for each passage that does. ``nearest`` are those of ``given`` that come closest to the question, best
    first: without a word, all in their order.
    """

    def __init__(self, given: Sequence[Given], nearest: Sequence[Given] | None = None) -> None:
        self.text = ""
        self.unsupported: list[str] = []
        self.borne: list[Borne] = []
        self._given = given
        self._nearest = given if nearest is None else nearest
        self._places = {each.number: place for place, each in enumerate(given)}
        self._witnesses = Witnesses([(each.passage.text, each.passage.place) for each in given])
        self._stream = ClaimStream()
        self._sentences: set[str] = set()
        self._repeated = False

    @property
    def repeats_itself(self) -> bool:
        """Whether a sentence has come twice, or the text ends in a loop."""
        return self._repeated or _LOOP.search(self.text[-_LOOP_CHARS:]) is not None

    def take(self, text: str) -> Iterator[str]:
        """Take the next piece of generated text; yield what to show for it, checked marks included."""
        return self._shown(self._stream.feed(text))

    def close(self, *, whole: bool) -> Iterator[str]:
        """Take the end of the text; yield what to show. Not ``whole``: its last sentence was cut off and bears nothing.

        A sentence that lacks its end may say something else than it seems to.
        """
        return self._shown(self._stream.close(), judged=whole)

    def _shown(self, pieces: Sequence[str | Claim], *, judged: bool = True) -> Iterator[str]:
        for piece in pieces:
            if shown := self._mark(piece, judged=judged) if isinstance(piece, Claim) else piece:
                self.text += shown
                yield shown

    def _mark(self, claim: Claim, *, judged: bool) -> str:
        """Return the marks to show behind a sentence; one that is not ``judged`` rests on nothing.

        A mark that the model set counts only if that passage supports the sentence; where none of its marks does,
        the other passages it was given are tried.
        """
        key = " ".join(claim.text.lower().split())
        self._repeated = self._repeated or key in self._sentences
        self._sentences.add(key)
        if not is_claim(claim.text):
            return ""
        borne = self._bearing(claim) if judged else []
        if not borne:
            self.unsupported.append(claim.text)
            return f" {UNSUPPORTED_MARK}"
        self.borne += borne
        return " " + marks(borne)

    def _bearing(self, claim: Claim) -> list[Borne]:
        named = [self._places[mark] for mark in claim.marks if mark in self._places]
        found = self._witnesses.among(claim.text, named)
        if not found and (best := self._witnesses.best(claim.text, but=named)) is not None:
            found = [best]
        return [Borne(claim.text, self._given[place], support) for place, support in found]

    def citations(self, question: str) -> tuple[Citation, ...]:
        """Return a citation for each stretch of a note that the answer rests on, checked against the files now.

        Whatever the model said, the words of the best passages that come closest to ``question`` are among them; those
        that bear no sentence have an empty ``supports``.
        """
        return cited(self.borne, self._nearest, question)


def marks(borne: Sequence[Borne]) -> str:
    """Return the marks that stand behind a sentence which these bear."""
    return "".join(f"[{number}]" for number in dict.fromkeys(each.given.number for each in borne))


def cited(borne: Sequence[Borne], nearest: Sequence[Given], question: str) -> tuple[Citation, ...]:
    """Return the citations of an answer in which ``borne`` are borne, checked against the files now.

    The words of the first of ``nearest`` that come closest to ``question`` are among them.
    """
    places: dict[tuple[int, int, int], list[str]] = {}
    passages = {each.number: each.passage for each in nearest}
    for each in borne:
        key = (each.given.number, each.support.start, each.support.end)
        passages[each.given.number] = each.given.passage
        places.setdefault(key, []).append(each.sentence)
    for given in nearest[: _CLOSEST_BESIDE if places else CLOSEST_INSTEAD]:
        near = closest(question, given.passage.text)
        places.setdefault((given.number, near.start, near.end), [])
    verifier = Verifier()
    citations = []
    for (number, start, end), sentences in places.items():
        passage = passages[number]
        quote = passage.text[start:end]
        standing, first, last = verifier.check(passage, quote)
        supports = tuple(dict.fromkeys(sentences))
        place = place_in_source(passage.path.name, passage.heading)
        citations.append(Citation(number, passage.path, first, last, quote, standing, supports, place))
    return tuple(sorted(citations, key=lambda found: (not found.supports, found.number, found.first_line)))
