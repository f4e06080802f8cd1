"""What a filter asks of passages (notes/filtering.py), in marks that an index elsewhere can hold and compare.

A mark is a hash: the server that holds them is not told the names of folders and people, and all are of one length. The
archive has the last word on what a filter leaves; marks only spare it the rest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import PurePosixPath

from quietmind.notes.filtering import Filter

_BYTES = 8  # of 100,000 different marks two are the same with a chance of 1 in 3,000,000,000


@dataclass(frozen=True)
class Traits:
    """What a passage is filtered by, as the archive has it: its note's path, kind and tags, and its own rest.

    ``day`` is the one that counts: when it was said, else what its note says, else of its file.
    """

    path: bytes
    kind: str
    tags: tuple[str, ...]
    languages: tuple[str, ...]
    speaker: str | None
    day: date


@dataclass(frozen=True)
class Asked:
    """What a filter asks for: of each list in ``marks`` at least one, and a day from ``first`` to ``last``."""

    marks: tuple[tuple[str, ...], ...] = ()
    first: int | None = None
    last: int | None = None


def marks_of(traits: Traits) -> list[str]:
    """Return the marks of a passage: of its folders, its note, its tags and what they are parts of, and the rest."""
    note = PurePosixPath(os.fsdecode(traits.path))
    marks = [_mark("folder", str(folder)) for folder in (note, *note.parents)]
    marks.append(_mark("kind", traits.kind))
    marks += dict.fromkeys(_mark("tag", whole) for tag in traits.tags for whole in _wholes(tag))
    marks += (_mark("language", language) for language in traits.languages)
    if traits.speaker is not None:
        marks.append(_mark("speaker", traits.speaker))
    return marks


def day_number(day: date) -> int:
    """Return the number of a day; the next day has the next number."""
    return day.toordinal()


def asked(within: Filter | None) -> Asked:
    """Return what ``within`` asks for."""
    if within is None:
        return Asked()
    groups = (
        _marks("folder", map(str, within.folders)),
        *(_marks("tag", [tag]) for tag in within.tags),
        _marks("language", within.languages),
        _marks("kind", within.kinds),
        _marks("speaker", within.speakers),
    )
    return Asked(
        tuple(group for group in groups if group),
        day_number(within.since) if within.since else None,
        day_number(within.until) if within.until else None,
    )


def _wholes(tag: str) -> Iterator[str]:
    """Yield a tag of parts and all that it is one of: a, a/b and a/b/c of a/b/c."""
    parts = tag.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _marks(what: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(_mark(what, str(value)) for value in values)


@lru_cache(maxsize=10_000)
def _mark(what: str, value: str) -> str:
    said = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=_BYTES, person=what.encode()).hexdigest()
