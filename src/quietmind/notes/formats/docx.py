"""Word documents (Office Open XML): headings by their outline level, lists, tables and footnotes, as Markdown.

The parts of the archive are read as they are: libraries for writing such files leave out what stands in insertions,
content controls and text boxes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from quietmind.base.errors import NotesError
from quietmind.notes.formats.rendered import Rendered, flat, from_markdown
from quietmind.notes.formats.writing import Writer
from quietmind.notes.formats.zipped import Zipped

if TYPE_CHECKING:
    from lxml.etree import _Element

_OLE = b"\xd0\xcf\x11\xe0"  # MS-CFB 2.2: what .doc and encrypted .docx are
_TITLE_LEVELS = {"title": 1, "subtitle": 2}
_LEVELS = 9  # outlineLvl 0 to 8; 9 is body text (ECMA-376 part 1, 17.3.1.20)
_DEEPEST_STYLE = 20  # of styles that are based on others; a circle ends there
_OFFICE = "officeDocument"


def read(data: bytes, ending: str) -> Rendered:
    """Return the text of a document. Raises NotesError when it is damaged, protected or holds no text."""
    if data.startswith(_OLE):
        raise NotesError("is protected by a password, or an old .doc by another name; save it as .docx without one")
    archive = Zipped(data, "Word document")
    main = _main_part(archive)
    folder = posixpath.dirname(main)
    document = _Document(
        styles=_outline_levels(archive, folder),
        addresses=_addresses(archive, folder, posixpath.basename(main)),
    )
    writer = Writer()
    document.write(archive.xml(main), writer)
    for notes in ("footnotes.xml", "endnotes.xml"):
        if (member := posixpath.join(folder, notes)) in archive:
            document.write(archive.xml(member), writer)
    if not writer.lines:
        raise NotesError("holds no text")
    return from_markdown(writer.lines, _title(archive))


def _main_part(archive: Zipped) -> str:
    for relation in archive.xml("_rels/.rels"):
        if (relation.get("Type") or "").endswith(f"/{_OFFICE}"):
            return (relation.get("Target") or "").lstrip("/")
    raise NotesError("is damaged, or no Word document: it does not say where its text is")


def _title(archive: Zipped) -> str | None:
    if "docProps/core.xml" not in archive:
        return None
    titles = archive.xml("docProps/core.xml").xpath("//*[local-name()='title']")
    return flat("".join(titles[0].itertext())) or None if titles else None


def _addresses(archive: Zipped, folder: str, main: str) -> Mapping[str, str]:
    """Return what the hyperlinks lead to, by the ids of their relations."""
    member = posixpath.join(folder, "_rels", f"{main}.rels")
    if member not in archive:
        return {}
    return {
        relation.get("Id") or "": relation.get("Target") or ""
        for relation in archive.xml(member)
        if (relation.get("Type") or "").endswith("/hyperlink")
    }


def _outline_levels(archive: Zipped, folder: str) -> Mapping[str, int]:
    """Return the level of heading, 1 to 9, that each style of paragraph makes, by its id."""
    if (member := posixpath.join(folder, "styles.xml")) not in archive:
        return {}
    levels: dict[str, int] = {}
    parents: dict[str, str] = {}
    for style in _children(archive.xml(member), "style"):
        name = _value(style, "name").lower()
        number = name.removeprefix("heading ")
        outline = _value(style, "pPr", "outlineLvl")
        key = _attribute(style, "styleId")
        parents[key] = _value(style, "basedOn")
        if name in _TITLE_LEVELS:
            levels[key] = _TITLE_LEVELS[name]
        elif number != name and number.isdecimal():
            levels[key] = int(number)
        elif outline.isdecimal():
            levels[key] = int(outline) + 1
    for key in parents:
        ancestor = key
        for _ in range(_DEEPEST_STYLE):
            if ancestor in levels or ancestor not in parents:
                break
            ancestor = parents[ancestor]
        if ancestor in levels:
            levels[key] = levels[ancestor]
    return {key: level for key, level in levels.items() if level <= _LEVELS}


class _Document:
    """Writes the paragraphs and tables of a part, in their order."""

    def __init__(self, styles: Mapping[str, int], addresses: Mapping[str, str]) -> None:
        self._styles = styles
        self._addresses = addresses

    def write(self, root: _Element, writer: Writer) -> None:
        """Write all below ``root``; what stands in a table belongs to it."""
        from lxml import etree

        walker = etree.iterwalk(root, events=("start",))
        for _, element in walker:
            match _tag(element):
                case "p":
                    self._paragraph(element, writer)
                    walker.skip_subtree()
                case "tbl":
                    writer.table([[self._cell(cell) for cell in _children(row, "tc")] for row in _rows(element)])
                    walker.skip_subtree()
                case "del" | "moveFrom" | "Fallback" | "footnotePr":
                    walker.skip_subtree()

    def _paragraph(self, paragraph: _Element, writer: Writer) -> None:
        text = "".join(self._words(paragraph))
        outline = _value(paragraph, "pPr", "outlineLvl")
        level = self._styles.get(_value(paragraph, "pPr", "pStyle"))
        if outline.isdecimal() and int(outline) < _LEVELS:
            level = int(outline) + 1
        numbered = _child(_child(paragraph, "pPr"), "numPr")
        if level is not None:
            writer.heading(level, text)
        elif numbered is not None or "list" in _value(paragraph, "pPr", "pStyle").lower():
            depth = _value(numbered, "ilvl") if numbered is not None else ""
            writer.item(int(depth) + 1 if depth.isdecimal() else 1, text)
        else:
            writer.paragraph(text)

    def _cell(self, cell: _Element) -> str:
        """Return the words of a cell, those of tables in it too."""
        return " ".join("".join(self._words(each)) for each in cell.iter() if _tag(each) == "p")

    def _words(self, paragraph: _Element) -> Iterator[str]:
        """Yield the text of a paragraph: what was inserted is part of it, what was deleted is not."""
        from lxml import etree

        walker = etree.iterwalk(paragraph, events=("start", "end"))
        for event, element in walker:
            tag = _tag(element)
            address = self._address(element) if tag == "hyperlink" else ""
            if event == "end":
                if address:
                    yield f"]({address})"
                continue
            match tag:
                case "del" | "moveFrom" | "Fallback" | "instrText" | "delText":
                    walker.skip_subtree()
                case "p" if element is not paragraph:  # of a text box that hangs on this paragraph
                    yield " "
                case "t":
                    yield element.text or ""
                case "tab" | "br" | "cr":
                    yield " "
                case "noBreakHyphen":
                    yield "-"
                case "hyperlink" if address:
                    yield "["

    def _address(self, hyperlink: _Element) -> str:
        address = self._addresses.get(_attribute(hyperlink, "id"), "")
        return "" if any(char.isspace() or char in "()<>" for char in address) else address


def _rows(table: _Element) -> Iterator[_Element]:
    """Yield the rows of a table, not those of tables in its cells."""
    for child in table:
        if _tag(child) == "tr":
            yield child
        elif _tag(child) in ("sdt", "sdtContent", "ins"):
            yield from _rows(child)


def _tag(element: _Element) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _children(element: _Element, tag: str) -> Iterator[_Element]:
    """Yield the children of a name, those inside of content controls too."""
    for child in element:
        if _tag(child) == tag:
            yield child
        elif _tag(child) in ("sdt", "sdtContent", "ins"):
            yield from _children(child, tag)


def _child(element: _Element | None, tag: str) -> _Element | None:
    return next((child for child in element if _tag(child) == tag), None) if element is not None else None


def _value(element: _Element | None, *tags: str) -> str:
    """Return ``w:val`` of the element that is reached by ``tags``, one inside the other; "" where there is none."""
    for tag in tags:
        element = _child(element, tag)
    return _attribute(element, "val") if element is not None else ""


def _attribute(element: _Element, name: str) -> str:
    """Return an attribute by its name, in whichever namespace."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")
