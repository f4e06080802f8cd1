"""The quick rule for paragraphs says what the parser's own rules together say."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quietmind.notes import markdown
from quietmind.notes.document import Form

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

INDENTS = ["", "", " ", "  ", "   ", "    ", "     ", "\t", "> ", ">", "- ", "-   ", "1. ", "2) ", "* ", "> - ", "  - "]
TEXTS = [
    *("слово и слово", "word [[link]] word", "a | b", "[[x|y]]", "| a | b |", "(", "«так»", "word -", "a\\", "&amp;"),
    *("---", "===", "-", "=", "--- ", "--- | ---", "|---|", ":-", "|", "- - -", "***", "_ _ _", ": --", "-:|"),
    *("# heading", "#none", "######", "```", "~~~ x", "````", "<div>", "</div>", "<!-- x", "x -->", "<x", "<b>"),
    *("- item", "+ item", "*", "+", "1. one", "1986. year", "2) two", "12345678901. x", "1.", "[a]: b", "[^1]: x"),
    *("", "", "", "   ", "\u00a0", "\x0c", "tags: [[a]]"),
]
LINES = st.lists(st.builds("".join, st.tuples(st.sampled_from(INDENTS), st.sampled_from(TEXTS))), max_size=14)


new_parser = markdown._parser.__wrapped__


@cache
def without_the_rule(*, front_matter: bool) -> MarkdownIt:
    parser: MarkdownIt = new_parser(front_matter=front_matter)
    parser.block.ruler.disable(["prose"])
    return parser


@settings(max_examples=500)
@given(LINES)
@example(["text", "a | b", "--- | ---", "1 | 2"])
@example(["- a", "b", "---"])
@example(["> a", "b", "    c", "- d", "e [[f]]"])
@example(["a", "1986. b", "1. c"])
def test_a_document_comes_out_as_the_parsers_own_rules_have_it(lines: list[str]) -> None:
    quick = markdown.parse(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markdown, "_parser", without_the_rule)
        assert quick == markdown.parse(lines)


def test_most_paragraphs_are_taken_by_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> bool:
        raise AssertionError("the slow rule was asked")

    parser: MarkdownIt = new_parser(front_matter=True)
    parser.block.ruler.at("paragraph", unexpected)
    monkeypatch.setattr(markdown, "_parser", lambda *, front_matter: parser)
    lines = ["# Насос", "", "Первая строка,", "(вторая) [[строка]].", "- пункт", "  дальше", "- второй", "", "> цитата"]
    parsed = markdown.parse(lines)
    assert [block.form for block in parsed.blocks] == [Form.HEADING, Form.PARAGRAPH, Form.LIST, Form.PARAGRAPH]
    assert [link.line for link in parsed.links] == [4]
