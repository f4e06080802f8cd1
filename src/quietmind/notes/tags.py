"""The tags of a note: those of its front matter, and each #tag in its text outside of code.

A tag has letters of any script, digits, ``_``, ``-`` and ``/``, and more than digits. Case does not matter. A tag of
parts, ``#garden/pump``, is one of ``garden`` as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from quietmind.notes.document import Document, Kind
from quietmind.notes.links import Text

_TAG = re.compile(r"#([\w/\u0300-\u036f-]+)")
_BEFORE = frozenset(" \t\n\u00a0([{*~>|,;«„“")  # a tag begins a word; what follows a quote or = is an attribute
_NO_TAG = ("](", "[[")  # the target of a link
_COLOUR = re.compile(r"[0-9a-f]{6}(?:[0-9a-f]{2})?")
_SEPARATORS = re.compile(r"[\s,]+")


def find_tags(document: Document, front: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the tags of ``document``, whose front matter is ``front``, each once, in the order of their letters."""
    found = set(listed_tags(front))
    if any("#" in line for line in document.lines):
        text = Text(document)
        for at, tag in hashed_tags(text.whole):
            if tag not in found and (document.kind is Kind.TEXT or not text.in_code(at)):
                found.add(tag)
    return tuple(sorted(found))


def listed_tags(front: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the tags that a front matter lists, ``tags: [a, b]`` or ``tags: a, b``."""
    for key in ("tags", "tag"):
        for value in front.get(key, ()):
            yield from filter(None, map(normal, _SEPARATORS.split(value)))


def hashed_tags(text: str) -> Iterator[tuple[int, str]]:
    """Yield where each ``#tag`` of ``text`` stands, and the tag."""
    for match in _TAG.finditer(text):
        at = match.start()
        if at and (text[at - 1] not in _BEFORE or text[max(at - 2, 0) : at] in _NO_TAG):
            continue
        if tag := normal(match[1]):
            yield at, tag


def normal(written: str) -> str:
    """Return the tag as it is kept and compared, or "" for what is none: a number, a colour."""
    tag = unicodedata.normalize("NFC", written).casefold().lstrip("#").strip("/").rstrip("-")
    if _COLOUR.fullmatch(tag) and any(map(str.isdigit, tag)):
        return ""
    return tag if any(map(str.isalpha, tag)) else ""
