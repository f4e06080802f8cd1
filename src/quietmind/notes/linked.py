"""The rows of links and definitions: written with their document, read for those who ask where links lead."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quietmind.base.sqlite import translated
from quietmind.notes.links import Definition, Links, Reference, Via

_REFERENCES = "SELECT document, line, via, target, anchor FROM links"
_DEFINITIONS = "SELECT document, line, via, name, rank FROM definitions"
_NAMED = " WHERE name IN (SELECT value FROM json_each(?))"
_OF = " WHERE document = ?"
_ORDER = " ORDER BY document, number"


@dataclass(frozen=True)
class LinkRows:
    """The rows of a document's links and definitions, in the order of the columns, without the document's number."""

    links: list[tuple[int, int, str, str, str, str]]
    definitions: list[tuple[int, int, str, str, int]]


def link_rows(links: Links) -> LinkRows:
    """Return the rows of ``links``: plain values, which cost little to hand to another process."""
    return LinkRows(
        [
            (number, link.line, link.via.value, link.target, link.anchor, link.name)
            for number, link in enumerate(links.references)
        ],
        [
            (number, definition.line, definition.via.value, definition.name, definition.rank)
            for number, definition in enumerate(links.definitions)
        ],
    )


def write_links(connection: sqlite3.Connection, document: int | None, rows: LinkRows) -> None:
    """Write ``rows`` as those of ``document``, inside the caller's transaction."""
    connection.executemany("INSERT INTO links VALUES (?, ?, ?, ?, ?, ?, ?)", [(document, *row) for row in rows.links])
    connection.executemany(
        "INSERT INTO definitions VALUES (?, ?, ?, ?, ?, ?)", [(document, *row) for row in rows.definitions]
    )


class Rows:
    """What the index holds of links, by note. Everything raises ArchiveLocked, ArchiveDamaged or WorkspaceError."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._file = Path(connection.execute("PRAGMA database_list").fetchone()[2] or "archive")
        rows = list(self._select("SELECT id, path, title FROM documents ORDER BY path"))
        self.paths: dict[int, Path] = {id_: Path(os.fsdecode(path)) for id_, path, _ in rows}
        self.titles: dict[Path, str] = {self.paths[id_]: title for id_, _, title in rows}
        self._ids = {path: id_ for id_, path in self.paths.items()}

    def roots(self) -> list[Path]:
        """Return the folders that are indexed."""
        return [Path(os.fsdecode(path)) for (path,) in self._select("SELECT path FROM roots ORDER BY path")]

    def unread(self) -> int:
        """Return how many notes were indexed by a version that did not look for links."""
        (count,) = next(self._select("SELECT count(*) FROM documents WHERE made_by NOT LIKE '%, links %'"))
        return int(count)

    def of(self, path: Path) -> list[tuple[Path, Reference]]:
        """Return the references in the note at ``path``, by their lines."""
        return list(self._references(_OF, self._ids.get(path)))

    def naming(self, names: Collection[str]) -> list[tuple[Path, Reference]]:
        """Return the references to one of ``names`` (:attr:`Reference.name`)."""
        return list(self._references(_NAMED, json.dumps(sorted(names))))

    def between_notes(self) -> Iterator[tuple[Path, Reference]]:
        """Yield all links, and the ids and identifiers that are written somewhere. Those without a definition: ids."""
        yield from self._references(" WHERE via != 'code' OR name IN (SELECT name FROM definitions WHERE via = 'code')")

    def defined_in(self, path: Path) -> list[Definition]:
        """Return the definitions in the note at ``path``, by their lines."""
        return [definition for _, definition in self._defined(_OF, self._ids.get(path))]

    def defining(self, names: Collection[str] | None = None) -> list[tuple[Path, Definition]]:
        """Return the definitions of ``names``, or all."""
        return list(self._defined("") if names is None else self._defined(_NAMED, json.dumps(sorted(names))))

    def text(self, path: Path) -> Iterator[tuple[int, str]]:
        """Yield the lines of the note at ``path`` that are not blank, each with its number."""
        rows = self._select(
            "SELECT first_line, text FROM passages WHERE document = ? ORDER BY first_line", self._ids.get(path)
        )
        for first, text in rows:
            yield from enumerate(text.split("\n"), first)

    def _references(self, which: str, *given: object) -> Iterator[tuple[Path, Reference]]:
        for document, line, via, target, anchor in self._select(_REFERENCES + which + _ORDER, *given):
            yield self.paths[document], Reference(line, Via(via), target, anchor)

    def _defined(self, which: str, *given: object) -> Iterator[tuple[Path, Definition]]:
        for document, line, via, name, rank in self._select(_DEFINITIONS + which + _ORDER, *given):
            yield self.paths[document], Definition(line, Via(via), name, rank)

    def _select(self, query: str, *given: object) -> Iterator[tuple[Any, ...]]:
        with translated(self._file):
            yield from self._connection.execute(query, given)
