"""HTML, a page saved from the web or exported: its text as Markdown, without what only serves to show or steer it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from quietmind.base.errors import NotesError
from quietmind.notes import encoding
from quietmind.notes.formats.rendered import Rendered, clean, flat, from_markdown
from quietmind.notes.formats.writing import Writer

if TYPE_CHECKING:
    from lxml.etree import _Element

_NAMES = """
    script style nav template noscript svg math head iframe object embed canvas audio video map button select textarea
    input dialog rp rt
"""
_LEFT_OUT = frozenset(_NAMES.split())
_LEFT_OUT_ROLES = frozenset({"navigation", "search", "banner", "menu", "menubar", "toolbar"})
_BLOCK_NAMES = """
    address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer form
    header hgroup hr html li main ol p pre section summary table tbody td tfoot th thead tr ul h1 h2 h3 h4 h5 h6
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_CLOSED = re.compile(r"<([a-zA-Z][\w-]*)(\s[^<>]*)?/>")
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_IN_LAYOUT = ".//table|.//h1|.//h2|.//h3|.//h4|.//h5|.//h6|.//ul|.//ol|.//pre|.//dl|.//blockquote"
_CHARSET = re.compile(
    rb"""<(?:meta\s[^>]*?charset\s*=\s*|\?xml[^>]*?encoding\s*=\s*)["']?\s*([\w.:-]+)""", re.IGNORECASE
)
_DECLARED_WITHIN = 4096  # bytes; browsers look at 1024 (HTML Standard, 13.2.3.2)
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_RELATIVE = re.compile(r"(?![a-z][a-z0-9+.-]*:|//|#\Z)[^\s()<>]+\Z", re.IGNORECASE)
_DEEPEST_QUOTE = 5


def read(data: bytes, ending: str) -> Rendered:
    """Return the text of a page. Raises NotesError when it is no text or holds none."""
    text, name = decoded(data)
    root = tree(text, xhtml=ending == ".xhtml")
    writer = Writer()
    title = None
    if root is not None:
        titles = root.xpath("//title")
        title = flat("".join(titles[0].itertext())) or None if titles else None
        write(root, writer)
    if not writer.lines:
        raise NotesError("holds no text")
    rendered = from_markdown(writer.lines, title)
    return Rendered(rendered.lines, rendered.sections, rendered.blocks, rendered.links, rendered.title, encoding=name)


def write(root: _Element, writer: Writer) -> None:
    """Write all that is to be read below ``root``, a tree of HTML or XHTML."""
    _Walk(writer).walk(root)


def decoded(data: bytes) -> tuple[str, str]:
    """Return the text in UTF-8 where it is that, else in the encoding that the page declares, else in the likeliest.

    What is converted to UTF-8 mostly goes on declaring what it was; no other text is UTF-8 by chance.
    """
    with suppress(UnicodeDecodeError):
        return data.decode("utf-8-sig"), "utf-8"
    declared = _CHARSET.search(data[:_DECLARED_WITHIN])
    if declared and not data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            name = codecs.lookup(declared[1].decode("ascii", "replace")).name
            if not name.startswith("utf-16") and b"\0" not in data:  # the declaration could not have been read
                return data.decode(name), name
        except (LookupError, ValueError):
            pass
    return encoding.decode(data)


def tree(text: str, *, xhtml: bool = False) -> _Element | None:
    """Return the root of a page, however badly it is written; None where nothing is in it.

    An element may be closed where it is opened (``<title/>``) in ``xhtml`` only, which a parser of HTML must be spared.
    """
    from lxml import etree

    text = clean(text)
    if xhtml or _DECLARATION.match(text):
        text = _CLOSED.sub(lambda m: m[0] if m[1].lower() in _VOID else f"<{m[1]}{m[2] or ''}></{m[1]}>", text)
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    try:
        return etree.fromstring(_DECLARATION.sub("", text).encode(), parser)
    except etree.XMLSyntaxError:
        return None


