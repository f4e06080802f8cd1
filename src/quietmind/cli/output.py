"""How commands print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from quietmind.base.errors import UsageError
from quietmind.base.files import write_whole
from quietmind.base.paths import shown_path


def print_json(document: Any) -> None:
    """Print ``document`` as indented JSON, Cyrillic as letters. File names that are not UTF-8 come out as escapes."""
    click.echo(_json_bytes(document), nl=False)


def write_json(file: Path, document: Any) -> None:
    """Write ``document`` to ``file`` as indented JSON: the whole of it, or nothing. Raises UsageError."""
    try:
        write_whole(file, _json_bytes(document))
    except OSError as error:
        raise UsageError(f"{shown_path(file)}: cannot be written: {error.strerror}; choose another file") from error


def _json_bytes(document: Any) -> bytes:
    # A lone surrogate (a byte of a file name) becomes \udcNN, which is also how JSON spells it.
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")


def counted(number: int, noun: str) -> str:
    """Return ``1 note``, ``2 notes``, ``1,000 passages``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
