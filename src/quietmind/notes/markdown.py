"""Markdown: front matter, headings, blocks with their exact lines, wiki links. Block structure comes from
markdown-it; inline markup is never parsed, which makes reading several times faster.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from quietmind.notes.document import Block, Form, Link, Section

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FORMS = {
    "heading_open": Form.HEADING,
    "bullet_list_open": Form.LIST,
    "ordered_list_open": Form.LIST,
    "table_open": Form.TABLE,
    "fence": Form.CODE,
    "code_block": Form.CODE,
}
_FRONT_MATTER_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_WIKI_LINK = re.compile(r"\[\[([^\[\]|#\n]*)(?:#([^\[\]|\n]*))?(?:\|([^\[\]\n]*))?\]\]")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_EMPHASIS = re.compile(r"\*+|`+|~~|(?<!\w)_+|_+(?!\w)")
_INLINE_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")


@dataclass(frozen=True)
class Heading:
    """A heading: its line, its level from 1 to 6, its words without markup."""

    line: int
    level: int
    text: str


@dataclass(frozen=True)
class Parsed:
    """What a stretch of Markdown holds; all line numbers are those of the whole file."""

    front_title: str | None
    headings: tuple[Heading, ...]
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]


def parse(lines: Sequence[str], first_line: int = 1) -> Parsed:
    """Parse ``lines``, the first of which is line ``first_line`` of the file. Front matter stands at line 1 only."""
    text = "\n".join(lines)
    tokens = _parser(front_matter=first_line == 1).parse(text)
    front_title = None
    headings: list[Heading] = []
    blocks: list[Block] = []
    for at, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        if token.type == "front_matter":
            front_title = _front_title(token.content)
        elif token.type == "heading_open":
            headings.append(Heading(token.map[0] + first_line, int(token.tag[1]), plain(tokens[at + 1].content)))
        blocks.append(_block(token, tokens, at, lines, first_line))
    links = _links(tokens, first_line) if "[[" in text else ()
    return Parsed(front_title, tuple(headings), tuple(blocks), links)


def plain(text: str) -> str:
    """Return the words of a line of Markdown: without emphasis, code marks and link targets."""
    text = _WIKI_LINK.sub(lambda m: m[3] or m[2] or m[1], text)
    text = _INLINE_LINK.sub(r"\1", text)
    return " ".join(_EMPHASIS.sub("", text).split())


def sections(
    headings: Sequence[Heading],
    first_line: int,
    last_line: int,
    *,
    speaker: str | None = None,
    when: str | None = None,
    uid: str | None = None,
) -> list[Section]:
    """Return the sections that ``headings`` make of the lines from ``first_line`` to ``last_line``, without gaps."""
    result: list[Section] = []
    path: list[Heading] = []
    start = first_line

    def close(last: int) -> None:
        if start <= last:
            result.append(Section(start, last, tuple(heading.text for heading in path), speaker, when, uid))

    for heading in headings:
        close(heading.line - 1)
        start = heading.line
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
    close(last_line)
    return result


@cache
def _parser(*, front_matter: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.front_matter import front_matter_plugin

    parser = MarkdownIt("commonmark").enable("table")
    if front_matter:
        parser.use(front_matter_plugin)
    parser.core.ruler.disable(["inline"])
    parser.block.ruler.disable(["reference"])  # a link definition is a line of the note like any other
    return parser


def _front_title(front_matter: str) -> str | None:
    found = _FRONT_MATTER_TITLE.search(front_matter)
    if found is None:
        return None
    title = found[1]
    if title[0] in "\"'" and title[-1] == title[0] and len(title) > 1:
        title = title[1:-1]
    return title.strip() or None


def _block(token: Token, tokens: Sequence[Token], at: int, lines: Sequence[str], first_line: int) -> Block:
    assert token.map is not None
    first, end = token.map
    while end - 1 > first and not lines[end - 1].strip():
        end -= 1
    form = _FORMS.get(token.type, Form.PARAGRAPH)
    cuts = _cuts(tokens, at, first_line) if form in (Form.LIST, Form.TABLE) else ()
    return Block(first + first_line, end - 1 + first_line, form, cuts)


def _cuts(tokens: Sequence[Token], at: int, first_line: int) -> tuple[int, ...]:
    """Return the lines of the items (or rows) of the list (or table) at ``tokens[at]``, without its first."""
    cuts: list[int] = []
    for child in itertools.islice(tokens, at + 1, None):
        if child.level == 0:
            break
        if child.type in ("list_item_open", "tr_open") and child.level <= 2 and child.map:
            line = child.map[0] + first_line
            if not cuts or line > cuts[-1]:
                cuts.append(line)
    return tuple(cuts[1:])


def _links(tokens: Sequence[Token], first_line: int) -> tuple[Link, ...]:
    links: list[Link] = []
    for token in tokens:
        if token.type == "inline" and token.map is not None and "[[" in token.content:
            links += find_links(token.content, token.map[0] + first_line)
    return tuple(links)


def find_links(text: str, first_line: int) -> list[Link]:
    """Return the wiki links of ``text``, whose first line is ``first_line``; those in code spans are none."""
    text = _CODE_SPAN.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    links = []
    for match in _WIKI_LINK.finditer(text.replace("\\|", "|")):
        target, heading, label = (part.strip() if part else None for part in match.groups())
        if target or heading:
            line = first_line + text.count("\n", 0, match.start())
            links.append(Link(line, target or "", heading or None, label or None))
    return links
