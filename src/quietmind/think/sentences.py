"""Cutting text into sentences: at once for notes, and while it streams for answers.

A streamed answer carries marks such as ``[2]`` or ``[1, 3]`` behind its sentences. They are taken out here and handed
over with the sentence they belong to, so that only marks that were checked are ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A mark, with the space before it: it goes with the sentence that it follows.
_MARK = re.compile(r"[ \t]*\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
_MARK_BEGUN = re.compile(r"[ \t]*\[[\d\s,;]*\Z")
_TERMINAL = re.compile(r"[.!?…]+[\"'»”’)*_]*")
_PLAIN = re.compile(r"[^.!?…\n\[ \t]+")
_SPACE = re.compile(r"[ \t]+")
# Words whose full stop ends no sentence. Single letters (initials, "т. е.") are recognised by their length.
_ABBREVIATIONS = frozenset(
    "e.g i.e etc cf vs fig no dr mr mrs ms approx руб тыс млн см им др пр стр рис напр гл ред".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Claim:
    """A finished sentence, without its marks. ``marks`` are the passages that it says it rests on."""

    text: str
    marks: tuple[int, ...]


class ClaimStream:
    """Takes text as it is generated; gives back text to show, and a Claim at the end of each sentence.

    Joined, the shown pieces are the text without its marks; cutting the input differently changes neither them nor
    the claims.
    """

    def __init__(self) -> None:
        self._held = ""  # came in, not yet decided upon
        self._sentence = ""
        self._marks: list[int] = []
        self._ended = False  # a full stop has been seen; only what follows tells whether it ended a sentence

    def feed(self, text: str) -> list[str | Claim]:
        """Take the next piece of text."""
        self._held += text
        return list(self._advance(final=False))

    def close(self) -> list[str | Claim]:
        """Say that no more will come."""
        pieces = list(self._advance(final=True))
        return [*pieces, *self._finish()]

    def _advance(self, *, final: bool) -> Iterator[str | Claim]:
        while self._held:
            if mark := _MARK.match(self._held):
                self._marks += [int(number) for number in re.split(r"\s*[,;]\s*", mark[1])]
                self._held = self._held[mark.end() :]
                continue
            if not final and _MARK_BEGUN.match(self._held):
                return
            if self._held[0] == "\n":
                yield from self._finish()
                yield self._take(1, part_of_sentence=False)
            elif space := _SPACE.match(self._held):
                if not final and space.end() == len(self._held):
                    return  # a mark may follow
                if self._ended and self._starts_sentence(self._held[space.end() :]):
                    yield from self._finish()
                self._ended = False
                yield self._take(space.end())
            elif terminal := _TERMINAL.match(self._held):
                if not final and terminal.end() == len(self._held):
                    return  # "..." may still be growing
                yield self._take(terminal.end())
                self._ended = True
            else:
                plain = _PLAIN.match(self._held)
                self._ended = False
                yield self._take(plain.end() if plain else 1)

    def _take(self, length: int, *, part_of_sentence: bool = True) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        if part_of_sentence:
            self._sentence += taken
        return taken

    def _starts_sentence(self, following: str) -> bool:
        """Say whether what comes after a full stop and a space opens a new sentence."""
        if following[:1].islower():
            return False
        return not _ends_in_abbreviation(self._sentence)

    def _finish(self) -> Iterator[Claim]:
        text = self._sentence.strip()
        if text:
            yield Claim(text, tuple(dict.fromkeys(self._marks)))
            self._marks = []
        self._sentence = ""
        self._ended = False


def _ends_in_abbreviation(sentence: str) -> bool:
    words = sentence.rstrip().split()
    if not words:
        return True
    last = words[-1].strip("\"'«»“”‘’()*_").removesuffix(".")
    measured = len(words) > 1 and words[-2][-1].isdigit()  # "5 m." is a quantity, not an initial
    # "1." at the head of a line numbers a list; "А." is an initial; "т.е." and "e.g." abbreviate.
    return (
        (len(last) == 1 and last.isalpha() and not measured)
        or last.lower() in _ABBREVIATIONS
        or (len(words) == 1 and last.isdigit())
        or re.fullmatch(r"(?:\w\.)+\w", last) is not None
    )


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence of ``text``, surrounding space left out. A line break ends a sentence."""
    spans = []
    position = 0
    for piece in _unmarked(text):
        start = text.index(piece, position)
        position = start + len(piece)
        spans.append((start, position))
    return spans


def _unmarked(text: str) -> Iterator[str]:
    """Yield the sentences of a note, in which ``[2]`` is an ordinary word."""
    for line in text.split("\n"):
        stream = ClaimStream()
        # A private-use character stands in for the bracket, so that nothing is taken for a mark.
        for piece in [*stream.feed(line.replace("[", "\ue000")), *stream.close()]:
            if isinstance(piece, Claim):
                yield piece.text.replace("\ue000", "[")
