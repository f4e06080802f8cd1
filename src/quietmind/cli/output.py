"""How commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from quietmind.base.errors import WorkspaceError
from quietmind.base.files import write_whole
from quietmind.base.paths import shown_path

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def print_json(document: Any) -> None:
    """Print ``document`` as indented JSON, Cyrillic as letters. File names that are not UTF-8 come out as escapes."""
    click.echo(_json_bytes(document), nl=False)


def write_json(file: Path, document: Any) -> None:
    """Write ``document`` to ``file`` as indented JSON: the whole of it, or nothing. Raises WorkspaceError."""
    try:
        write_whole(file, _json_bytes(document))
    except OSError as error:
        raise WorkspaceError(f"{shown_path(file)}: cannot be written: {error.strerror}; choose another file") from error


def _json_bytes(document: Any) -> bytes:
    # A lone surrogate (a byte of a file name) becomes \udcNN, which is also how JSON spells it.
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")


def flat(text: str) -> str:
    """Return ``text`` on one line."""
    return " ".join(text.split())


def visible(text: str) -> str:
    """Return ``text`` with its control characters escaped, but for tabs and line ends: notes and models write anything,
    and a terminal obeys.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def counted(number: int, noun: str) -> str:
    """Return ``1 note``, ``2 notes``, ``1,000 passages``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def tell_place(place: int) -> None:
    """Say how many requests a model answers before ours."""
    click.echo(f"waiting for the model: {counted(place, 'request')} before this one", err=True)


def warn(warning: str) -> None:
    """Say ``warning`` on standard error."""
    click.echo(f"warning: {warning}", err=True)
