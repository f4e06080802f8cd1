"""The notebooks of a workspace, kept in its database: what they are made of, and what was read of them."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from quietmind.base.errors import UsageError, WorkspaceError
from quietmind.base.sqlite import transaction, translated
from quietmind.notes.document import Passage
from quietmind.notes.search import search
from quietmind.notes.selecting import notes_below, notes_named, notes_tagged, passages_of
from quietmind.workspace.notebook import Member, Notebook, Reading, Source, Version, arranged

# Of what a query finds, so many passages make a notebook at most.
LARGEST_QUERY = 500

_NAME = re.compile(r"\w[\w .+-]{0,79}")
_NOTEBOOKS = "SELECT id, name, source_kind, source_value, made FROM notebooks"
_LISTED = 20  # names in an error message


class Notebooks:
    """The notebooks in an open database whose schema is up to date."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def all(self) -> list[Notebook]:
        """Return every notebook, in the order of their names."""
        with translated(self._path):
            members, readings = self._members(), self._readings()
            rows = self._connection.execute(f"{_NOTEBOOKS} ORDER BY name").fetchall()
            return [
                Notebook(name, Source(kind, value), members.get(key, ()), made, readings.get(key))
                for key, name, kind, value, made in rows
            ]

    def named(self, name: str) -> Notebook:
        """Return the notebook of this name. Raises UsageError with the names that there are."""
        with translated(self._path):
            row = self._connection.execute(f"{_NOTEBOOKS} WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise UsageError(f"there is no notebook {name!r}; {self._names()}")
            key, name, kind, value, made = row
            return Notebook(
                name, Source(kind, value), self._members(key).get(key, ()), made, self._readings(key).get(key)
            )

    def _names(self) -> str:
        """Say which notebooks there are."""
        names = [name for (name,) in self._connection.execute("SELECT name FROM notebooks ORDER BY name")]
        if not names:
            return "there are none yet; make one with `quietmind notebook make`"
        more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
        return f"there are: {', '.join(names[:_LISTED])}{more}"

    def make(self, name: str, source: Source, members: Sequence[Member] = ()) -> Notebook:
        """Make a notebook, in the first order of its notes. ``members`` are those of a division.

        Raises UsageError for a name that is taken or no name, and where the source holds no notes.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a notebook; use up to 80 letters, digits, spaces and . + - _")
        with translated(self._path), transaction(self._connection):
            now = self._current(source, members)
            if not now:
                raise UsageError(_nothing_in(source))
            if self._connection.execute("SELECT 1 FROM notebooks WHERE name = ?", (name,)).fetchone():
                raise UsageError(f"there is a notebook {name!r} already; drop it first, or choose another name")
            self._write_members(self._insert(name, source), arranged((), now), now)
        return self.named(name)

    def divide(self, scope: str, parts: Mapping[str, Sequence[Member]]) -> None:
        """Have ``parts`` be the automatic notebooks of ``scope``, and no others.

        Those that were there before keep what was read of them, and the order of what did not change.
        """
        source = Source("auto", scope)
        with translated(self._path), transaction(self._connection):
            before = [notebook.name for notebook in self.all() if notebook.source == source]
            for name in before:
                if name not in parts:
                    self._connection.execute("DELETE FROM notebooks WHERE name = ?", (name,))
            for name, members in parts.items():
                key = self._key(name) if name in before else self._insert(name, source)
                now = self._current(source, members)
                self._write_members(key, arranged(self._as_written(key), now), now)

    def drop(self, name: str) -> None:
        """Forget a notebook. What was stored of it is for the caller to remove. Raises UsageError."""
        self.named(name)
        with translated(self._path), transaction(self._connection):
            self._connection.execute("DELETE FROM notebooks WHERE name = ?", (name,))

    def refresh(self, name: str) -> Notebook:
        """Bring a notebook's members into step with the index, in the order that makes reading it again cheapest."""
        notebook = self.named(name)
        with translated(self._path):
            if self._in_step(notebook):
                return notebook
            with transaction(self._connection):
                key = self._key(name)
                before = self._as_written(key)
                now = self._current(notebook.source, [member for member, _ in before])
                self._write_members(key, arranged(before, now), now)
        return self.named(name)

    def _in_step(self, notebook: Notebook) -> bool:
        """Say whether nothing is to be written: of thousands of notebooks few change, and each write is synced."""
        before = self._as_written(self._key(notebook.name))
        now = self._current(notebook.source, [member for member, _ in before])
        return before == [(member, now[member].sha256) for member in arranged(before, now)]

    def passages(self, notebook: Notebook) -> list[Passage]:
        """Return the passages of a notebook, in the order in which they are read."""
        with translated(self._path):
            return [
                passage
                for member in notebook.members
                for passage in passages_of(self._connection, member.path, member.first_line, member.last_line)
            ]

    def note_reading(self, name: str, reading: Reading) -> None:
        """Keep what was read of a notebook, in the place of what was read before."""
        with translated(self._path), transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO notebook_readings VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self._key(name),
                    reading.fingerprint,
                    reading.content,
                    reading.tokens,
                    reading.seconds,
                    reading.when,
                ),
            )

    def forget_reading(self, name: str) -> None:
        """Say that nothing of a notebook is stored any more."""
        with translated(self._path), transaction(self._connection):
            self._connection.execute("DELETE FROM notebook_readings WHERE notebook = ?", (self._key(name),))

    def note_tokens(self, name: str, tokenizer: str, tokens: Mapping[str, Sequence[int]]) -> None:
        """Keep the tokens of a notebook's texts, in the place of those kept before."""
        with translated(self._path), transaction(self._connection):
            key = self._key(name)
            self._connection.execute("DELETE FROM notebook_tokens WHERE notebook = ?", (key,))
            self._connection.executemany(
                "INSERT OR IGNORE INTO notebook_tokens VALUES (?, ?, ?, ?)",
                [(key, tokenizer, text_digest(text), array("I", ids).tobytes()) for text, ids in tokens.items()],
            )

    def tokens(self, name: str, tokenizer: str) -> dict[str, tuple[int, ...]]:
        """Return the tokens that are kept of a notebook, by the digests of their texts."""
        with translated(self._path):
            rows = self._connection.execute(
                "SELECT text, tokens FROM notebook_tokens WHERE notebook = ? AND tokenizer = ?",
                (self._key(name), tokenizer),
            )
            return {digest: tuple(array("I", ids)) for digest, ids in rows}

    def texts_kept(self, name: str) -> set[str]:
        """Return the digests of the texts whose tokens are kept: of those that the last layout had room for."""
        with translated(self._path):
            rows = self._connection.execute("SELECT text FROM notebook_tokens WHERE notebook = ?", (self._key(name),))
            return {text for (text,) in rows}

    def _current(self, source: Source, members: Sequence[Member]) -> dict[Member, Version]:
        """Return what belongs to a notebook now, and the state of each."""
        if source.kind == "query":
            return self._of_query(source.value, members)
        if source.kind == "auto":
            return self._of_members(members)
        found = {
            "path": lambda: notes_below(self._connection, Path(source.value)),
            "tag": lambda: notes_tagged(self._connection, source.value),
        }[source.kind]()
        return {Member(note.path): Version(note.sha256, note.mtime_ns) for note in found}

    def _of_query(self, query: str, members: Sequence[Member]) -> dict[Member, Version]:
        """Return what a query found once, as far as it is still there, and what it finds now."""
        hits = [hit.passage for hit in search(self._connection, query, LARGEST_QUERY)]
        return self._of_members([*members, *(Member(each.path, each.first_line, each.last_line) for each in hits)])

    def _of_members(self, members: Sequence[Member]) -> dict[Member, Version]:
        """Return those of ``members`` that are still there; of a stretch of lines, its text says in what state."""
        notes = {note.path: note for note in notes_named(self._connection, [member.path for member in members])}
        current: dict[Member, Version] = {}
        for member in members:
            note = notes.get(member.path)
            if note is None:
                continue
            if member.first_line is None:
                current[member] = Version(note.sha256, note.mtime_ns)
                continue
            text = "\n".join(
                passage.text
                for passage in passages_of(self._connection, member.path, member.first_line, member.last_line)
            )
            if text:
                current[member] = Version(text_digest(text), note.mtime_ns)
        return current

    def _insert(self, name: str, source: Source) -> int:
        made = datetime.now(UTC).isoformat(timespec="seconds")
        key = self._connection.execute(
            "INSERT INTO notebooks (name, source_kind, source_value, made) VALUES (?, ?, ?, ?)",
            (name, source.kind, source.value, made),
        ).lastrowid
        assert key is not None
        return key

    def _as_written(self, key: int) -> list[tuple[Member, str]]:
        """Return the members of a notebook in their order, each with the state that it was in."""
        rows = self._connection.execute(
            "SELECT path, first_line, last_line, sha256 FROM notebook_members WHERE notebook = ? ORDER BY position",
            (key,),
        )
        return [(Member(Path(os.fsdecode(path)), first, last), sha256) for path, first, last, sha256 in rows]

    def _write_members(self, key: int, members: Sequence[Member], now: Mapping[Member, Version]) -> None:
        self._connection.execute("DELETE FROM notebook_members WHERE notebook = ?", (key,))
        self._connection.executemany(
            "INSERT INTO notebook_members VALUES (?, ?, ?, ?, ?, ?)",
            [
                (key, position, os.fsencode(member.path), member.first_line, member.last_line, now[member].sha256)
                for position, member in enumerate(members)
            ],
        )

    def _members(self, key: int | None = None) -> dict[int, tuple[Member, ...]]:
        """Return the members of a notebook, or of each one, in the order in which they are read."""
        rows = self._connection.execute(
            "SELECT notebook, path, first_line, last_line FROM notebook_members WHERE notebook BETWEEN ? AND ?"
            " ORDER BY notebook, position",
            _from_to(key),
        )
        members: dict[int, list[Member]] = {}
        for notebook, path, first, last in rows:
            members.setdefault(notebook, []).append(Member(Path(os.fsdecode(path)), first, last))
        return {notebook: tuple(of_notebook) for notebook, of_notebook in members.items()}

    def _readings(self, key: int | None = None) -> dict[int, Reading]:
        """Return what was read of a notebook, or of each one."""
        rows = self._connection.execute(
            "SELECT notebook, fingerprint, content, tokens, seconds, read_at FROM notebook_readings"
            " WHERE notebook BETWEEN ? AND ?",
            _from_to(key),
        )
        return {notebook: Reading(*reading) for notebook, *reading in rows}

    def _key(self, name: str) -> int:
        row = self._connection.execute("SELECT id FROM notebooks WHERE name = ?", (name,)).fetchone()
        if row is None:  # dropped by another process meanwhile
            raise WorkspaceError(f"the notebook {name!r} is gone; list them with `quietmind notebook list`")
        return int(row[0])


def _from_to(key: int | None) -> tuple[int, int]:
    """Return the first and last key of a notebook, or of all."""
    return (0, 1 << 62) if key is None else (key, key)


def text_digest(text: str) -> str:
    """Return the digest under which a text's tokens are kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _nothing_in(source: Source) -> str:
    """Say that a source holds nothing, and what to do."""
    return {
        "path": f"the path {source.value} holds no indexed notes; run `quietmind index` on them first",
        "query": f"the query {source.value!r} finds nothing in the indexed notes; try other words",
        "tag": f"no indexed note bears the tag #{source.value}; see how the notes write it",
        "auto": "the division holds no indexed notes; run `quietmind notebook auto` again",
    }[source.kind]
