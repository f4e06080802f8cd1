"""What a workspace holds and how current it is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quietmind.notes.census import Census, census
from quietmind.notes.index import Index
from quietmind.workspace.notebooks import Notebooks
from quietmind.workspace.schema import DATABASE
from quietmind.workspace.vector_sets import VectorSet, vector_sets


@dataclass(frozen=True)
class Status:
    """What is indexed of each root, how many notebooks were read, and the bytes on disk of each part of the folder.

    ``bytes`` has ``archive`` (the database with its journal) and one entry for each folder beside it. ``vectors`` are
    those that there are, the ones that serve first, and ``passages`` how many could have one.
    """

    folder: Path
    roots: tuple[Census, ...]
    notebooks_read: int
    notebooks_unread: int
    bytes: Mapping[str, int]
    vectors: tuple[VectorSet, ...] = ()
    passages: int = 0


def status_of(folder: Path, connection: sqlite3.Connection, embedder: str) -> Status:
    """Return what the workspace in ``folder`` holds; its roots are walked, nothing is written.

    ``embedder`` is the one that the person chose.
    """
    database = folder / DATABASE
    notebooks = Notebooks(connection, database).all()
    read = sum(notebook.reading is not None for notebook in notebooks)
    roots = Index(connection, database).roots()
    vectors, passages = vector_sets(folder, connection, embedder, roots)
    return Status(
        folder=folder,
        roots=tuple(census(connection, root) for root in roots),
        notebooks_read=read,
        notebooks_unread=len(notebooks) - read,
        bytes=_bytes(folder),
        vectors=vectors,
        passages=passages,
    )


def _bytes(folder: Path) -> dict[str, int]:
    """Return what lies in the workspace, as the disk counts it."""
    taken = {"archive": 0}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            inside = (Path(at) / name for at, _, names in os.walk(entry) for name in names)
            taken[entry.name] = sum(_size(file) for file in inside)
        elif entry.name.startswith(DATABASE):
            taken["archive"] += _size(entry)
    return taken


def _size(file: Path) -> int:
    try:
        return file.lstat().st_blocks * 512  # stat(2) counts in these, whatever the disk does
    except OSError:  # gone meanwhile
        return 0
