"""Opens a note of the archive as its file is now, for whoever shows it; nothing else on the disk can be named."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.notes.document import Document
from quietmind.notes.linking import Linking
from quietmind.notes.reading import parse, read_bytes
from quietmind.notes.selecting import notes_named


def open_note(connection: sqlite3.Connection, roots: Sequence[Path], given: str) -> Document:
    """Return the note that ``given`` names, read now: by its path, whole or from one of ``roots``, or as a link does.

    Only what the index holds can be named, and only while its file, with all links followed, lies below one of
    ``roots``. Raises NotesError.
    """
    path = named_note(connection, roots, given)
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in roots):
        raise NotesError(
            f"{shown_path(path)}: leads outside of the indexed folders and is not opened; index the folder it leads to"
        )
    data, _ = read_bytes(real)  # by the name that was looked at: a link that changes meanwhile changes nothing
    return replace(parse(path, data), path=path)


def named_note(connection: sqlite3.Connection, roots: Sequence[Path], given: str) -> Path:
    """Return the path under which the index has the note that ``given`` names. Raises NotesError."""
    if "\0" in given or not given.strip():
        raise NotesError(f"{given!r}: is not the name of a note; give a path that search has shown")
    written = Path(given)
    wanted = [written] if written.is_absolute() else [root / written for root in roots]
    if found := notes_named(connection, wanted):
        return found[0].path
    return Linking(connection).note(given)
