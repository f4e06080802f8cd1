"""How a document crosses from the process that took it apart to ours: as JSON, and held against what a document is.

Nothing else would do: what a hostile file can make of that process must not become more here than a wrong text.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from quietmind.notes.document import Block, Form, Link, Repair, Section
from quietmind.notes.formats.rendered import Rendered


def pack(rendered: Rendered) -> bytes:
    """Return ``rendered`` as bytes."""
    packed = {
        "lines": rendered.lines,
        "sections": [[s.first_line, s.last_line, s.heading, s.uid] for s in rendered.sections],
        "blocks": [[b.first_line, b.last_line, b.form, b.cuts] for b in rendered.blocks],
        "links": [[n.line, n.target, n.heading, n.label, n.embed] for n in rendered.links],
        "title": rendered.title,
        "encoding": rendered.encoding,
        "repairs": [[r.line, r.codec, r.before, r.after] for r in rendered.repairs],
    }
    return json.dumps(packed).encode("ascii")


def unpack(data: bytes) -> Rendered:
    """Return what :func:`pack` made bytes of. Raises ValueError for anything that it did not."""
    try:
        packed = json.loads(data)
        rendered = Rendered(
            lines=tuple(_text(line) for line in packed["lines"]),
            sections=tuple(
                Section(_line(first), _line(last), tuple(map(_text, heading)), uid=_text_or_none(uid))
                for first, last, heading, uid in packed["sections"]
            ),
            blocks=tuple(
                Block(_line(first), _line(last), Form(form), tuple(map(_line, cuts)))
                for first, last, form, cuts in packed["blocks"]
            ),
            links=tuple(
                Link(_line(line), _text(target), _text_or_none(heading), _text_or_none(label), embed is True)
                for line, target, heading, label, embed in packed["links"]
            ),
            title=_text_or_none(packed["title"]),
            encoding=_text(packed["encoding"]),
            repairs=tuple(
                Repair(_line(line), _text(codec), _text(before), _text(after))
                for line, codec, before, after in packed["repairs"]
            ),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"is no document ({type(error).__name__})") from error
    _hold(rendered)
    return rendered


def _hold(rendered: Rendered) -> None:
    """Raise ValueError where the parts contradict each other."""
    following = 1
    for section in rendered.sections:
        if section.first_line != following or section.last_line < following:
            raise ValueError(f"the section at line {section.first_line} does not follow the one before it")
        following = section.last_line + 1
    if following != len(rendered.lines) + 1:
        raise ValueError(f"the sections end before line {following} of {len(rendered.lines)}")
    last = 0
    for block in rendered.blocks:
        cuts = (block.first_line, *block.cuts, block.last_line + 1)
        if block.first_line <= last or any(one >= two for one, two in itertools.pairwise(cuts)):
            raise ValueError(f"the block at line {block.first_line} does not follow the one before it")
        last = block.last_line
    places = (*(link.line for link in rendered.links), *(repair.line for repair in rendered.repairs), last)
    if max(places) > len(rendered.lines):
        raise ValueError(f"line {max(places)} is past the last, {len(rendered.lines)}")


def _line(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a line is no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\n" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("a text is none, or of several lines")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)
