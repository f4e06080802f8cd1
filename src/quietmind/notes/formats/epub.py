"""EPUB: the chapters in the order of their spine, each a page of XHTML; what is protected says so."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

from quietmind.base.errors import NotesError
from quietmind.notes.formats import html
from quietmind.notes.formats.rendered import Rendered, flat, from_markdown
from quietmind.notes.formats.writing import Writer
from quietmind.notes.formats.zipped import Zipped

if TYPE_CHECKING:
    from lxml.etree import _Element

_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml"})
_DECLARED = "META-INF/encryption.xml"


def read(data: bytes, ending: str) -> Rendered:
    """Return the text of a book. Raises NotesError when it is damaged, protected or holds no text."""
    book = Zipped(data, "EPUB")
    found = book.xml("META-INF/container.xml").xpath("//*[local-name()='rootfile']/@full-path")
    if not found:
        raise NotesError("is damaged, or no EPUB: it does not say where its contents are listed")
    package = book.xml(found[0])
    chapters = list(_chapters(package, posixpath.dirname(found[0])))
    _refuse_protected(book, chapters)
    writer = Writer()
    for chapter in chapters:
        if chapter in book:
            root = html.tree(html.decoded(book.read(chapter))[0], xhtml=True)
            if root is not None:
                html.write(root, writer)
    if not writer.lines:
        raise NotesError("holds no text, only pictures")
    titles = package.xpath("//*[local-name()='metadata']/*[local-name()='title']")
    return from_markdown(writer.lines, flat("".join(titles[0].itertext())) or None if titles else None)


def _chapters(package: _Element, folder: str) -> Iterator[str]:
    """Yield the members of the archive that the spine lists, in its order; what is only navigation is left out."""
    items = {item.get("id"): item for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")}
    for reference in package.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref"):
        item = items.get(reference)
        if item is None or item.get("media-type") not in _PAGES or "nav" in (item.get("properties") or "").split():
            continue
        yield posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))


def _refuse_protected(book: Zipped, chapters: list[str]) -> None:
    """Raise NotesError where chapters are encrypted; fonts often are, and do not matter."""
    if _DECLARED in book:
        encrypted = book.xml(_DECLARED).xpath("//*[local-name()='CipherReference']/@URI")
        if not {unquote(name) for name in encrypted}.isdisjoint(chapters):
            raise NotesError("is protected against copying (DRM)")
