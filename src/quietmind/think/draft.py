"""An answer while it grows: each finished sentence is judged by the passages, and what holds becomes a citation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from quietmind.think.sentences import Claim, ClaimStream
from quietmind.think.support import Support, closest, find_support, is_claim
from quietmind.think.verify import Citation, Verifier
from quietmind.workspace.pack import Given

# Stands behind a sentence that no passage supports.
UNSUPPORTED_MARK = "[?]"
# How many of the best passages are quoted where the question comes closest: beside an answer that rests on the notes,
# and in the place of one that does not.
_CLOSEST_BESIDE, _CLOSEST_INSTEAD = 1, 3
# A few words again and again at the end of the text: weak models fall into this and do not come out.
_LOOP = re.compile(r"(.{6,80}?)\1{4,}\Z", re.DOTALL)
_LOOP_CHARS = 480


class Draft:
    """Takes the text of the model as it comes, gives back what to show, and keeps what was found out about it.

    ``text`` is all that was shown. ``unsupported`` holds the sentences that no given passage supports.
    """

    def __init__(self, given: tuple[Given, ...]) -> None:
        self.text = ""
        self.unsupported: list[str] = []
        self._given = given
        self._stream = ClaimStream()
        self._borne: list[tuple[Given, Support, str]] = []
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
        named = [given for given in self._given if given.number in claim.marks]
        others = [given for given in self._given if given.number not in claim.marks]
        borne = (_bearing(named, claim) or _bearing(others, claim)[:1]) if judged else []
        if not borne:
            self.unsupported.append(claim.text)
            return f" {UNSUPPORTED_MARK}"
        self._borne += [(given, support, claim.text) for given, support in borne]
        return " " + "".join(f"[{given.number}]" for given, _ in borne)

    def citations(self, question: str) -> tuple[Citation, ...]:
        """Return a citation for each stretch of a note that the answer rests on, checked against the files now.

        Whatever the model said, the words of the best passages that come closest to ``question`` are among them; those
        that bear no sentence have an empty ``supports``.
        """
        borne: dict[tuple[int, int, int], list[str]] = {}
        for given, support, sentence in self._borne:
            borne.setdefault((given.number, support.start, support.end), []).append(sentence)
        for given in self._given[: _CLOSEST_BESIDE if borne else _CLOSEST_INSTEAD]:
            near = closest(question, given.passage.text)
            borne.setdefault((given.number, near.start, near.end), [])
        passages = {given.number: given.passage for given in self._given}
        verifier = Verifier()
        citations = []
        for (number, start, end), sentences in borne.items():
            passage = passages[number]
            quote = passage.text[start:end]
            standing, first, last = verifier.check(passage, quote)
            supports = tuple(dict.fromkeys(sentences))
            citations.append(Citation(number, passage.path, first, last, quote, standing, supports))
        return tuple(sorted(citations, key=lambda found: (not found.supports, found.number, found.first_line)))


def _bearing(given: Sequence[Given], claim: Claim) -> list[tuple[Given, Support]]:
    """Return the passages that support the claim, the one that holds most of its words first."""
    found = [
        (one, support)
        for one in given
        if (support := find_support(claim.text, one.passage.text, one.passage.place)) is not None
    ]
    return sorted(found, key=lambda pair: -pair[1].share)
