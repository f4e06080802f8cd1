"""Partial answers are joined by what bears them: nothing new is said once, what differs is set side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.notes.document import Passage
from quietmind.think.draft import Borne
from quietmind.think.joining import Finding, Source, differing, findings, merged
from quietmind.think.support import Support, find_support
from quietmind.workspace.pack import Given

TANK = "The tank of the bench holds 85 litres and is made of blue plastic. It was bought in May."


def passage(text: str, name: str = "tank.md") -> Passage:
    return Passage(Path("/n") / name, 1, 1 + text.count("\n"), text, name)


def finding(sentence: str, *texts: str, part: int = 0) -> Finding:
    sources = []
    for number, text in enumerate(texts or (TANK,)):
        support = find_support(sentence, text)
        assert support is not None, (sentence, text)
        sources.append(Source(passage(text, f"{number}-{abs(hash(text))}.md"), support.start, support.end))
    return Finding(sentence, tuple(sources), part)


def said(*found: Finding) -> list[str]:
    return [one.sentence for one in merged(found)]


def test_the_same_out_of_the_same_words_is_said_once() -> None:
    assert said(finding("The tank holds 85 litres."), finding("The tank of the bench holds 85 litres.")) == [
        "The tank holds 85 litres.",
        "The tank of the bench holds 85 litres.",
    ]  # the bench is new
    assert said(finding("The tank of the bench holds 85 litres."), finding("The tank holds 85 litres.")) == [
        "The tank of the bench holds 85 litres."
    ]


def test_something_new_out_of_the_same_words_is_kept() -> None:
    both = (finding("The tank of the bench holds 85 litres."), finding("The tank is made of blue plastic."))
    assert len(said(*both)) == 2


def test_what_several_sentences_have_said_together_is_not_said_again() -> None:
    parts = (finding("The tank of the bench holds 85 litres."), finding("The tank is made of blue plastic."))
    assert len(said(*parts, finding("The tank holds 85 litres and is made of blue plastic."))) == 2


def test_the_same_statement_of_two_notes_is_said_once_with_both_sources() -> None:
    one = finding("The tank holds 85 litres.", TANK)
    two = finding("The tank holds 85 litres.", "Today we saw that the tank holds 85 litres.")
    (only,) = merged([one, two])
    assert [source.passage for source in only.sources] == [one.sources[0].passage, two.sources[0].passage]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The tank holds 85 litres.", "The tank of the bench holds 90 litres."),
        ("The pump starts at night.", "The pump does not start at night."),
        ("The vent opens above 30 degrees.", "The vent opens below 30 degrees."),
        ("Полив включается при влажности ниже 32 %.", "Полив включается при влажности ниже 40 %."),
    ],
)
def test_two_notes_that_say_otherwise_differ(one: str, other: str) -> None:
    found = [finding(one, one), finding(other, other)]
    assert merged(found) == found
    assert differing(found) == [(found[0], found[1])]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The tank holds 85 litres.", "The tank is made of plastic."),
        ("The tank holds 85 litres.", "The lamp of the greenhouse takes 60 watts."),
        ("The tank holds 85 litres.", "The tank holds 85 litres of rain water."),
        ("The pump runs for 90 seconds.", "The pump rests for 10 minutes."),
    ],
)
def test_what_speaks_of_something_else_does_not_differ(one: str, other: str) -> None:
    assert differing([finding(one, one), finding(other, other)]) == []


def test_a_note_does_not_differ_from_itself() -> None:
    text = "The tank held 80 litres until it held 85 litres."
    assert differing([finding("The tank held 80 litres.", text), finding("The tank held 85 litres.", text)]) == []


def test_a_sentence_keeps_all_that_bears_it() -> None:
    given = [Given(number, passage(TANK, f"{number}.md"), 0.0, 0) for number in (1, 2)]
    borne = [Borne("It was bought in May.", each, Support(67, 88, 1.0)) for each in given]
    (only,) = findings(borne, 3)
    assert (only.sentence, len(only.sources), only.part) == ("It was bought in May.", 2, 3)
    assert only.sources[0].quote == "It was bought in May."
