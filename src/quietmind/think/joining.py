"""Joining what several partial answers say: what is new is kept, what differs is set side by side. No model here.

Two sentences say the same when the same words of the notes bear them and neither adds to those, or when they state the
same wherever they stand. Two differ when they speak of the same and have another number with the same unit, a "not",
or a word that turns a meaning round ("above", «ниже»). Which of them holds is not decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from quietmind.notes.document import Passage
from quietmind.think.draft import Borne
from quietmind.think.support import Facts, facts_of
from quietmind.think.verify import quoted_lines

# Two sentences speak of the same when they share this much of the shorter one's content words, and of the longer one's:
# "the tank holds 85 litres" and "the tank of the bench holds 90 litres" do, a tank and a lamp do not.
_OF_THE_SHORTER, _OF_THE_LONGER = 0.6, 0.4
_SHARED_AT_LEAST = 2


@dataclass(frozen=True)
class Source:
    """Words of a passage that bear a sentence: ``passage.text[start:end]``."""

    passage: Passage
    start: int
    end: int

    @property
    def quote(self) -> str:
        """The words."""
        return self.passage.text[self.start : self.end]

    @cached_property
    def lines(self) -> tuple[int, int]:
        """The first and last line on which they stood when the note was indexed."""
        return quoted_lines(self.passage, self.quote)

    def overlaps(self, other: Source) -> bool:
        """Say whether both are the same words of the same note, or one holds the other."""
        return (
            self.passage.path == other.passage.path
            and self.lines[0] <= other.lines[1]
            and other.lines[0] <= self.lines[1]
            and (self.quote in other.quote or other.quote in self.quote)
        )


@dataclass(frozen=True)
class Finding:
    """A sentence that stands in the notes, and where. ``part`` numbers the partial answer that said it first."""

    sentence: str
    sources: tuple[Source, ...]
    part: int

    @cached_property
    def facts(self) -> Facts:
        """What the sentence says, as far as it is compared."""
        return facts_of(self.sentence)


def findings(borne: Iterable[Borne], part: int) -> list[Finding]:
    """Return the sentences of a partial answer that are borne, in their order, each with all that bears it."""
    found: dict[str, list[Source]] = {}
    for each in borne:
        source = Source(each.given.passage, each.support.start, each.support.end)
        found.setdefault(each.sentence, []).append(source)
    return [Finding(sentence, tuple(sources), part) for sentence, sources in found.items()]


def merged(every: Sequence[Finding]) -> list[Finding]:
    """Return ``every`` without what says nothing new; the sources of what is left out go to what says it already."""
    kept: list[Finding] = []
    for finding in every:
        at = next((place for place, one in enumerate(kept) if _same(finding, one, kept)), None)
        if at is None:
            kept.append(finding)
        else:
            new = [source for source in finding.sources if not any(map(source.overlaps, kept[at].sources))]
            kept[at] = replace(kept[at], sources=(*kept[at].sources, *new))
    return kept


def differing(every: Sequence[Finding]) -> list[tuple[Finding, Finding]]:
    """Return the pairs that speak of the same and differ, out of different words of the notes."""
    return [
        (one, other)
        for place, one in enumerate(every)
        for other in every[place + 1 :]
        if _differ(one.facts, other.facts) and not _share_a_source(one, other)
    ]


def _same(new: Finding, old: Finding, kept: Sequence[Finding]) -> bool:
    if _states_alike(new.facts, old.facts):
        return True
    if not _share_a_source(new, old):
        return False
    # Of what the notes say there, all that the new sentence repeats has been said, by one or by several.
    said = [one.facts for one in kept if _share_a_source(new, one)]
    held = [facts_of(source.quote) for source in new.sources]
    words = new.facts.words & frozenset().union(*(facts.words for facts in held))
    numbers = {number for number, _ in new.facts.quantities}
    return words <= frozenset().union(*(facts.words for facts in said)) and numbers <= {
        number for facts in said for number, _ in facts.quantities
    }


def _states_alike(one: Facts, other: Facts) -> bool:
    return (
        (one.said, one.denied, one.decisive) == (other.said, other.denied, other.decisive)
        and {number for number, _ in one.quantities} == {number for number, _ in other.quantities}
        and not one.empty
    )


def _share_a_source(one: Finding, other: Finding) -> bool:
    return any(source.overlaps(theirs) for source in one.sources for theirs in other.sources)


def _differ(one: Facts, other: Facts) -> bool:
    shared = len(one.words & other.words)
    shorter, longer = sorted((len(one.words), len(other.words)))
    if shared < max(_SHARED_AT_LEAST, _OF_THE_SHORTER * shorter, _OF_THE_LONGER * longer):
        return False
    if one.found_in(other) < 0:
        return True
    if one.decisive - other.decisive and other.decisive - one.decisive:
        return True
    counted, theirs = _by_unit(one), _by_unit(other)
    return any(counted[unit].isdisjoint(theirs[unit]) for unit in counted.keys() & theirs.keys())


def _by_unit(facts: Facts) -> dict[str, set[str]]:
    """Return the numbers that stand before each unit; before none, under the empty text."""
    found: dict[str, set[str]] = {}
    for number, units in facts.quantities:
        found.setdefault(units[0] if units else "", set()).add(number)
    return found
