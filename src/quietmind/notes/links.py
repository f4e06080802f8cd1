"""What a note refers to, and what it defines: wiki links, Markdown links, requirement ids, identifiers of code.

Only what the text says is found here; where it leads is decided when somebody asks (:mod:`quietmind.notes.linking`),
so that a note that comes, goes or is renamed changes no other note's rows.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from urllib.parse import unquote

from quietmind.notes.document import Document, Form

# Raise it when the same document comes out with other references or definitions: indexes read their files again.
LINKS_VERSION = 1


class Via(StrEnum):
    """How one place names another."""

    WIKI = "wiki"  # [[note#heading|text]]
    EMBED = "embed"  # ![[note]], ![text](file)
    MARKDOWN = "markdown"  # [text](note.md#heading), [text][label]
    ID = "id"  # REQ-12
    CODE = "code"  # an identifier in backticks or in a fence


@dataclass(frozen=True, slots=True)
class Reference:
    """What stands at a line and names another place. ``target`` and ``anchor`` are as written, percent-decoded.

    An empty ``target`` of a link is the note itself. ``name`` is what a place must be called to be meant.
    """

    line: int
    via: Via
    target: str
    anchor: str = ""

    @property
    def name(self) -> str:
        """Return the key to look the target up by: of a note its :func:`note_name`, else the name itself."""
        if self.via is Via.CODE:
            return _PARTS.split(self.target)[-1]
        return self.target if self.via is Via.ID else note_name(self.target)


@dataclass(frozen=True, slots=True)
class Definition:
    """A line that says what a requirement id or an identifier of code is.

    ``rank`` tells of several lines which is the definition: 0 a heading, or words set off after the id; 1 a row of a
    table that says something of it; 2 one that does not, or a bare mention at the head of a list item.
    """

    line: int
    via: Via
    name: str
    rank: int = 0


@dataclass(frozen=True)
class Links:
    """The references and definitions of a document, each in the order of their lines."""

    references: tuple[Reference, ...]
    definitions: tuple[Definition, ...]


# The ending of a page is no part of its name: exports turn x.html into x.md and keep the links.
_ENDINGS = re.compile(r"(?<=[^/])(?:\.(?:md|markdown|pseudo|idea|txt|html?))+\Z", re.IGNORECASE)

_LINK_END = re.compile(r"\]\(\s*(?:<([^<>\n]*)>|((?:[^\s()]++|\([^\s()]*+\))++))(?:\s+[\"'(][^\n]*?)?\s*\)")
_LABEL = re.compile(r"^ {0,3}\[([^\[\]\n]+)\]:[ \t]*(?:<([^<>\n]*)>|(\S+))", re.MULTILINE)
_LABELLED = re.compile(r"(!?)\[([^\[\]\n]+)\](?:\[([^\[\]\n]*)\])?(?![(:\[])")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:(?!\s)|//", re.IGNORECASE)

_NUMBER = re.compile(r"-\d+(?:\.\d+)*(?![\w-])")
_LETTERS = re.compile(r"(?<![\w-])(?:[A-ZА-ЯЁ]{1,5}-){0,2}[A-ZА-ЯЁ]{1,5}\Z")
_LONGEST_LETTERS = 17
# What may stand before an id that heads its line; the groups say which sort of line.
_BEFORE = re.compile(
    r"[\s>]*(?:(?P<heading>#{1,6}\s+)|(?P<item>(?:[-*+]|\d+[.)])\s+(?:\[[ xX]\]\s+)?)|(?P<row>\|\s*)"
    r"|(?P<front>id:\s+))?"
    r"(?P<strong>[*_]*)[\[(`]*\Z"
)
_SET_OFF = re.compile(r"[\])`]*(?:\*\*|__|\.(?:\s|\*)|[:—–]|\s+[:—–-]\s)")
_WORDS = re.compile(r"(?<![\w`\[./-])[^\W\d_]{2,}(?![\w`\]-])")
_PROSE = 3  # words
_CELL_END = re.compile(r"[\])`*_]*\s*\|")

_FENCE = re.compile(r"[\s>]*(?:(?:[-*+]|\d+[.)])\s+)?(`{3,}|~{3,})")
_DEFINED = re.compile(
    r"^[ \t]*(?:(?:export|default|public|private|protected|internal|static|async|abstract|final|override|virtual|inline"
    r"|unsafe|extern|const|pub(?:\(\w+\))?)[ \t]+)*"
    r"(?:(?:def|class|struct|enum|interface|trait|protocol|function\*?|func|fun|fn|procedure"
    r"|функция|процедура|класс|структура)[ \t]+(?:\([^()\n]*\)[ \t]*)?([^\W\d]\w{2,})"
    r"|(?:type|const|let|константа)[ \t]+([^\W\d]\w{2,})[ \t]*(?:=|:[^:]|struct\b|interface\b))",
    re.MULTILINE,
)
_SPAN = re.compile(r"`([^\W\d]\w*(?:(?:\.|::)\w+)*)(\([^`\n]*\))?`(?!`)")
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_PARTS = re.compile(r"\.|::")
_REMEMBERED = 4096  # addresses: the notes of an archive link to the same places
_SHORTEST = 3
_LONG = 6
_IDENTIFIER = re.compile(rf"\b[^\W\d]\w{{2,}}+(?:(?=\()|(?<=\w{{{_LONG}}}))")
_TELLING = re.compile(r"[^\W_]_+[^\W_]|[a-zа-яё\d][A-ZА-ЯЁ]")


@lru_cache(_REMEMBERED)
def note_name(path: str) -> str:
    """Return what the note at ``path`` (or the target of a link) is called, however it is spelled: ``Pump.md`` and
    ``../parts/pump`` are both ``pump``.
    """
    last = path.rstrip("/").rpartition("/")[2]
    return unicodedata.normalize("NFC", without_ending(last)).casefold()


def without_ending(path: str) -> str:
    """Return ``path`` without the ending of a page, if that leaves a name: ``a/pump`` of ``a/pump.md``."""
    return _ENDINGS.sub("", path)


def find_links(document: Document) -> Links:
    """Return what ``document`` refers to and what it defines."""
    text = Text(document)
    ids, id_definitions = _ids(text)
    code, code_definitions = _identifiers(text)
    wiki = (
        Reference(link.line, Via.EMBED if link.embed else Via.WIKI, link.target, link.heading or "")
        for link in document.links
    )
    references = [*wiki, *_markdown_links(text), *ids, *code]
    references.sort(key=lambda reference: reference.line)
    return Links(tuple(references), (*id_definitions, *code_definitions))


class Text:
    """The text of a document as one string, its lines, and which of them are code."""

    def __init__(self, document: Document) -> None:
        self.lines = document.lines
        self.whole = "\n".join(document.lines)
        self.plain = document.kind.plain
        self._document = document

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate([len(line) + 1 for line in self.lines], initial=0))

    def line(self, at: int) -> int:
        """Return the number of the line that holds the character ``at``."""
        return bisect_right(self._starts, at)

    def start(self, line: int) -> int:
        """Return how many characters stand before ``line``."""
        return self._starts[line - 1]

    def column(self, at: int) -> int:
        """Return how many characters of its line stand before the character ``at``."""
        return at - self._starts[self.line(at) - 1]

    @cached_property
    def code(self) -> frozenset[int]:
        """The numbers of the lines that are code: those of fences, also inside of lists, and indented ones."""
        if self._document.path.suffix.lower() == ".pseudo":
            return frozenset(range(1, len(self.lines) + 1))
        blocks = [block for block in self._document.blocks if block.form is Form.CODE]
        code = {line for block in blocks for line in range(block.first_line, block.last_line + 1)}
        marks = 2 * sum(_FENCE.match(self.lines[block.first_line - 1]) is not None for block in blocks)
        if not self.plain and self.whole.count("```") + self.whole.count("~~~") > marks:
            code.update(_fenced(self.lines))  # there are some inside of lists or quotes
        return frozenset(code)

    def in_code(self, at: int, number: int | None = None) -> bool:
        """Say whether the character ``at``, of the line ``number``, stands in code, of a fence or between backticks."""
        number = number or self.line(at)
        if number in self.code:
            return True
        line = self.lines[number - 1]
        if "`" not in line:
            return False
        column = at - self._starts[number - 1]
        return any(span.start() <= column < span.end() for span in _CODE_SPAN.finditer(line))


def _fenced(lines: Sequence[str]) -> Iterator[int]:
    """Yield the numbers of the lines of fences, with the lines that open and close them."""
    fence = ""
    for number, line in enumerate(lines, 1):
        mark = _FENCE.match(line)
        if fence:
            yield number
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip("`~ \t"):
                fence = ""
        elif mark and "`" not in line[mark.end() :]:
            fence = mark[1]
            yield number


def _markdown_links(text: Text) -> Iterator[Reference]:
    """Yield the links between notes, written in place or by a label; web addresses are none."""
    if text.plain:
        return
    if "](" in text.whole:
        any_embedded = "![" in text.whole
        for link in _LINK_END.finditer(text.whole):
            if found := _split(link[1] or link[2] or ""):
                at = link.start()
                line = text.line(at)
                if not text.in_code(at, line):
                    yield Reference(line, _way(text, at) if any_embedded else Via.MARKDOWN, *found)
    if "]:" not in text.whole:
        return
    labels: dict[str, tuple[str, str]] = {}
    for label in _LABEL.finditer(text.whole):
        found = _split(label[2] or label[3] or "")
        if found and label[1][0] != "^" and not text.in_code(label.start(1)):
            labels.setdefault(_label(label[1]), found)
    for use in _LABELLED.finditer(text.whole) if labels else ():
        found = labels.get(_label(use[3] or use[2]))
        if found and not text.in_code(use.start(2)):
            yield Reference(text.line(use.start(2)), Via.EMBED if use[1] else Via.MARKDOWN, *found)


def _way(text: Text, end: int) -> Via:
    """Return whether the link whose text ends at ``end`` is an embedded one: a ``!`` before its bracket."""
    opening = text.whole.rfind("[", max(0, end - 1000), end)
    return Via.EMBED if opening > 0 and text.whole[opening - 1] == "!" else Via.MARKDOWN


@lru_cache(_REMEMBERED)
def _split(address: str) -> tuple[str, str] | None:
    """Return the path and the anchor of a link, percent-decoded; None of one that leads to no file."""
    if _ADDRESS.match(address):
        return None
    path, _, anchor = address.partition("#")
    path, anchor = unquote(path.partition("?")[0]), unquote(anchor)
    return (path, anchor) if (path or anchor) and "\0" not in path else None


def _label(text: str) -> str:
    return " ".join(text.split()).casefold()


def _ids(text: Text) -> tuple[list[Reference], list[Definition]]:
    """Return where requirement ids are used, once a line, and where the document defines them: the first such line."""
    uses: dict[tuple[int, str], None] = {}
    definitions: dict[str, Definition] = {}
    for number in _NUMBER.finditer(text.whole):
        start = number.start()
        letters = _LETTERS.search(text.whole, max(0, start - _LONGEST_LETTERS - 1), start)
        if letters is None:
            continue
        name, line = text.whole[letters.start() : number.end()], text.line(start)
        rank = _rank(text, letters.start(), number.end()) if name not in definitions else None
        if rank is not None:
            definitions[name] = Definition(line, Via.ID, name, rank)
        elif name not in definitions or definitions[name].line != line:
            uses[line, name] = None
    return [Reference(line, Via.ID, name) for line, name in uses], list(definitions.values())


def _rank(text: Text, start: int, end: int) -> int | None:
    """Return the rank of the id from ``start`` to ``end`` as a definition, or None where it is only mentioned."""
    number, column = text.line(start), text.column(start)
    line = text.lines[number - 1]
    before = _BEFORE.match(line, 0, column)
    if before is None or number in text.code:
        return None
    after = line[column + end - start :]
    if before["row"] is not None:
        if not _CELL_END.match(after):
            return None
        return (
            1 if len(_WORDS.findall(after)) >= _PROSE else 2
        )  # one of ids and names alone tells what belongs together
    if before["heading"] or before["front"] or before["strong"] or _SET_OFF.match(after):
        return 0
    return 2 if before["item"] else None


def _identifiers(text: Text) -> tuple[list[Reference], list[Definition]]:
    """Return the identifiers that the document uses in code, each at its first line, and those that it defines."""
    uses: dict[str, Reference] = {}
    definitions: dict[str, Definition] = {}
    if "`" in text.whole:
        for span in _SPAN.finditer(text.whole):
            if text.whole[span.start() - 1 : span.start()] == "`":  # not in the pattern, which is slow then
                continue
            line = text.line(span.start())
            if _names_code(span[1], called=span[2] is not None) and line not in text.code:
                uses.setdefault(span[1], Reference(line, Via.CODE, span[1]))
    if not text.code:
        return list(uses.values()), []
    runs = list(_runs(text))
    for start, code in runs:
        for defined in _DEFINED.finditer(code):
            name = defined[1] or defined[2]
            line = text.line(start + defined.start(defined.lastindex or 0))
            definitions.setdefault(name, Definition(line, Via.CODE, name))
    for start, code in runs:
        for used in _IDENTIFIER.finditer(code):
            name = used[0]
            if name in uses or name in definitions:
                continue
            called = code.startswith("(", used.end()) and not code.endswith(".", 0, used.start())
            if called or (len(name) >= _LONG and _telling(name)):
                uses[name] = Reference(text.line(start + used.start()), Via.CODE, name)
    return [use for use in uses.values() if use.target not in definitions], list(definitions.values())


def _names_code(words: str, *, called: bool) -> bool:
    """Say whether ``words`` between backticks may be an identifier; ``screen.title`` is more likely a text's key."""
    last = _PARTS.split(words)[-1]
    return len(last) >= _SHORTEST and (called or last == words or _telling(last))


def _telling(name: str) -> bool:
    """Say whether the parts of ``name`` are set apart, as in code: ``like_this``, ``likeThis``."""
    plain = "_" not in name and name.islower()
    return not plain and _TELLING.search(name) is not None


def _runs(text: Text) -> Iterator[tuple[int, str]]:
    """Yield each run of lines of code: where it begins in the whole text, and its text without the fences' marks."""
    for _, group in itertools.groupby(enumerate(sorted(text.code)), key=lambda pair: pair[1] - pair[0]):
        run = [line for _, line in group]
        code = (text.lines[line - 1] for line in run)
        yield text.start(run[0]), "\n".join([" " * len(line) if _is_mark(line) else line for line in code])


def _is_mark(line: str) -> bool:
    return ("```" in line or "~~~" in line) and _FENCE.match(line) is not None
