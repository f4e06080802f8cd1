"""Sentences of answers and of notes, and the marks that go with them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.think.sentences import Claim, ClaimStream, sentence_spans


def stream(*pieces: str) -> tuple[str, list[Claim]]:
    """Return the text shown and the claims found when the answer arrives in these pieces."""
    claims = ClaimStream()
    out: list[str | Claim] = []
    for piece in pieces:
        out += claims.feed(piece)
    out += claims.close()
    return "".join(p for p in out if isinstance(p, str)), [p for p in out if isinstance(p, Claim)]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("It is 5 m. [1] It floats [2].", [Claim("It is 5 m.", (1,)), Claim("It floats.", (2,))]),
        ("Насос включается при 12 °C [1, 3]. Потом нет.", [Claim("Насос включается при 12 °C.", (1, 3)),
                                                          Claim("Потом нет.", ())]),
        ("See e.g. the hub, v2.5.1 and т. е. REQ-1. Done.", [Claim("See e.g. the hub, v2.5.1 and т. е. REQ-1.", ()),
                                                             Claim("Done.", ())]),
        ("1. First [2]\n2. Second [1][3]", [Claim("1. First", (2,)), Claim("2. Second", (1, 3))]),
        ("An array a[i] and [[link]] stay.", [Claim("An array a[i] and [[link]] stay.", ())]),
        ("Wait... what? Yes!", [Claim("Wait... what?", ()), Claim("Yes!", ())]),
        ("", []),
        ("[1]", []),
    ],
)  # fmt: skip
def test_an_answer_is_cut_into_sentences_with_their_marks(text: str, claims: list[Claim]) -> None:
    assert stream(text)[1] == claims


def test_marks_never_reach_the_shown_text() -> None:
    assert stream("It is 5 m. [1] It floats [2, 3].")[0] == "It is 5 m. It floats."


@given(st.text(alphabet="ab Д.!?\n[]12,", max_size=60), st.data())
def test_how_the_text_arrives_changes_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert stream(*pieces) == stream(text)


@given(st.text(alphabet="ab Д.!?\n[]()12,", max_size=80))
def test_sentences_of_a_note_cover_every_word(text: str) -> None:
    spans = sentence_spans(text)
    assert all(a < b for a, b in spans)
    assert all(x[1] <= y[0] for x, y in pairwise(spans))
    covered = "".join(text[a:b] for a, b in spans)
    assert "".join(covered.split()) == "".join(text.split())
