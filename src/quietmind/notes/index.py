"""Keeping the archive's index in step with the files.

Files are read outside of any transaction and written in batches, each in one. Whatever happens to the process, the
database holds whole documents only, and the next update does what is missing.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.base.progress import SILENT, Progress
from quietmind.base.sqlite import transaction, translated
from quietmind.notes.document import Passage
from quietmind.notes.facets import write_facets
from quietmind.notes.formats import ending_of
from quietmind.notes.intake import Refused, Same, Taken, Wanted, made_by
from quietmind.notes.linked import write_links
from quietmind.notes.readers import read_all, readers_for
from quietmind.notes.reading import FileState
from quietmind.notes.refusals import Refusals, forget, remember
from quietmind.notes.report import Forgotten, OtherEncoding, RepairedFile, Report
from quietmind.notes.scan import Found, Scan, Skipped, look, passed_over, scan
from quietmind.notes.unread import without_unread

BATCH_SECONDS = 0.7  # of reading per transaction: what a kill costs, against what a commit costs
_REMOVED_AT_ONCE = 500
_REFRESHED_AT_MOST = 1000  # paths: a walk of everything costs less than looking for more of them one by one


class _Known(NamedTuple):
    """What the database says of a document. ``current``: it was made by these versions of reader, cutter, ..."""

    id: int
    state: FileState
    settled: bool
    current: bool


@dataclass
class _Tally:
    """The report in the making."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    passages: int = 0
    repaired: list[RepairedFile] = field(default_factory=list)
    other_encodings: list[OtherEncoding] = field(default_factory=list)

    def count(self, taken: Taken, *, known: bool) -> None:
        """Count a file that was read and written."""
        document = taken.document
        self.passages += len(taken.passages)
        self.added += not known
        self.changed += known
        if document.repairs:
            self.repaired.append(RepairedFile(document.path, len(document.repairs), document.repairs[0].codec))
        if document.encoding != "utf-8":
            self.other_encodings.append(OtherEncoding(document.path, document.encoding))


_Written = tuple[Found, Taken | Same | Refused]


