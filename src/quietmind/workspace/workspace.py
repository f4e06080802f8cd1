"""One folder of work: the database of the archive, and the logs of the engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from quietmind.base.errors import DiskFull, NothingIndexed, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.base.progress import SILENT, Progress
from quietmind.base.sqlite import connect
from quietmind.notes.index import Index, Report
from quietmind.notes.search import search
from quietmind.workspace.measurements import ALL_MIGRATIONS, DATABASE

if TYPE_CHECKING:
    from quietmind.notes.document import Hit


class Workspace:
    """An open workspace. Use it as a context manager, or call ``close``.

    Created on first use for writing; reading from one that holds nothing raises NothingIndexed.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder.absolute()
        database = self.folder / DATABASE
        if create:
            _make(self.folder)
        elif not database.exists():
            raise _nothing(self.folder)
        self._connection = connect(database, ALL_MIGRATIONS)
        self._index = Index(self._connection, database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Calling it again does nothing."""
        self._connection.close()

    @property
    def logs(self) -> Path:
        """The folder for engine logs, created when missing."""
        logs = self.folder / "logs"
        _make(logs)
        return logs

    def roots(self) -> list[Path]:
        """Return the folders of notes that are indexed here."""
        return self._index.roots()

    def index(self, root: Path, progress: Progress = SILENT) -> Report:
        """Bring the index of the notes under ``root`` up to date. Raises NotesError, DiskFull, ArchiveLocked."""
        return self._index.update(root, progress)

    def search(self, query: str, limit: int) -> list[Hit]:
        """Return the best passages for ``query``, best first. Raises NothingIndexed when there are no notes."""
        if not self.roots():
            raise _nothing(self.folder)
        return search(self._connection, query, limit)


def _nothing(folder: Path) -> NothingIndexed:
    return NothingIndexed(f"{shown_path(folder)}: no notes are indexed here yet; run `quietmind index FOLDER` first")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise DiskFull(f"{shown_path(folder)}: the disk is full; free some space") from error
        raise WorkspaceError(
            f"{shown_path(folder)}: cannot be made ({error.strerror}); choose another with --workspace"
        ) from error
