"""Markdown: front matter, headings, blocks with their exact lines, wiki links. Block structure comes from
markdown-it; inline markup is never parsed, which makes reading several times faster.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from quietmind.notes.document import Block, Form, Link, Section

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

_FORMS = {
    "heading_open": Form.HEADING,
    "bullet_list_open": Form.LIST,
    "ordered_list_open": Form.LIST,
    "table_open": Form.TABLE,
    "fence": Form.CODE,
    "code_block": Form.CODE,
}
_OPEN_ENDED = ("fence", "code_block", "html_block", "front_matter")  # blocks that are a single token
# What the first line of a block, or one that ends a paragraph, may begin with if it is not one of a paragraph.
_BLOCK_MARKS = frozenset("`~>*-_+<#|:=0123456789")
_RULE_MARKS = "|-:= \t"  # all that the second line of a table, and one that makes a heading of those above, consist of
_CODE_INDENT = 4
_WINDOW_CHARS = 1 << 18
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
    front_title = None
    headings: list[Heading] = []
    blocks: list[Block] = []
    links: list[Link] = []
    for offset, tokens in _windows(lines, first_line):
        for at, token in enumerate(tokens):
            if token.level or token.map is None:
                continue
            first, last = token.map[0] + offset, token.map[1] - 1 + offset
            while last > first and not lines[last - first_line].strip():
                last -= 1
            form = _FORMS.get(token.type, Form.PARAGRAPH)
            cuts = _cuts(tokens, at, offset) if form in (Form.LIST, Form.TABLE) else ()
            blocks.append(Block(first, last, form, cuts))
            if token.type == "front_matter":
                front_title = _front_title(token.content)
            elif form is Form.HEADING:
                headings.append(Heading(first, int(token.tag[1]), plain(tokens[at + 1].content)))
        links += _links(tokens, offset)
    return Parsed(front_title, tuple(headings), tuple(blocks), tuple(links))


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
    parser.block.ruler.before("table", "prose", _prose)
    parser.core.ruler.disable(["inline"])
    parser.block.ruler.disable(["reference"])  # a link definition is a line of the note like any other
    return parser


def _prose(state: StateBlock, first: int, _end: int, silent: bool) -> bool:
    """Take the paragraph that begins at the line ``first``, if its lines show by their beginnings that it is one.

    A rule of the parser (https://markdown-it-py.readthedocs.io/en/latest/architecture.html) that says what the others
    together say, ten times as fast: they look at every line of a paragraph one after the other, and most are prose.
    """
    begin = state.bMarks[first] + state.tShift[first]
    if silent or state.src[begin] in _BLOCK_MARKS or state.sCount[first] - state.blkIndent >= _CODE_INDENT:
        return False
    line = first + 1
    around, state.parentType = state.parentType, "paragraph"  # what a list asks before it ends one
    try:
        while line < state.lineMax:
            begin, end = state.bMarks[line] + state.tShift[line], state.eMarks[line]
            if begin >= end:
                break
            if state.src[begin] in _BLOCK_MARKS:
                if not state.src[begin:end].strip(_RULE_MARKS):
                    return False  # a table or a heading, perhaps from the first line on
                if 0 <= state.sCount[line] < state.blkIndent + _CODE_INDENT and any(
                    rule(state, line, state.lineMax, True) for rule in state.md.block.ruler.getRules("paragraph")
                ):
                    break
            line += 1
    finally:
        state.parentType = around
    state.line = line
    token = state.push("inline", "", 0)  # where the parser's own rule has three: of this one we need no more
    token.map, token.children = [first, line], []
    if state.src.find("[[", state.bMarks[first], state.eMarks[line - 1]) >= 0:
        token.content = state.getLines(first, line, state.blkIndent, False).strip()
    return True


def _front_title(front_matter: str) -> str | None:
    found = _FRONT_MATTER_TITLE.search(front_matter)
    if found is None:
        return None
    title = found[1]
    if title[0] in "\"'" and title[-1] == title[0] and len(title) > 1:
        title = title[1:-1]
    return title.strip() or None


def _windows(lines: Sequence[str], first_line: int) -> Iterator[tuple[int, list[Token]]]:
    """Yield the tokens of ``lines``, a window at a time, each with the line number of the window's first line.

    Tokens take hundreds of times the memory of short lines, so a large file is not parsed as one. The last block of
    a window may go on beyond it and is left to the next one, which begins there; only a list, table or quote larger
    than a whole window is cut at its end.
    """
    start = 0
    while start < len(lines):
        end, tokens = _window(lines, start, _parser(front_matter=first_line + start == 1))
        if end < len(lines):
            last, line = max((at, token.map[0]) for at, token in enumerate(tokens) if token.level == 0 and token.map)
            if last > 0:
                end = start + line
                del tokens[last:]
        yield first_line + start, tokens
        start = end


def _window(lines: Sequence[str], start: int, parser: MarkdownIt) -> tuple[int, list[Token]]:
    """Return the end (an index into ``lines``) and the tokens of the window at ``start``.

    It is widened while it is all blank, or all inside of code: nothing in there may be taken for a heading.
    """
    end, size, wanted = start, 0, _WINDOW_CHARS
    while True:
        while end < len(lines) and size < wanted:
            size += len(lines[end]) + 1
            end += 1
        tokens = parser.parse("\n".join(lines[start:end]))
        if end == len(lines) or (tokens and (len(tokens) > 1 or tokens[0].type not in _OPEN_ENDED)):
            return end, tokens
        wanted = 2 * size


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


def _links(tokens: Sequence[Token], first_line: int) -> Iterator[Link]:
    for token in tokens:
        if token.type == "inline" and token.map is not None and "[[" in token.content:
            yield from find_links(token.content, token.map[0] + first_line)


def find_links(text: str, first_line: int) -> list[Link]:
    """Return the wiki links of ``text``, whose first line is ``first_line``; those in code spans are none."""
    text = _CODE_SPAN.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    links = []
    text = text.replace("\\|", "|")
    for match in _WIKI_LINK.finditer(text):
        target, heading, label = (part.strip() if part else None for part in match.groups())
        if (target or heading) and text[match.end() : match.end() + 1] != "(":  # [[1]](page.md) is a Markdown link
            line = first_line + text.count("\n", 0, match.start())
            embed = text.endswith("!", 0, match.start())
            links.append(Link(line, target or "", heading or None, label or None, embed))
    return links