class Index:
    """The index in an open database whose schema is up to date (``connect(path, MIGRATIONS)``)."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, batch_seconds: float = BATCH_SECONDS) -> None:
        self._connection = connection
        self._path = path
        self._batch_seconds = batch_seconds

    def roots(self) -> list[Path]:
        """Return the folders of notes that have been indexed, in the order of their names."""
        with translated(self._path):
            return [
                Path(os.fsdecode(path)) for (path,) in self._connection.execute("SELECT path FROM roots ORDER BY path")
            ]

    def update(self, root: Path, progress: Progress = SILENT) -> Report:
        """Bring the index of the notes below ``root`` up to date; other roots stay as they are.

        Reads only files that are new or may have changed. Raises NotesError when ``root`` cannot be listed or holds no
        notes, or none of those it held (nothing is removed then), ArchiveLocked, DiskFull; what was done until then
        stays.
        """
        began = time.monotonic()
        with self._or_forget(root):
            seen = scan(root)
        with translated(self._path):
            known = self._known(*_below(seen.root))
            if not seen.found and all(skip.transient for skip in seen.skipped):
                self._refuse_to_empty(seen, known)
            self._register(seen.root)
            report = self._follow(seen, known, progress, began)
            self._note_update(seen)
            gone = self._refusals(seen.root).beyond(found.path for found in seen.found)
            self._forget_refusals(gone)
        return report

    def refresh(self, root: Path, paths: Collection[str], progress: Progress = SILENT) -> Report:
        """Do what :meth:`update` does, for ``paths`` and all below them only: something told that they changed.

        ``paths`` are absolute, inside ``root`` with all links resolved; files, folders or not there any more. The
        counts of the report are of these alone. Where only a walk of all below ``root`` can tell (links, another root
        inside, thousands of paths, the last notes gone) that is done. Raises as :meth:`update`.
        """
        began = time.monotonic()
        with self._or_forget(root):
            seen = look(root, paths) if len(paths) <= _REFRESHED_AT_MOST else None
        if seen is not None:
            with translated(self._path):
                known: dict[str, _Known] = {}
                for path in paths:
                    known |= self._known(os.fsencode(path), os.fsencode(path) + b"\0") | self._known(*_below(path))
                if seen.root in self.roots() and not self._only_all_tells(seen, known):
                    return self._follow(seen, known, progress, began)
        return self.update(root, progress)

    def _follow(self, seen: Scan, known: Mapping[str, _Known], progress: Progress, began: float) -> Report:
        """Have the index hold what was ``seen``, and of what was ``known`` only that."""
        tally = _Tally()
        stale = [found for found in seen.found if not _is_current(known.get(found.path), found.state)]
        tally.unchanged = len(seen.found) - len(stale)
        stale, unread = without_unread(seen.root, stale)
        stale, refused = self._refusals(seen.root).standing(stale)
        skipped = [*seen.skipped, *self._unmounted(seen), *unread, *refused]
        for batch in self._batches(stale, known, skipped, progress):
            self._write(batch)
            for found, item in batch:
                if isinstance(item, Taken):
                    tally.count(item, known=found.path in known)
                elif isinstance(item, Same):
                    tally.unchanged += 1
                else:
                    skipped.append(Skipped(Path(found.path), item.reason))
        gone = self._gone(seen, skipped, known)
        self._remove(gone)
        return Report(
            root=seen.root,
            added=tally.added,
            changed=tally.changed,
            removed=len(gone),
            unchanged=tally.unchanged,
            passages=tally.passages,
            repaired=tuple(tally.repaired),
            other_encodings=tuple(tally.other_encodings),
            skipped=tuple(skipped),
            seconds=time.monotonic() - began,
        )

    def forget(self, root: Path) -> Forgotten:
        """Take the notes below ``root`` out of the index, but those that the walk of another root reaches as well.

        The folder need not exist any more. A folder inside a root whose disk is not mounted any more is forgotten too.
        Raises NotesError when it is neither, ArchiveLocked, DiskFull.
        """
        root = _real(root)
        others = self.roots()
        unmounted = root not in others and str(root) in self._mounts() and not os.path.ismount(root)
        if root not in others and not unmounted:
            indexed = ", ".join(map(shown_path, others)) or "none"
            raise NotesError(f"{shown_path(root)}: is not among the indexed folders; these are: {indexed}")
        others = [] if unmounted else [other for other in others if other != root]
        with translated(self._path):
            known = self._known(*_below(root))
            gone = [known[path].id for path in sorted(known) if not any(_reaches(other, path) for other in others)]
            self._remove(gone)
            self._forget_refusals(self._refusals(root).beyond(()))
            with transaction(self._connection):  # last: killed before, the same command does the rest
                self._connection.execute("DELETE FROM roots WHERE path = ?", (os.fsencode(root),))
                self._connection.execute("DELETE FROM updates WHERE root = ?", (os.fsencode(root),))
                self._connection.execute("DELETE FROM mounts WHERE path = ?", (os.fsencode(root),))
        return Forgotten(root, len(gone), len(known) - len(gone))

    def _register(self, root: Path) -> None:
        if root not in self.roots():
            with transaction(self._connection):
                self._connection.execute("INSERT OR IGNORE INTO roots VALUES (?)", (os.fsencode(root),))

    @contextmanager
    def _or_forget(self, root: Path) -> Iterator[None]:
        """Have what refuses an indexed root, which may only be away, say how to be rid of its notes."""
        try:
            yield
        except NotesError as error:
            if _real(root) in self.roots():
                raise NotesError(f"{error}, or drop its notes: quietmind index {shown_path(root)} --forget") from error
            raise

    def _refuse_to_empty(self, seen: Scan, known: Mapping[str, _Known]) -> None:
        """Raise NotesError where all notes of a root are gone: its disk may be, or whoever brings them."""
        if gone := self._gone(seen, seen.skipped, known):
            with self._or_forget(seen.root):
                raise NotesError(
                    f"{shown_path(seen.root)}: none of its {len(gone):,} indexed notes is there; bring them back"
                )

    def _only_all_tells(self, seen: Scan, known: Mapping[str, _Known]) -> bool:
        """Say whether more than the part that was ``seen``, where ``known`` notes were, has to be looked at."""
        gone = known.keys() - {found.path for found in seen.found}
        if gone:
            below = _below(seen.root)
            (left,) = self._connection.execute(
                "SELECT count(*) FROM documents WHERE path >= ? AND path < ?", below
            ).fetchone()
            if left == len(gone):
                return True
            inner = tuple(_inside(root) for root in self.roots() if str(root).startswith(_inside(seen.root)))
            if any(path.startswith(inner) for path in gone):
                return True
        # A link was indexed in the place of a file that lay elsewhere until now.
        inodes = json.dumps([found.state.inode for found in seen.found if found.path not in known])
        same = self._connection.execute(
            "SELECT path FROM documents WHERE inode IN (SELECT value FROM json_each(?))", (inodes,)
        )
        return any(os.fsdecode(path) not in known for (path,) in same)

    def _mounts(self) -> list[str]:
        with translated(self._path):
            return [os.fsdecode(path) for (path,) in self._connection.execute("SELECT path FROM mounts ORDER BY path")]

    def _unmounted(self, seen: Scan) -> list[Skipped]:
        """Return the folders, the root or inside it, on which a disk was mounted that is not there now."""
        inside = _inside(seen.root)
        return [
            Skipped(
                Path(path),
                "the disk that was mounted here is not there; its notes stay in the index, or drop them: "
                f"quietmind index {shown_path(path)} --forget",
                transient=True,
            )
            for path in self._mounts()
            if (path.startswith(inside) or path == str(seen.root)) and not os.path.ismount(path)
        ]

    def _note_update(self, seen: Scan) -> None:
        with transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO updates VALUES (?, ?)", (os.fsencode(seen.root), time.time())
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO mounts VALUES (?)",
                [(os.fsencode(path),) for path in (*seen.mounts, str(seen.root)) if os.path.ismount(path)],
            )

    def _known(self, first: bytes, end: bytes) -> dict[str, _Known]:
        """Return what the database holds of the paths from ``first`` up to but not ``end``, by path."""
        rows = self._connection.execute(
            "SELECT path, id, size, mtime_ns, ctime_ns, inode, settled, made_by FROM documents"
            " WHERE path >= ? AND path < ?",
            (first, end),
        )
        by = cache(made_by)
        return {
            path: _Known(id_, FileState(size, mtime, ctime, inode), bool(settled), maker == by(ending_of(path)))
            for path, id_, size, mtime, ctime, inode, settled, maker in (
                (os.fsdecode(row[0]), *row[1:]) for row in rows
            )
        }

    def _refusals(self, root: Path) -> Refusals:
        return Refusals(self._connection, *_below(root))

    def _forget_refusals(self, paths: Sequence[str]) -> None:
        if paths:
            with transaction(self._connection):
                forget(self._connection, paths)

    def _batches(
        self, stale: Sequence[Found], known: Mapping[str, _Known], skipped: list[Skipped], progress: Progress
    ) -> Iterator[list[_Written]]:
        """Yield what reading ``stale`` gives, as much at a time as takes ``batch_seconds``; add to ``skipped``."""
        progress.begin("Reading notes", len(stale))
        hashes = self._hashes([known[found.path].id for found in stale if _is_made_so(known.get(found.path))])
        wanted = [
            (Wanted(found.path, hashes.get(known[found.path].id) if found.path in known else None), found.state.size)
            for found in stale
        ]
        size = sum(found.state.size for found in stale)
        batch: list[_Written] = []
        began = time.monotonic()
        with closing(read_all(wanted, readers_for(len(wanted), size))) as items:
            for found, item in zip(stale, items, strict=True):
                if isinstance(item, Skipped):
                    skipped.append(item)
                else:
                    batch.append((found, item))
                progress.advance()
                if batch and time.monotonic() - began >= self._batch_seconds:
                    yield batch
                    batch = []
                    began = time.monotonic()
        if batch:
            yield batch

    def _hashes(self, documents: Sequence[int]) -> dict[int, str]:
        """Return the hashes of the bytes that ``documents`` were made of."""
        return dict(
            self._connection.execute(
                "SELECT id, sha256 FROM documents WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(documents),),
            )
        )

    def _write(self, batch: Iterable[_Written]) -> None:
        with transaction(self._connection):
            for found, item in batch:
                if isinstance(item, Taken):
                    self._replace(item)
                elif isinstance(item, Refused):
                    remember(self._connection, item)
                else:
                    self._connection.execute(
                        "UPDATE documents SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, settled = ?"
                        " WHERE path = ? AND sha256 = ?",
                        (*_columns(item.state), item.settled, os.fsencode(found.path), item.sha256),
                    )

    def _replace(self, taken: Taken) -> None:
        document = taken.document
        path = os.fsencode(document.path)
        # By path and not by what was known: another process may have written the same file meanwhile.
        for (id_,) in self._connection.execute("SELECT id FROM documents WHERE path = ?", (path,)).fetchall():
            self._delete(id_)
        forget(self._connection, [os.fsdecode(path)])
        about = (path, document.kind, document.title, document.encoding, taken.lines, len(document.repairs))
        inserted = self._connection.execute(
            "INSERT INTO documents (path, kind, title, encoding, lines, repaired_lines,"
            " size, mtime_ns, ctime_ns, inode, settled, sha256, made_by) VALUES (?, ?, ?, ?, ?, ?,"
            " ?, ?, ?, ?, ?, ?, ?)",
            (
                *about,
                *_columns(taken.state),
                taken.settled,
                document.sha256,
                made_by(ending_of(taken.document.path.name)),
            ),
        ).lastrowid
        first = self._connection.execute("SELECT coalesce(max(id), 0) + 1 FROM passages").fetchone()[0]
        self._connection.executemany(
            "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((id_, inserted, *_passage_columns(passage)) for id_, passage in enumerate(taken.passages, first)),
        )
        self._connection.executemany(
            "INSERT INTO lemmas (rowid, title, heading, body) VALUES (?, ?, ?, ?)",
            ((id_, *row) for id_, row in enumerate(taken.lemmas, first)),
        )
        write_links(self._connection, inserted, taken.links)
        write_facets(self._connection, inserted, taken.facets, enumerate(taken.passages, first))

    def _delete(self, document: int) -> None:
        self._connection.execute(
            "DELETE FROM lemmas WHERE rowid IN (SELECT id FROM passages WHERE document = ?)", (document,)
        )
        self._connection.execute("DELETE FROM documents WHERE id = ?", (document,))

    def _gone(self, seen: Scan, skipped: Sequence[Skipped], known: Mapping[str, _Known]) -> list[int]:
        """Return the documents to remove: no file any more, or a file that has become none of ours.

        What could only not be looked at now stays. So does what lies below another root inside this one that the walk
        did not reach (a hidden folder, a disk that is not there): that root's own update decides.
        """
        refused = {str(skip.path) for skip in skipped if not skip.transient}
        present = {found.path for found in seen.found} - refused
        gone = sorted(known.keys() - present)
        if not gone:
            return []
        spared = {str(skip.path) for skip in skipped if skip.transient}
        for root in self.roots():
            if root != seen.root and not any(path.startswith(_inside(root)) for path in present):
                spared.add(str(root))
        return [known[path].id for path in gone if not _at_or_in(path, spared)]

    def _remove(self, documents: Sequence[int]) -> None:
        for start in range(0, len(documents), _REMOVED_AT_ONCE):
            with transaction(self._connection):
                for document in documents[start : start + _REMOVED_AT_ONCE]:
                    self._delete(document)


def _real(root: Path) -> Path:
    """Return ``root`` as the database names it, whether it is there or not. Raises NotesError when it is no path."""
    try:
        return Path(os.path.realpath(root))
    except (OSError, ValueError) as error:  # the current folder is gone, or a NUL in the name
        raise NotesError(f"{shown_path(root)}: is not a folder name ({error}); write the path in full") from error


def _reaches(root: Path, path: str) -> bool:
    """Say whether the walk of ``root`` comes by ``path``: below it and in no folder that it passes over."""
    inside = _inside(root)
    if not path.startswith(inside):
        return False
    *folders, _ = Path(path[len(inside) :]).parts
    return not any(map(passed_over, folders))


def _at_or_in(path: str, places: Collection[str]) -> bool:
    """Say whether ``path`` is one of ``places`` or lies in one; there may be as many as files."""
    while path not in places:
        around = os.path.dirname(path)  # noqa: PTH120 - strings, as everywhere where there may be so many
        if around == path:
            return False
        path = around
    return True


def _is_made_so(known: _Known | None) -> bool:
    return known is not None and known.current


def _is_current(known: _Known | None, state: FileState) -> bool:
    return known is not None and known.current and known.settled and known.state == state


def _columns(state: FileState) -> tuple[int, int, int, int]:
    return state.size, state.mtime_ns, state.ctime_ns, state.inode


def _passage_columns(passage: Passage) -> tuple[int, int, str, str | None, str | None, str]:
    heading = json.dumps(passage.heading, ensure_ascii=False)
    return passage.first_line, passage.last_line, heading, passage.speaker, passage.when, passage.text


def _below(folder: Path | str) -> tuple[bytes, bytes]:
    """Return between which paths, as the database orders them, lies all that is inside ``folder``."""
    prefix = os.fsencode(_inside(folder))
    return prefix, prefix[:-1] + bytes([prefix[-1] + 1])


def _inside(folder: Path | str) -> str:
    """Return what the paths of all that lies inside ``folder`` begin with."""
    return os.path.join(folder, "")  # noqa: PTH118 - a Path has no trailing separator
