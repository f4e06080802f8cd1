"""One folder of work: the database of the archive, and the logs of the engines."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from quietmind.base.errors import DiskFull, NothingIndexed, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.base.progress import SILENT, Progress
from quietmind.base.sqlite import connect, database_exists, translated
from quietmind.kvstore.lock import try_hold
from quietmind.notes.facets import PassageFacets, facets_of, unread
from quietmind.notes.filtering import count_within, settled
from quietmind.notes.index import Index
from quietmind.notes.linking import Linking
from quietmind.notes.outlines import Outline, outlines
from quietmind.notes.report import Forgotten, Report
from quietmind.notes.selecting import Indexed, count_notes, notes_after, sample
from quietmind.notes.watching import Event, follow, refused
from quietmind.workspace.embedding import NONE, Embedded, Searcher, chosen, embed, served_vectors
from quietmind.workspace.evaluation import Evaluation, Rerank, evaluate
from quietmind.workspace.notebooks import Notebooks
from quietmind.workspace.opening import named_note, open_note
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE
from quietmind.workspace.status import Status, status_of

if TYPE_CHECKING:
    from quietmind.notes.copying import Brought
    from quietmind.notes.document import Document, Hit, Passage
    from quietmind.notes.embedding import Embedder
    from quietmind.notes.filtering import Filter
    from quietmind.workspace.elsewhere import Elsewhere


class Workspace:
    """An open workspace. Use it as a context manager, or call ``close``.

    Created on first use for writing; reading from one that holds nothing raises NothingIndexed.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = _absolute(folder)
        database = self.folder / DATABASE
        if create:
            _make(self.folder)
        elif not self.exists(self.folder):
            raise _nothing(self.folder)
        self._connection = connect(database, ALL_MIGRATIONS)
        self._index = Index(self._connection, database)
        self._searcher = Searcher(self.folder, NONE)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Say whether there is a workspace in ``folder``. Raises WorkspaceError when that cannot be looked at."""
        return database_exists(folder / DATABASE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Calling it again does nothing."""
        self._searcher.close()
        self._connection.close()

    @property
    def logs(self) -> Path:
        """The folder for engine logs, created when missing; of a workspace that may only be read, one elsewhere."""
        if not os.access(self.folder, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="quietmind-logs-"))
        logs = self.folder / "logs"
        _make(logs)
        return logs

    @property
    def notebooks(self) -> Notebooks:
        """The notebooks of this workspace."""
        return Notebooks(self._connection, self.folder / DATABASE)

    def outlines(self, below: Path | None = None) -> list[Outline]:
        """Return what the indexed notes are about, all or those at or below a path. Raises WorkspaceError."""
        with translated(self.folder / DATABASE):
            return outlines(self._connection, below)

    def sample(self, below: Path | None = None, count: int = 200) -> list[Passage]:
        """Return ``count`` passages, spread evenly over all or over those below a path. Raises WorkspaceError."""
        with translated(self.folder / DATABASE):
            return sample(self._connection, count, below)

    def links(self) -> Linking:
        """Return the links of the notes, as they are now. Raises NothingIndexed when there are no notes."""
        if not self.roots():
            raise _nothing(self.folder)
        return Linking(self._connection)

    def open_note(self, given: str) -> Document:
        """Return the note that ``given`` names, as its file is now. Raises NothingIndexed, NotesError; see opening."""
        if not (roots := self.roots()):
            raise _nothing(self.folder)
        with translated(self.folder / DATABASE):
            return open_note(self._connection, roots, given)

    def note_path(self, given: str) -> Path:
        """Return the path of the note that ``given`` names. Raises NothingIndexed, NotesError."""
        if not (roots := self.roots()):
            raise _nothing(self.folder)
        with translated(self.folder / DATABASE):
            return named_note(self._connection, roots, given)

    def notes(self, after: Path | None, count: int) -> list[Indexed]:
        """Return the first ``count`` notes of the index that come ``after`` a path, in the order of their paths."""
        with translated(self.folder / DATABASE):
            return notes_after(self._connection, after, count)

    def roots(self) -> list[Path]:
        """Return the folders of notes that are indexed here."""
        return self._index.roots()

    def index(self, root: Path, progress: Progress = SILENT) -> Report:
        """Bring the index of the notes under ``root`` up to date. Raises NotesError, DiskFull, ArchiveLocked."""
        return self._index.update(root, progress)

    @contextmanager
    def watch(self, folders: Sequence[Path] = (), poll_seconds: float | None = None) -> Iterator[Iterator[Event]]:
        """Follow ``folders`` (none: all that are indexed) in the block; the index is written as the events are read.

        Raises NotesError for a folder that is not indexed, WorkspaceError where another process follows already.
        """
        roots = self.roots()
        if not roots:
            raise _nothing(self.folder)
        chosen = [Path(os.path.realpath(folder)) for folder in folders] or roots
        for folder in chosen:
            if folder not in roots:
                raise refused(folder, roots)
        try:
            lock = (self.folder / "watch.lock").open("ab")
        except OSError as error:
            raise WorkspaceError(f"{shown_path(self.folder)}: cannot be written to ({error.strerror})") from error
        with lock:
            if not try_hold(lock.fileno()):
                raise WorkspaceError(
                    f"{shown_path(self.folder)}: another `quietmind watch` follows its notes already; end that first"
                )
            yield follow(self._index, list(dict.fromkeys(chosen)), poll_seconds=poll_seconds)

    def status(self, embedder: str | None = None) -> Status:
        """Return what the workspace holds and how current it is; ``embedder`` is what the settings say.

        Raises WorkspaceError.
        """
        with translated(self.folder / DATABASE):
            return status_of(self.folder, self._connection, chosen(embedder))

    def forget(self, root: Path) -> Forgotten:
        """Take the notes under ``root`` out of the index. Raises NotesError, DiskFull, ArchiveLocked."""
        return self._index.forget(root)

    def search(self, query: str, limit: int, within: Filter | None = None) -> list[Hit]:
        """Return the best passages ``within`` for ``query``, best first. Raises NothingIndexed when there are no notes.

        By words; after :meth:`search_with` by meaning too, where there are vectors. Raises UsageError for a filter that
        leaves nothing to search in.
        """
        if not self.roots():
            raise _nothing(self.folder)
        within = settled(self._connection, within) if within is not None else None
        return self._searcher.search(self._connection, query, limit, within)

    def evaluate(
        self,
        *,
        questions: int,
        seed: int,
        legs: Collection[str] | None = None,
        rerank: Rerank | None = None,
        progress: Progress = SILENT,
    ) -> Evaluation:
        """Say how well searches of the notes lead to what they say; see evaluation.evaluate. Raises NothingIndexed."""
        if not self.roots():
            raise _nothing(self.folder)
        with translated(self.folder / DATABASE):
            return evaluate(
                self._connection,
                self._searcher.serving(),
                questions=questions,
                seed=seed,
                legs=legs,
                rerank=rerank,
                progress=progress,
            )

    def facets(self, passages: Sequence[Passage]) -> list[PassageFacets | None]:
        """Return what each of ``passages`` can be filtered by; None for one that is not there any more."""
        with translated(self.folder / DATABASE):
            return facets_of(self._connection, passages)

    def without_facets(self) -> int:
        """Return how many notes no filter but by folder and kind can find before `quietmind index` reads them again."""
        with translated(self.folder / DATABASE):
            return unread(self._connection)

    def search_with(self, searcher: Searcher) -> None:
        """Search this workspace by ``searcher`` from now on, and close it in the end."""
        self._searcher.close()
        self._searcher = searcher

    def embed(self, embedder: Embedder, *, seconds: float | None = None, progress: Progress = SILENT) -> Embedded:
        """Give vectors to the passages that lack one, for at most ``seconds``. Raises NothingIndexed, and as embed."""
        if not self.roots():
            raise _nothing(self.folder)
        with translated(self.folder / DATABASE):
            return embed(self._connection, self.folder, embedder, seconds=seconds, progress=progress)

    def bring_copy(self, elsewhere: Elsewhere, embedder: str | None, progress: Progress = SILENT) -> Brought | None:
        """Have the copy of the index ``elsewhere`` hold what is here, with the vectors that ``embedder`` would serve.

        None: another process is at it. Raises IndexAway, and WorkspaceError as the rest does.
        """
        with translated(self.folder / DATABASE), served_vectors(self.folder, chosen(embedder)) as vectors:
            return elsewhere.bring_up_to_date(self._connection, vectors, progress)

    def count_notes(self) -> int:
        """Return how many notes are indexed here."""
        with translated(self.folder / DATABASE):
            return count_notes(self._connection)

    def count_passages(self) -> int:
        """Return how many passages are indexed here."""
        with translated(self.folder / DATABASE):
            return count_within(self._connection, None)


def _nothing(folder: Path) -> NothingIndexed:
    return NothingIndexed(f"{shown_path(folder)}: no notes are indexed here yet; run `quietmind index FOLDER` first")


def _absolute(folder: Path) -> Path:
    try:
        return folder.absolute()
    except OSError as error:
        raise WorkspaceError(
            f"{shown_path(folder)}: the current folder no longer exists; change to another, or give --workspace in full"
        ) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what the notes say is nobody else's business
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{shown_path(folder)}: the disk is full; free some space") from error
        raise WorkspaceError(
            f"{shown_path(folder)}: cannot be made ({error.strerror}); choose another with --workspace"
        ) from error
