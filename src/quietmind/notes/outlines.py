"""What each note of the index is about, in outline: its size, the notes that it links to, and its telling words."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from quietmind.notes.selecting import notes_below

# Of a note's words, so many say what it is about: the rarest that another note holds too. A word that more than this
# share of the notes hold says nothing.
WORDS = 12
_COMMON = 0.1
_SHORTEST = 3

_WIKI = re.compile(r"\[\[([^\[\]|#^\n]{1,300})")
_MARKDOWN = re.compile(r"\]\(\s*<?([^()<>\s#?]{1,500})")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_CYRILLIC = re.compile(r"[\u0400-\u04ff]+")

_PASSAGES = (
    "SELECT path, first_line, last_line, text, documents.title, passages.heading, body FROM passages"
    " JOIN documents ON documents.id = document JOIN lemmas ON lemmas.rowid = passages.id"
    " ORDER BY path, first_line"
)


@dataclass(frozen=True)
class Size:
    """The size of a passage as a notebook shows it, in characters: Cyrillic ones, and all others."""

    first_line: int
    cyrillic: int
    other: int

    @classmethod
    def of(cls, first_line: int, text: str) -> Self:
        """Return the size of a passage that begins at ``first_line`` and reads ``text``, with what stands over it."""
        cyrillic = sum(len(run) for run in _CYRILLIC.findall(text))
        return cls(first_line, cyrillic, len(text) - cyrillic)


@dataclass(frozen=True)
class Outline:
    """A note in outline. ``links`` lead to other notes of the index, ``words`` are lemmas."""

    path: Path
    sizes: tuple[Size, ...]
    links: frozenset[Path]
    words: frozenset[str]


def outlines(connection: sqlite3.Connection, below: Path | None = None) -> list[Outline]:
    """Return the notes of the index, or those at or below a path, in the order of their paths.

    Links are resolved, and words weighed, among these.
    """
    chosen = None if below is None else {os.fsencode(note.path) for note in notes_below(connection, below)}
    sizes: dict[Path, tuple[Size, ...]] = {}
    targets: dict[Path, frozenset[str]] = {}
    words: dict[Path, frozenset[str]] = {}
    for encoded, rows in groupby(connection.execute(_PASSAGES), key=lambda row: row[0]):
        if chosen is not None and encoded not in chosen:
            continue
        path, passages = Path(os.fsdecode(encoded)), list(rows)
        sizes[path] = tuple(
            Size.of(first, f"{title}{''.join(json.loads(heading))}{text}")
            for _, first, _, text, title, heading, _ in passages
        )
        targets[path] = frozenset(target for row in passages for target in link_targets(row[3]))
        words[path] = frozenset(
            word for row in passages for word in row[6].split() if len(word) >= _SHORTEST and not word.isdecimal()
        )
    names = Names(sizes)
    telling = _telling(words)
    return [
        Outline(
            path,
            sizes[path],
            frozenset(found for target in targets[path] if (found := names.resolved(path, target)) and found != path),
            telling[path],
        )
        for path in sizes
    ]


def link_targets(text: str) -> Iterator[str]:
    """Yield what ``[[wiki links]]`` and ``[Markdown links](to/files.md)`` in ``text`` name; web addresses are left."""
    for found in _WIKI.finditer(text):
        yield found[1].strip()
    for found in _MARKDOWN.finditer(text):
        if not _SCHEME.match(found[1]):
            yield unquote(found[1])


class Names:
    """Finds notes by what a link calls them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = {_folded(str(path)): path for path in paths}
        self._named: dict[str, list[Path]] = {}
        for path in self._paths.values():
            for name in {_folded(path.name), _folded(path.stem)}:
                self._named.setdefault(name, []).append(path)

    def resolved(self, origin: Path, target: str) -> Path | None:
        """Return the note that ``target`` means in ``origin``: by its path from there, else the nearest of its name."""
        if not target or "\0" in target:
            return None
        whole = _folded(os.path.normpath(origin.parent / target))
        if found := self._paths.get(whole) or self._paths.get(f"{whole}{_folded(origin.suffix)}"):
            return found
        named = self._named.get(_folded(Path(target).name), [])
        return max(named, key=lambda path: (_shared(path, origin), os.fsencode(path)), default=None)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _shared(one: Path, other: Path) -> int:
    """Return how many folders two paths share."""
    return len(Path(os.path.commonpath([one, other])).parts)


def _telling(words: Mapping[Path, frozenset[str]]) -> dict[Path, frozenset[str]]:
    notes = Counter(word for own in words.values() for word in own)
    most = max(2, int(_COMMON * len(words)))
    return {
        path: frozenset(sorted((w for w in own if 2 <= notes[w] <= most), key=lambda w: (notes[w], w))[:WORDS])
        for path, own in words.items()
    }
