"""Which passages a search may find: below a folder, with a tag, in a language, of a time, of a kind, said by someone.

Every condition holds for both legs of a search before anything is ranked, so that a narrow filter still finds its ten.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from quietmind.notes.document import Kind

Given = tuple[str | bytes | int, ...]

_PASSAGES = "SELECT passages.id FROM passages JOIN documents ON documents.id = passages.document WHERE "
_COUNT = "SELECT count(*) FROM "


@dataclass(frozen=True)
class Filter:
    """What a passage must be for a search to find it; without any condition, every passage is found.

    One of ``folders`` (or notes) must hold its note, and its note be of one of ``kinds``; one of ``speakers`` said it.
    """

    folders: tuple[Path, ...] = ()
    kinds: tuple[Kind, ...] = ()
    speakers: tuple[str, ...] = ()


def chosen(within: Filter | None) -> tuple[str, Given]:
    """Return the SELECT of the passages that ``within`` leaves, and its parameters; "" for all passages."""
    conditions = list(_conditions(within)) if within is not None else []
    if not conditions:
        return "", ()
    return _PASSAGES + " AND ".join(f"({sql})" for sql, _ in conditions), tuple(
        value for _, given in conditions for value in given
    )


def passages_within(connection: sqlite3.Connection, within: Filter | None) -> list[int] | None:
    """Return the numbers of the passages that ``within`` leaves, in order; None where that is all."""
    query, given = chosen(within)
    return [passage for (passage,) in connection.execute(f"{query} ORDER BY 1", given)] if query else None


def count_within(connection: sqlite3.Connection, within: Filter | None) -> int:
    """Return how many passages ``within`` leaves."""
    query, given = chosen(within)
    counted = f"({query})" if query else "passages"
    (count,) = connection.execute(_COUNT + counted, given).fetchone()
    return int(count)


def _conditions(within: Filter) -> list[tuple[str, Given]]:
    conditions: list[tuple[str, Given]] = []
    if within.folders:
        conditions.append(_any_of([_below(folder) for folder in within.folders]))
    if within.kinds:
        conditions.append(_any_of([("documents.kind = ?", (kind.value,)) for kind in within.kinds]))
    if within.speakers:
        conditions.append(_any_of([("passages.speaker = ?", (speaker,)) for speaker in within.speakers]))
    return conditions


def _any_of(conditions: list[tuple[str, Given]]) -> tuple[str, Given]:
    return " OR ".join(sql for sql, _ in conditions), tuple(value for _, given in conditions for value in given)


def _below(folder: Path) -> tuple[str, Given]:
    whole = os.fsencode(folder)
    inside = whole.rstrip(b"/") + b"/"
    return "documents.path = ? OR (documents.path >= ? AND documents.path < ?)", (whole, inside, inside[:-1] + b"0")
