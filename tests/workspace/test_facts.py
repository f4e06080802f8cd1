"""Facts to be asked for: their beginnings stand in the notes once, and their values cannot be guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.workspace.facts import LONGEST, SHORTEST, Fact, facts_of, lines_of


def values(texts: list[str], count: int = 10) -> list[str]:
    return [fact.value for fact in facts_of(texts, count)]


def test_a_number_is_asked_for_behind_the_words_that_lead_to_it() -> None:
    (fact,) = facts_of(["The tank of the test bench holds 12.5 litres of water."], 1)
    assert fact == Fact("The tank of the test bench holds", "12.5")


def test_identifiers_dates_and_bracketed_numbers_are_values() -> None:
    notes = [
        "The hub that stands in the hall answers (REQ-12), as agreed.",
        "Третий насос для мастерской обещали привезти к «07.03», не раньше.",
    ]
    assert values(notes) == ["REQ-12", "07.03"]
    assert facts_of(notes, 2)[0].begun.endswith("answers (")


@pytest.mark.parametrize(
    "line",
    [
        "The tank holds 12 litres",  # too few words lead to it
        "The tank of the test bench holds 7 litres",  # one character can be guessed
        "The serial number of this pump is 1234567890",  # longer than a few tokens
        "word " * 60 + "12",  # no reader would quote that much
    ],
)
def test_what_says_little_is_not_asked_for(line: str) -> None:
    assert facts_of([line], 10) == []


def test_a_beginning_that_stands_there_twice_is_not_asked_for() -> None:
    twice = "The pump of the first house is opened at 10:45"
    assert facts_of([twice, twice.replace("10:45", "11:30")], 10) == []


def test_facts_are_spread_over_the_notes() -> None:
    texts = [f"The pump of house {'abcdefghijkl'[n]} is opened at {n}{n}:30 each day" for n in range(12)]
    assert values(texts, 4) == ["00:30", "33:30", "66:30", "99:30"]


def test_names_serve_where_there_are_too_few_numbers() -> None:
    texts = [
        "The pump of the first house holds 12 litres",
        "The controller in the cellar talks to the Kestrel",
        "Every pump and every other thing here talks talks talks to the pump",
        "Nobody knows what the old valve was for. Closed it stays",
    ]
    assert values(texts) == ["12", "Kestrel"]


@given(st.lists(st.text(st.sampled_from("ab7 .(-№ёЖ\n"), max_size=80), max_size=8), st.integers(0, 9))
def test_of_any_text_what_is_found_stands_there_once_and_is_of_the_right_size(texts: list[str], count: int) -> None:
    whole = "\n".join(texts)
    found = facts_of(texts, count)
    assert len(found) <= count
    for fact in found:
        assert SHORTEST <= len(fact.value) <= LONGEST
        assert whole.count(fact.begun) == 1
        assert whole[whole.index(fact.begun) + len(fact.begun) :].lstrip().startswith(fact.value)


def test_a_line_is_begun_with_half_of_it_and_asked_for_to_its_end() -> None:
    (line,) = lines_of(["## Pumps\nshort\nThe pump of the first house is opened before the others are."], 3)
    assert line == Fact("The pump of the first house is", "opened before the others are.")


@pytest.mark.parametrize(
    "line",
    [
        "See https://example.com/a/path/that/is/rather/long/page.html?x=1&y=2",
        "https://example.com/a/path/that/is/rather/long/page.html?x=1&y=2",
        "The pump is opened before the others are.",
    ],
)
def test_what_does_not_lead_to_its_end_is_not_asked_for_as_a_line(line: str) -> None:
    assert lines_of([line], 3) == []


def test_of_a_long_line_whole_words_are_asked_for() -> None:
    words = " ".join(f"pump{number}" for number in range(20))
    (line,) = lines_of([f"{words} {'cellar' * 20}"], 1)
    assert f"{line.begun} {line.value}" == words


def test_lines_that_begin_alike_are_not_asked_for() -> None:
    twice = "The pump of the first house is opened before the others are"
    assert lines_of([twice, f"{twice} not"], 3) == []


@given(st.lists(st.text(st.sampled_from("ab7 .ё\n"), max_size=200), max_size=8), st.integers(0, 5))
def test_of_any_text_lines_stand_there_once_up_to_where_they_are_cut(texts: list[str], count: int) -> None:
    whole = "\n".join(texts)
    found = lines_of(texts, count)
    assert len(found) <= count
    for line in found:
        assert line.value
        assert whole.count(line.begun) == 1
        assert whole[whole.index(line.begun) + len(line.begun) :].lstrip().startswith(line.value)
