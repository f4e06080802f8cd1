"""What vectors a workspace holds: whose they are, which of them serve, how far those are that are being made.

Vectors of an embedder that was changed stay until a person has them removed: they took a night, and serve again at once
when that embedder is chosen again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from quietmind.base.errors import UsageError, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.notes.crossing import bytes_read
from quietmind.notes.embedding import embedded_text, text_key
from quietmind.notes.nearest import ENOUGH_BYTES
from quietmind.notes.vectors import LOCK
from quietmind.workspace.embedding import FOLDER, Searcher

_REMOVED = ".removed-"  # before the name of a folder that is on its way out
_AT_ONCE = 2_000  # passages


@dataclass(frozen=True)
class VectorSet:
    """The vectors of one embedder.

    ``embedded`` counts passages whose vector is of their text as it is now, ``below`` those of each root; ``complete``
    says whether all had one once, ``serves`` whether searches use it, ``wanted`` whether it is of the embedder that the
    person chose, ``growing`` whether a process is making more now, ``pace`` texts a second when that was done last.
    ``bytes`` are on the disk, ``read`` those that a search reads.
    """

    embedder: str
    folder: Path
    embedded: int
    complete: bool
    serves: bool
    wanted: bool
    growing: bool
    pace: float | None
    bytes: int
    read: int
    below: Mapping[Path, int] = field(default_factory=dict)

    @property
    def too_large(self) -> bool:
        """Whether a search reads more than exact search is enough for."""
        return self.read > ENOUGH_BYTES


def vector_sets(
    folder: Path, connection: sqlite3.Connection, wanted: str, roots: Sequence[Path]
) -> tuple[tuple[VectorSet, ...], int]:
    """Return what vectors the workspace ``folder`` holds, those that serve first, and how many passages there are.

    Writes nothing. Raises WorkspaceError.
    """
    searcher = Searcher(folder, wanted)
    there = searcher.all_vectors()
    serving = next((each.folder for each in there if each.completed or searcher.wants(each)), None)
    prefixes = {root: os.fsencode(os.path.join(root, "")) for root in roots}  # noqa: PTH118 - a Path has no such end
    counts: list[dict[Path | None, int]] = [{None: 0, **dict.fromkeys(roots, 0)} for _ in there]
    passages = 0
    try:
        for some in _passages(connection):
            passages += len(some)
            for vectors, count in zip(there, counts, strict=True):
                for passage in vectors.current({number: key for number, (_, key) in some.items()}):
                    count[None] += 1
                    for root, prefix in prefixes.items():
                        count[root] += some[passage][0].startswith(prefix)
        return tuple(
            VectorSet(
                embedder=vectors.identity.name,
                folder=vectors.folder,
                embedded=count.pop(None),
                complete=vectors.completed is not None,
                serves=vectors.folder == serving,
                wanted=searcher.wants(vectors),
                growing=vectors.being_written(),
                pace=vectors.pace,
                bytes=_bytes(vectors.folder),
                read=bytes_read(vectors),
                below={root: number for root, number in count.items() if root is not None},
            )
            for vectors, count in zip(there, counts, strict=True)
        ), passages
    finally:
        for vectors in there:
            vectors.close()


def old_sets(folder: Path, wanted: str) -> list[tuple[str, Path, int]]:
    """Return the vectors of other embedders than ``wanted``: whose they are, where, and their bytes on the disk.

    Raises UsageError while those of ``wanted`` are not complete.
    """
    searcher = Searcher(folder, wanted)
    there = searcher.all_vectors()
    try:
        kept = next((each for each in there if each.completed and searcher.wants(each)), None)
        if kept is None:
            raise UsageError(
                f"the vectors of {wanted} are not complete, so others still serve; run `quietmind embed` first"
            )
        others = [each for each in there if each.folder != kept.folder]
        return [(each.identity.name, each.folder, _bytes(each.folder)) for each in others]
    finally:
        for each in there:
            each.close()


def forget_old(folder: Path, wanted: str) -> list[tuple[str, int]]:
    """Remove the vectors of other embedders than ``wanted``; return whose they were, each with its bytes on the disk.

    Also what an earlier removal left that was killed. Raises UsageError while those of ``wanted`` are not complete, and
    WorkspaceError where some are being written.
    """
    gone = []
    for name, at, size in old_sets(folder, wanted):
        _remove(at)
        gone.append((name, size))
    for left in (folder / FOLDER).glob(f"{_REMOVED}*"):
        shutil.rmtree(left, ignore_errors=True)
    return gone


def _remove(folder: Path) -> None:
    """Have ``folder`` vanish at once, then free its room: a kill leaves it whole, or under a name that nobody reads."""
    try:
        with (folder / LOCK).open("ab") as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            away = folder.with_name(f"{_REMOVED}{folder.name}-{os.getpid()}")
            folder.rename(away)
        shutil.rmtree(away)
    except BlockingIOError as error:
        raise WorkspaceError(
            f"{shown_path(folder)}: another `quietmind embed` is writing these vectors; let it finish"
        ) from error
    except OSError as error:
        raise WorkspaceError(
            f"{shown_path(folder)}: cannot be removed ({error.strerror}); check its permissions"
        ) from error


def _passages(connection: sqlite3.Connection) -> Iterator[dict[int, tuple[bytes, bytes]]]:
    """Yield some passages at a time: the path of each, and the key of its text."""
    rows = connection.execute(
        "SELECT passages.id, path, title, heading, text FROM passages JOIN documents ON documents.id = document"
    )
    while some := list(islice(rows, _AT_ONCE)):
        yield {
            passage: (bytes(path), text_key(embedded_text(title, json.loads(heading), text)))
            for passage, path, title, heading, text in some
        }


def _bytes(folder: Path) -> int:
    """Return what the files in ``folder`` take on the disk."""
    total = 0
    for file in folder.glob("*"):
        try:
            total += file.lstat().st_blocks * 512
        except OSError:  # gone meanwhile
            continue
    return total