class _Walk:
    """Goes through a tree in the order of its text, gathering words until a block ends."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._words: list[str] = []
        self._lists: list[str] = []  # of the lists around: "-", or the number of the item as text
        self._marks: list[str | None] = []  # of the items around: what is not written yet
        self._quotes = 0
        self._rows: list[list[str]] | None = None  # of the table at hand, where it is one of data
        self._addresses: list[str | None] = []

    def walk(self, root: _Element) -> None:
        """Write what stands below ``root``."""
        from lxml import etree

        left_out: _Element | None = None
        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            tag = _tag(element)
            if event == "start":
                if tag is not None and tag not in _LEFT_OUT and tag != "pre" and not _hidden(element):
                    self._start(tag, element)
                    self._add(element.text)
                    continue
                left_out = element
                walker.skip_subtree()
                if tag == "pre":
                    self._code(element)
            else:
                if element is left_out:
                    left_out = None
                else:
                    self._end(tag or "", element)
                if element is not root:
                    self._add(element.tail)
        self._flush()

    def _add(self, text: str | None) -> None:
        if text:
            self._words.append(text)

    def _start(self, tag: str, element: _Element) -> None:
        if tag in _BLOCKS and self._rows is None:
            self._flush()
        if begin := _STARTS.get(tag):
            begin(self, element)

    def _end(self, tag: str, element: _Element) -> None:
        if tag in _HEADINGS and self._rows is None:
            self._writer.heading(_HEADINGS[tag], self._taken())
        elif tag in _BLOCKS and self._rows is None:
            self._flush()
        if end := _ENDS.get(tag):
            end(self, element)

    def _taken(self) -> str:
        words = "".join(self._words)
        self._words.clear()
        return words

    def _flush(self) -> None:
        """Write the words at hand as an item, where one has just begun, or a paragraph."""
        words = self._taken()
        if not words.strip():
            return
        if self._marks and self._marks[-1] is not None:
            self._writer.item(len(self._marks), words, self._marks[-1])
            self._marks[-1] = None
        elif self._marks:
            self._writer.further(len(self._marks), words)
        else:
            self._writer.paragraph(words, min(self._quotes, _DEEPEST_QUOTE))

    def _code(self, element: _Element) -> None:
        self._flush()
        if self._rows is not None:
            self._add("".join(element.itertext()))
        else:
            self._writer.code("".join(element.itertext()))

    def _begin_list(self, element: _Element) -> None:
        if self._rows is None:
            self._lists.append("0" if _tag(element) == "ol" else "-")

    def _end_list(self, element: _Element) -> None:
        if self._rows is None and self._lists:
            self._lists.pop()

    def _begin_item(self, element: _Element) -> None:
        if self._rows is not None:
            return
        mark = "-"
        if self._lists and self._lists[-1] != "-":
            self._lists[-1] = str(int(self._lists[-1]) + 1)
            mark = f"{self._lists[-1]}."
        self._marks.append(mark)

    def _end_item(self, element: _Element) -> None:
        if self._rows is None and self._marks:
            self._marks.pop()

    def _begin_quote(self, element: _Element) -> None:
        self._quotes += self._rows is None

    def _end_quote(self, element: _Element) -> None:
        self._quotes -= self._rows is None

    def _begin_table(self, element: _Element) -> None:
        # A table with headings, lists or tables in it lays a page out; one that is only rows holds data.
        if self._rows is None and not self._marks and not element.xpath(_IN_LAYOUT):
            self._rows = []

    def _end_table(self, element: _Element) -> None:
        if self._rows is not None and not any(True for _ in element.iterancestors("table")):
            self._cell()
            rows, self._rows = self._rows, None
            if max(map(len, rows), default=0) > 1:
                self._writer.table(rows)
            else:
                for row in rows:
                    self._writer.paragraph(" ".join(row))

    def _begin_row(self, element: _Element) -> None:
        if self._rows is not None:
            self._rows.append([])

    def _cell(self) -> None:
        words = self._taken()
        if self._rows is not None and words.strip():
            if not self._rows:
                self._rows.append([])
            self._rows[-1].append(words)

    def _end_cell(self, element: _Element) -> None:
        if self._rows is not None:
            words = self._taken()
            if not self._rows:
                self._rows.append([])
            self._rows[-1].append(words)

    def _break(self, element: _Element) -> None:
        self._add(" ")

    def _picture(self, element: _Element) -> None:
        self._add(element.get("alt"))

    def _span(self, element: _Element) -> None:
        self._add("`")

    def _begin_link(self, element: _Element) -> None:
        # What leads to another note is kept; addresses on the web would be half of the text of many a page.
        address = (element.get("href") or "").strip()
        kept = address if _RELATIVE.match(address) else None
        self._addresses.append(kept)
        if kept:
            self._add("[")

    def _end_link(self, element: _Element) -> None:
        if self._addresses and (kept := self._addresses.pop()):
            self._add(f"]({kept})")


_Step = Callable[[_Walk, "_Element"], None]
_STARTS: Mapping[str, _Step] = {
    "ul": _Walk._begin_list,
    "ol": _Walk._begin_list,
    "li": _Walk._begin_item,
    "blockquote": _Walk._begin_quote,
    "table": _Walk._begin_table,
    "tr": _Walk._begin_row,
    "br": _Walk._break,
    "img": _Walk._picture,
    "code": _Walk._span,
    "a": _Walk._begin_link,
}
_ENDS: Mapping[str, _Step] = {
    "ul": _Walk._end_list,
    "ol": _Walk._end_list,
    "li": _Walk._end_item,
    "blockquote": _Walk._end_quote,
    "table": _Walk._end_table,
    "td": _Walk._end_cell,
    "th": _Walk._end_cell,
    "code": _Walk._span,
    "a": _Walk._end_link,
}


def _tag(element: _Element) -> str | None:
    """Return the name of ``element`` without its namespace; None where it is none."""
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else None


def _hidden(element: _Element) -> bool:
    return (
        element.get("hidden") is not None
        or element.get("aria-hidden") == "true"
        or element.get("role") in _LEFT_OUT_ROLES
    )
