"""Vectors of passages on the disk: a matrix that only grows, and a table of whose vectors its rows are.

The matrix is a plain file of records, one for each row: a float32 scale, then the vector as int8. The table is a small
database beside it. Rows are written and flushed before the transaction that names them, so that a process that is
killed leaves at most bytes behind the last named row, which the next writer cuts off. One process writes at a time;
any number read.

A search is exact: it multiplies every row (notes/nearest.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from quietmind.base.errors import ArchiveDamaged, DiskFull, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.base.sqlite import Migration, connect, transaction, translated
from quietmind.notes.embedding import TEXT_VERSION
from quietmind.notes.nearest import best_first, packed, record, similarities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLE = "rows.db"
LOCK = "lock"
_COPIED_ROWS = 2048  # at once
_COMPACT_SHARE = 0.25  # of rows that no passage has any more
_COMPACT_ROWS = 1000  # below it the room is not worth the work
_FEW = 0.2  # of the rows: finding those of more passages, one by one, takes longer than multiplying all
_TRIES = 3  # of a search whose matrix is compacted away before it is opened

_MIGRATIONS = (
    Migration(
        "vectors-1",
        (
            "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
            # row: counted from 0. key: of the embedded text (notes/embedding.py).
            "CREATE TABLE vectors (row INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE)",
            # passage: passages.id of the archive as it was when the row was placed; the key tells whether it still is.
            "CREATE TABLE places (passage INTEGER PRIMARY KEY, row INTEGER NOT NULL REFERENCES vectors (row))",
            "CREATE INDEX places_of_row ON places (row)",
        ),
    ),
)


@dataclass(frozen=True)
class Identity:
    """Whose vectors they are: what opens the embedder again, the digest of it, and the numbers in a vector."""

    name: str
    digest: str
    dimensions: int


@dataclass(frozen=True)
class Near:
    """A passage near a query. ``key`` is of the text that was embedded; ``similarity`` the cosine, from -1 to 1."""

    passage: int
    key: bytes
    similarity: float


@dataclass(frozen=True)
class Nearest:
    """What a search found, nearest first, and how many of the passages that it might find have a vector."""

    found: tuple[Near, ...]
    placed: int


def folder_name(identity: Identity) -> str:
    """Return the name of the folder for vectors of this embedder and this text version."""
    word = "".join(char if char.isalnum() else "-" for char in identity.name).strip("-")[:40]
    return f"{word}-{identity.digest[:12]}-{TEXT_VERSION}"


class Vectors:
    """The vectors of one embedder in ``folder``. Use it as a context manager, or call ``close``.

    With an ``identity``, made when missing; without one, WorkspaceError where nothing is. Raises ArchiveDamaged for
    vectors of another embedder, ArchiveLocked, DiskFull.
    """

    def __init__(self, folder: Path, identity: Identity | None = None) -> None:
        self.folder = folder
        self._path = folder / TABLE
        if identity is not None:
            _make(folder)
        elif not self._path.exists():
            raise self._none()
        self._connection = connect(self._path, _MIGRATIONS)
        try:
            if identity is not None and self._fact("dimensions") is None:
                self._say(name=identity.name, digest=identity.digest, dimensions=identity.dimensions, generation=0)
            self.identity = self._identity()
            if identity is not None and (identity.digest, identity.dimensions) != (
                self.identity.digest,
                self.identity.dimensions,
            ):
                raise self._damaged("are of another embedder")
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the table. Calling it again does nothing."""
        self._connection.close()

    @property
    def completed(self) -> int | None:
        """When every passage had a vector for the last time, in seconds of Unix time; None: never."""
        said = self._fact("completed")
        return int(said) if said is not None else None

    def counts(self) -> tuple[int, int]:
        """Return how many vectors there are, and how many passages have one."""
        with translated(self._path):
            return self._one("SELECT count(*) FROM vectors"), self._one("SELECT count(*) FROM places")

    def nearest(self, query: NDArray[np.float32], count: int, among: Sequence[int] | None = None) -> Nearest:
        """Return the passages of the ``count`` rows nearest to ``query`` (float32 [dimensions], of length 1).

        Where ``among`` is given, of these passages only. Passages with the same text share a row, and all of them are
        returned. Takes time in proportion to the rows that are looked at; see notes/nearest.py for how long.
        """
        if query.shape != (self.identity.dimensions,):
            raise self._damaged(f"hold {self.identity.dimensions} numbers each, the query {query.shape}")
        for _ in range(_TRIES):
            with translated(self._path), self._reading():
                rows = self._one("SELECT count(*) FROM vectors")
                few = among is not None and len(among) < _FEW * rows
                try:
                    records = self._records(rows, whole=not few)
                except FileNotFoundError:  # compacted since the count was read: look at what stands there now
                    continue
                if among is None:
                    found = similarities(records, query)
                    best = best_first(found, count)
                    return Nearest(tuple(self._near(best, found[best])), self._one("SELECT count(*) FROM places"))
                nearest = self._nearest_of_few if few else self._nearest_of_many
                return nearest(records, query, count, among)
        raise self._damaged("lack their matrix")

    def _nearest_of_few(
        self, records: NDArray[Any], query: NDArray[np.float32], count: int, among: Sequence[int]
    ) -> Nearest:
        """Multiply the rows of ``among`` alone."""
        import numpy as np

        allowed = self._rows_of(among)
        only = np.unique(np.fromiter(allowed.values(), np.int64, len(allowed)))
        found = similarities(records, query, only)
        best = best_first(found, count)
        near = self._near(only[best], found[best])
        return Nearest(tuple(each for each in near if each.passage in allowed), len(allowed))

    def _nearest_of_many(
        self, records: NDArray[Any], query: NDArray[np.float32], count: int, among: Sequence[int]
    ) -> Nearest:
        """Multiply all rows, and go down the ranking until ``count`` of them have a passage of ``among``."""
        allowed, found = set(among), similarities(records, query)
        near: list[Near] = []
        looked, deep = 0, count * 3 // 2 * max(1, len(records) // max(1, len(among)))  # as many as it should take
        while looked < len(records) and len({each.key for each in near}) < count:
            best = best_first(found, deep)[looked:]
            near += [each for each in self._near(best, found[best]) if each.passage in allowed]
            looked, deep = deep, 4 * deep
        first = set(list(dict.fromkeys(each.key for each in near))[:count])
        (placed,) = self._connection.execute(
            "SELECT count(*) FROM json_each(?) CROSS JOIN places ON passage = value", (json.dumps(list(among)),)
        ).fetchone()
        return Nearest(tuple(each for each in near if each.key in first), placed)

    def _near(self, rows: NDArray[np.int64], found: NDArray[np.float32]) -> list[Near]:
        """Return the passages of ``rows``, whose similarities are ``found``, in their order."""
        there = self._connection.execute(
            "SELECT given.key, passage, vectors.key FROM json_each(?) AS given"
            " CROSS JOIN places ON places.row = given.value JOIN vectors ON vectors.row = given.value"
            " ORDER BY given.key, passage",
            (json.dumps(rows.tolist()),),
        )
        return [Near(passage, bytes(key), float(found[at])) for at, passage, key in there]

    def placed(self, passages: Sequence[int]) -> set[int]:
        """Return those of ``passages`` that have a vector."""
        with translated(self._path):
            return set(self._rows_of(passages))

    def stored(self) -> dict[int, bytes]:
        """Return the passages that have a vector, with the keys of the texts that it is of."""
        with translated(self._path):
            rows = self._connection.execute("SELECT passage, key FROM places JOIN vectors USING (row)")
            return {passage: bytes(key) for passage, key in rows}

    def read(self, passages: Sequence[int]) -> dict[int, tuple[bytes, NDArray[np.float32]]]:
        """Return the vectors of those of ``passages`` that have one, float32 [dimensions], each with its key."""
        for _ in range(_TRIES):
            with translated(self._path), self._reading():
                rows = self._connection.execute(
                    "SELECT passage, row, key FROM places JOIN vectors USING (row)"
                    " WHERE passage IN (SELECT value FROM json_each(?))",
                    (json.dumps(list(passages)),),
                ).fetchall()
                try:
                    records = self._records(self._one("SELECT count(*) FROM vectors"))
                except FileNotFoundError:  # compacted since the count was read: look at what stands there now
                    continue
                read = records[[row for _, row, _ in rows]]
                found = read["numbers"].astype("float32") * read["scale"][:, None]
                return {passage: (bytes(key), found[at]) for at, (passage, _, key) in enumerate(rows)}
        raise self._damaged("lack their matrix")

    def _rows_of(self, passages: Sequence[int]) -> dict[int, int]:
        """Return the rows of ``passages``, by their numbers; those without a vector have none."""
        rows = self._connection.execute(
            "SELECT passage, row FROM places WHERE passage IN (SELECT value FROM json_each(?))",
            (json.dumps(list(passages)),),
        )
        return dict(rows.fetchall())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one process that writes. Raises WorkspaceError when another is; DiskFull from what is done inside."""
        with self._full_disk(), (self.folder / LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WorkspaceError(
                    f"{shown_path(self.folder)}: another `quietmind embed` is writing these vectors; let it finish"
                ) from error
            self._mend()
            yield

    def place(self, passages: Mapping[int, bytes]) -> list[int]:
        """Say which passages there are now, with the keys of their texts; return those without a vector, in order.

        Of passages with the same text only the first is returned. Call it, and what follows, inside :meth:`writing`.
        """
        with translated(self._path):
            rows = {bytes(key): row for row, key in self._connection.execute("SELECT row, key FROM vectors")}
            before = dict(self._connection.execute("SELECT passage, row FROM places").fetchall())
            now = {passage: rows[key] for passage, key in passages.items() if key in rows}
            with transaction(self._connection):
                gone = [(passage,) for passage, row in before.items() if now.get(passage) != row]
                self._connection.executemany("DELETE FROM places WHERE passage = ?", gone)
                new = [(passage, row) for passage, row in now.items() if before.get(passage) != row]
                self._connection.executemany("INSERT INTO places VALUES (?, ?)", new)
        lacking: dict[bytes, int] = {}
        for passage, key in passages.items():
            if key not in rows:
                lacking.setdefault(key, passage)
        return list(lacking.values())

    def append(
        self, keys: Sequence[bytes], vectors: NDArray[np.float32], passages: Iterable[tuple[int, bytes]]
    ) -> None:
        """Add a row for each of ``keys`` (which must be new) and place ``passages``: pairs of passage and key."""
        records = packed(vectors, self.identity.dimensions)
        with translated(self._path), self._full_disk():
            first = self._one("SELECT count(*) FROM vectors")
            descriptor = os.open(self._matrix(), os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as matrix:
                matrix.truncate(first * records.itemsize)
                matrix.seek(0, os.SEEK_END)
                matrix.write(records.tobytes())
                matrix.flush()
                os.fsync(matrix.fileno())
            rows = {key: row for row, key in enumerate(keys, first)}
            with transaction(self._connection):
                self._connection.executemany("INSERT INTO vectors VALUES (?, ?)", ((r, k) for k, r in rows.items()))
                placed = ((passage, rows[key]) for passage, key in passages)
                self._connection.executemany("INSERT OR REPLACE INTO places VALUES (?, ?)", placed)

    def complete(self, when: int) -> None:
        """Say that every passage has a vector, at ``when`` (seconds of Unix time): these vectors may serve."""
        self._say(completed=when)

    def say_pace(self, per_second: float, when: int) -> None:
        """Say how fast texts are embedded, as of ``when`` (seconds of Unix time)."""
        self._say(pace=per_second, paced=when)

    @property
    def pace(self) -> float | None:
        """Texts a second, as the last batch showed; None: nothing was embedded yet."""
        said = self._fact("pace")
        return float(said) if said is not None else None

    def being_written(self) -> bool:
        """Say whether a process is making vectors now."""
        try:
            with (self.folder / LOCK).open("rb") as lock:
                fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # never written, or not ours to look at
            return False
        return False

    def current(self, keys: Mapping[int, bytes]) -> set[int]:
        """Return those of the passages in ``keys`` whose text, by its key, is the one that their vector is of."""
        with translated(self._path):
            rows = self._connection.execute(
                "SELECT passage, vectors.key FROM json_each(?) CROSS JOIN places ON passage = value"
                " JOIN vectors USING (row)",
                (json.dumps(list(keys)),),
            )
            return {passage for passage, key in rows if bytes(key) == keys[passage]}

    def compact(self) -> int:
        """Write the matrix anew without rows that no passage has, where those are many; return how many went."""
        with translated(self._path), self._full_disk():
            total = self._one("SELECT count(*) FROM vectors")
            kept = self._connection.execute(
                "SELECT row, key FROM vectors WHERE row IN (SELECT row FROM places) ORDER BY row"
            ).fetchall()
            gone = total - len(kept)
            if gone < max(_COMPACT_ROWS, _COMPACT_SHARE * total):
                return 0
            old, generation = self._records(total), int(self._fact("generation") or 0) + 1
            with self._matrix(generation).open("wb") as matrix:
                for start in range(0, len(kept), _COPIED_ROWS):
                    matrix.write(old[[row for row, _ in kept[start : start + _COPIED_ROWS]]].tobytes())
                matrix.flush()
                os.fsync(matrix.fileno())
            number = {row: new for new, (row, _) in enumerate(kept)}
            placed = self._connection.execute("SELECT passage, row FROM places").fetchall()
            with transaction(self._connection):
                self._connection.execute("DELETE FROM places")
                self._connection.execute("DELETE FROM vectors")
                self._connection.executemany(
                    "INSERT INTO vectors VALUES (?, ?)", ((number[row], key) for row, key in kept)
                )
                self._connection.executemany("INSERT INTO places VALUES (?, ?)", ((p, number[r]) for p, r in placed))
                self._connection.execute("UPDATE facts SET value = ? WHERE name = 'generation'", (str(generation),))
            self._mend()
        return gone

    def _mend(self) -> None:
        """Remove what a writer that was killed has left: matrices that do not count, rows that are not there."""
        matrix = self._matrix()
        for other in self.folder.glob("matrix-*"):
            if other != matrix:
                other.unlink(missing_ok=True)
        there = matrix.stat().st_size // record(self.identity.dimensions).itemsize if matrix.exists() else 0
        # Only a disk that has lost what was flushed gets here with too few.
        if there < self._one("SELECT count(*) FROM vectors"):
            with transaction(self._connection):
                self._connection.execute("DELETE FROM places WHERE row >= ?", (there,))
                self._connection.execute("DELETE FROM vectors WHERE row >= ?", (there,))

    def _records(self, rows: int, *, whole: bool = False) -> NDArray[Any]:
        """Return the first ``rows`` records of the matrix, mapped; ``whole``: all will be read.

        Raises FileNotFoundError, ArchiveDamaged.
        """
        import numpy as np

        kind = record(self.identity.dimensions)
        if rows == 0:
            return np.empty(0, kind)
        with self._matrix().open("rb") as file:
            size = rows * kind.itemsize
            if os.fstat(file.fileno()).st_size < size:
                raise self._damaged("are cut short")
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        if whole and hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)  # from a cold disk in long reads, not page by page
        return np.frombuffer(mapped, kind)

    def _matrix(self, generation: int | None = None) -> Path:
        return self.folder / f"matrix-{self._fact('generation') if generation is None else generation}"

    def _identity(self) -> Identity:
        name, digest, dimensions = (self._fact(name) for name in ("name", "digest", "dimensions"))
        if name is digest is dimensions is None:
            raise self._none()  # whoever made the table was killed before it said so
        if name is None or digest is None or dimensions is None or not 1 <= int(dimensions) <= 1 << 16:
            raise self._damaged("do not say of which embedder they are")
        return Identity(name, digest, int(dimensions))

    def _none(self) -> WorkspaceError:
        return WorkspaceError(f"{shown_path(self.folder)}: holds no vectors; run `quietmind embed`")

    def _fact(self, name: str) -> str | None:
        with translated(self._path):
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _say(self, **facts: object) -> None:
        with translated(self._path), transaction(self._connection):
            self._connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)", ((name, str(value)) for name, value in facts.items())
            )

    def _one(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """See the table as it stands now until the end of the block, whatever others write."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"{shown_path(self.folder)}: the disk is full; free some space and run `quietmind embed` again, "
                    "what was done so far is kept"
                ) from error
            raise WorkspaceError(
                f"{shown_path(self.folder)}: vectors cannot be written ({error.strerror}); check its permissions"
            ) from error

    def _damaged(self, what: str) -> ArchiveDamaged:
        return ArchiveDamaged(
            f"{shown_path(self.folder)}: its vectors {what}; remove the folder and run `quietmind embed` again"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"{shown_path(folder)}: cannot be made ({error.strerror}); check its permissions"
        ) from error
