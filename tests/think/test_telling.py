"""What is told behind an answer, and how it is taken off again when a client sends the answer back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.think.answer import CUT_AT, REPEATED, Answer, AskTimings, Part
from quietmind.think.telling import SOURCES, as_json, citation_lines, remarks, without_sources
from quietmind.think.verify import Citation, Standing

BORNE = Citation(1, Path("/n/tank.md"), 3, 3, "The tank\nholds 85 litres.", Standing.VERIFIED, ("It holds 85 litres.",))
CLOSE = Citation(2, Path("/n/pump.md"), 4, 5, "The pump rests.", Standing.GONE)
PLAIN = Answer("How much?", "It holds 85 litres. [1]", (BORNE,), (), (), AskTimings(1.0), "fake", True)
TOLD = [
    PLAIN,
    replace(PLAIN, stopped_early=f"{CUT_AT}5 tokens (max_tokens)", cut=True),
    replace(PLAIN, stopped_early=REPEATED),
    replace(PLAIN, unsupported=("Elephants like it.",)),
    replace(PLAIN, disagreements=(("It holds 85. [1]", "It holds 90. [2]"),)),
    replace(PLAIN, parts=(Part("hw", None, "", (), ("Elephants like it.",)),)),
    replace(PLAIN, citations=(BORNE, CLOSE)),
]


@pytest.mark.parametrize("answer", TOLD)
def test_an_answer_that_comes_back_is_its_text_alone(answer: Answer) -> None:
    lines = [*remarks(answer), "", SOURCES, *citation_lines(answer, str)]
    for end in ("\n", "  \n"):
        assert without_sources(f"{answer.text}\n\n{end.join(lines)}") == answer.text


def test_a_text_without_sources_stays_as_it_is() -> None:
    assert (
        without_sources("Two lines.\n\nSources: are what he asked for.")
        == "Two lines.\n\nSources: are what he asked for."
    )
    nothing = replace(PLAIN, text="", citations=(), found=False)
    assert without_sources("\n".join(remarks(nothing))) == ""


def test_a_citation_is_one_line_that_says_how_it_stands() -> None:
    bears, beside, close = citation_lines(replace(PLAIN, citations=(CLOSE, BORNE)), lambda path: path.name)
    assert bears == "[1] tank.md:3-3  “The tank holds 85 litres.”"
    assert beside.endswith(":")
    assert "NOT VERIFIED" in close


def test_the_answer_as_json_has_whole_paths() -> None:
    assert as_json(PLAIN)["citations"][0]["path"] == str(Path("/n/tank.md"))
    assert "passages" not in as_json(PLAIN)
