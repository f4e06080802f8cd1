"""Facts that stand in notes and that nobody could guess: numbers, dates, names, each behind the words that lead to it.

Whether a model still says them shows whether a cache still holds what was read. In answers in its own words there are
always several ways to go on, so that a divergence there says less.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Characters of a value. One alone could be guessed; so many take no more tokens than that, and one for a space.
SHORTEST, LONGEST = 2, 8

_LONGEST_PIECE = 4 * LONGEST  # with whatever stands around it
_LEAST_WORDS, _LEAST_BEFORE, _MOST_BEFORE = 4, 20, 160  # words and characters that lead to it
_RARE, _SHORTEST_NAME = 2, 4  # a name occurs no more often, and has so many letters at least

_ENDS = ".!?:;…"  # a capital letter after one of these is no sign of a name

_PIECE = re.compile(r"\S+")
_WORD = re.compile(r"\w+")
_EDGES = re.compile(r"^\W+|\W+$")
_SPACE = re.compile(r"\s+")

_SHORTEST_LINE, _LONGEST_LINE = 60, 160  # characters of one that is written out


@dataclass(frozen=True)
class Fact:
    """A ``value``, and with what its line is ``begun``, which stands in the notes once."""

    begun: str
    value: str


def facts_of(texts: Sequence[str], count: int) -> list[Fact]:
    """Return at most ``count`` facts, spread evenly over ``texts``: numbers, and names where these are too few."""
    whole = "\n".join(texts)
    times = Counter(_WORD.findall(whole))
    lines = [line.strip() for text in texts for line in text.splitlines()]

    def is_name(value: str) -> bool:
        return value.isalpha() and value[0].isupper() and len(value) >= _SHORTEST_NAME and times[value] <= _RARE

    numbers = _found(lines, lambda value: any(character.isdigit() for character in value))
    chosen = _spread(numbers, count, whole)
    taken = {fact.begun for fact in chosen}
    names = [fact for fact in _found(lines, is_name) if fact.begun not in taken and fact.begun[-1] not in _ENDS]
    return chosen + _spread(names, count - len(chosen), whole)


def lines_of(texts: Sequence[str], count: int) -> list[Fact]:
    """Return at most ``count`` lines, spread evenly over ``texts``, cut in two between words: the second half is asked.

    Word for word that is the hardest on a cache: it shows whether what was read can still be copied.
    """
    lines = [_cut(line.strip()) for text in texts for line in text.splitlines()]
    halves = [_halved(line) for line in lines if len(line) >= _SHORTEST_LINE]
    return _spread([half for half in halves if _is_worth_asking(half)], count, "\n".join(texts))


def _cut(line: str) -> str:
    """Return ``line`` up to its last whole word within so many characters."""
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE + 1].rpartition(" ")[0].rstrip()


def _halved(line: str) -> Fact:
    ends = [space.start() for space in _SPACE.finditer(line)] or [len(line)]
    middle = min(ends, key=lambda end: abs(end - len(line) // 2))
    return Fact(line[:middle], line[middle:].strip())


def _is_worth_asking(half: Fact) -> bool:
    """Say whether both halves are made of words, so that the first leads to the second."""
    return min(len(half.begun), len(half.value)) >= _LEAST_BEFORE and len(half.begun.split()) >= _LEAST_WORDS


def _found(lines: Sequence[str], wanted: Callable[[str], bool]) -> list[Fact]:
    """Return the first fact of each line whose value is ``wanted``."""
    return [fact for line in lines for fact in [next(_values(line, wanted), None)] if fact is not None]


def _values(line: str, wanted: Callable[[str], bool]) -> Iterator[Fact]:
    for piece in _PIECE.finditer(line):
        if len(piece[0]) > _LONGEST_PIECE:
            continue
        value = _EDGES.sub("", piece[0])
        start = piece.start() + piece[0].find(value)
        begun = line[:start].rstrip()
        if len(begun) > _MOST_BEFORE:
            return
        led_to = len(begun) >= _LEAST_BEFORE and len(_WORD.findall(begun)) >= _LEAST_WORDS
        if led_to and SHORTEST <= len(value) <= LONGEST and wanted(value):
            yield Fact(begun, value)


def _spread(facts: Sequence[Fact], count: int, whole: str) -> list[Fact]:
    """Return at most ``count`` of ``facts``, from all over them, whose beginnings stand in ``whole`` once."""
    chosen: list[Fact] = []
    for number in range(count):
        start, end = (len(facts) * edge // count for edge in (number, number + 1))
        once = (fact for fact in facts[start:end] if whole.count(fact.begun) == 1)
        chosen += [fact for fact in [next(once, None)] if fact is not None]
    return chosen
