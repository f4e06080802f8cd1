"""Org, read line by line, so that its lines are those of the file: headings, drawers, blocks, tables, links, title."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from quietmind.notes.document import Block, Form, Link
from quietmind.notes.formats.rendered import Rendered, own_lines
from quietmind.notes.markdown import Heading, sections

_HEADING = re.compile(r"(\*+)\s+(.*)")
_STATE = re.compile(r"(?:TODO|DONE|NEXT|WAITING|CANCELED|CANCELLED|HOLD|STARTED|ЗАДАЧА|ГОТОВО)\s+")
_PRIORITY = re.compile(r"\[#[A-Z0-9]\]\s*")
_COOKIE = re.compile(r" ?\[\d*(?:/\d*|%)\]")
_TAGS = re.compile(r" :[\w@#%:]+:\Z")
_KEYWORD_TITLE = re.compile(r"#\+title:\s*(.+)", re.IGNORECASE)
_STATES = re.compile(r"#\+(?:todo|seq_todo|typ_todo):(.*)", re.IGNORECASE)
_BEGIN = re.compile(r"\s*#\+begin_(\S+)", re.IGNORECASE)
_END = re.compile(r"\s*#\+end_(\S+)\s*\Z", re.IGNORECASE)
_ITEM = re.compile(r"\s*(?:[-+]|\d+[.)])(?:\s|\Z)|\s+\*\s")
_LINK = re.compile(r"\[\[([^\[\]]+)\](?:\[([^\[\]]*)\])?\]")
_FILE = re.compile(r"(?:file:|\./|\.\./|~/|/)|[^:]+\Z")
_VERBATIM = frozenset({"src", "example", "export", "comment"})


def read(data: bytes, ending: str) -> Rendered:
    """Return the document in a file of Org. Raises NotesError when it is no text."""
    lines, encoding, repairs = own_lines(data)
    states = _own_states(lines)
    blocks: list[Block] = []
    headings: list[Heading] = []
    links: list[Link] = []
    for block in _blocks(lines):
        blocks.append(block)
        if block.form is Form.HEADING:
            stars, words = _HEADING.match(lines[block.first_line - 1]).groups()  # type: ignore[union-attr]
            headings.append(Heading(block.first_line, len(stars), _plain(words, states)))
        if block.form is not Form.CODE:
            links += _links(lines, block)
    titles = (found[1].strip() for line in lines if (found := _KEYWORD_TITLE.match(line)))
    first = (heading.text for heading in headings if heading.level == 1 and heading.text)
    return Rendered(
        lines=lines,
        sections=tuple(sections(headings, 1, len(lines))),
        blocks=tuple(blocks),
        links=tuple(links),
        title=next(titles, None) or next(first, None),
        encoding=encoding,
        repairs=repairs,
    )


def _own_states(lines: Sequence[str]) -> frozenset[str]:
    """Return the states of tasks that the file declares: ``#+TODO: DRAFT(d) | SENT``."""
    declared = (found[1] for line in lines if (found := _STATES.match(line)))
    return frozenset(word.partition("(")[0] for line in declared for word in line.split() if word != "|")


def _plain(words: str, states: frozenset[str]) -> str:
    """Return the words of a heading: without its state, priority, tags and the targets of links."""
    words = _TAGS.sub("", f" {' '.join(words.split())}").strip()
    first, _, rest = words.partition(" ")
    words = rest if first in states else _STATE.sub("", words, count=1) if _STATE.match(words) else words
    words = _COOKIE.sub("", _PRIORITY.sub("", words, count=1))
    return " ".join(_LINK.sub(lambda link: link[2] or link[1], words).split())


def _blocks(lines: Sequence[str]) -> Iterator[Block]:
    """Yield the blocks: headings, lists, tables, ``#+begin_``/``#+end_``, drawers, and paragraphs."""
    ends = _ends_of_verbatim(lines)
    at = 0
    while at < len(lines):
        cuts: tuple[int, ...] = ()
        line = lines[at]
        if not line.strip():
            at += 1
            continue
        if at in ends:
            form, end = Form.CODE, ends[at]
        elif _HEADING.match(line):
            form, end = Form.HEADING, at + 1
        else:
            form = Form.TABLE if _is_row(line) else Form.LIST if _ITEM.match(line) else Form.PARAGRAPH
            end = at + 1
            while end < len(lines) and _goes_on(form, lines, end):
                end += 1
            cuts = _cuts(form, lines, at, end)
        yield Block(at + 1, end, form, cuts)
        at = end


def _ends_of_verbatim(lines: Sequence[str]) -> dict[int, int]:
    """Return where each line that begins a block of code has it end: the index of the line, and one past the end's.

    What is quoted or centred is text. A block that is not closed before the next heading is none: in code, a star at
    the margin is written with a comma before it.
    """
    ends: dict[int, int] = {}
    nearest: dict[str, int] = {}
    for at in range(len(lines) - 1, -1, -1):
        if lines[at][:1] == "*" and _HEADING.match(lines[at]):
            nearest.clear()
        elif end := _END.match(lines[at]):
            nearest[end[1].lower()] = at + 1
        elif (begun := _BEGIN.match(lines[at])) and begun[1].lower() in nearest.keys() & _VERBATIM:
            ends[at] = nearest[begun[1].lower()]
    return ends


def _goes_on(form: Form, lines: Sequence[str], at: int) -> bool:
    line = lines[at]
    if _HEADING.match(line) or _BEGIN.match(line):
        return False
    if form is Form.TABLE:
        return _is_row(line)
    if form is Form.LIST:
        # One blank line may stand between items; what is indented belongs to the item above it.
        if not line.strip():
            return at + 1 < len(lines) and (_ITEM.match(lines[at + 1]) is not None or lines[at + 1][:1] == " ")
        return _ITEM.match(line) is not None or line[0] in " \t"
    return bool(line.strip()) and not _is_row(line) and not _ITEM.match(line)


def _cuts(form: Form, lines: Sequence[str], at: int, end: int) -> tuple[int, ...]:
    if form is Form.TABLE:
        return tuple(range(at + 2, end + 1))
    if form is Form.LIST:
        return tuple(number + 1 for number in range(at + 1, end) if _ITEM.match(lines[number]))
    return ()


def _is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def _links(lines: Sequence[str], block: Block) -> Iterator[Link]:
    """Yield the links to files and headings; those to the web are left out."""
    for number in range(block.first_line, block.last_line + 1):
        for found in _LINK.finditer(lines[number - 1]):
            target, label = found[1].strip(), found[2]
            if not _FILE.match(target):
                continue  # https:, id:, mailto:
            path, _, anchor = target.removeprefix("file:").partition("::")
            if path[:1] in ("*", "#"):  # of this file
                path, anchor = "", path
            elif not target.startswith(("file:", ".", "/", "~")) and "." not in path:
                path, anchor = "", path  # a heading or a target of this file, by its words
            yield Link(number, unquote(path), anchor.lstrip("*#") or None, label or None)
