"""Reads the notebooks that are due, one after the other, for as long as there is time. Killed, it resumes.

What makes it resumable stands elsewhere: snapshots are stored whole along the way, and a notebook counts as read only
once all of it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from quietmind.base.errors import ContextOverflow
from quietmind.base.progress import SILENT, Progress
from quietmind.engine.port import Engine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.notes.document import Passage
from quietmind.workspace.due import Standing, content_of, in_reading_order, parts_of, standing
from quietmind.workspace.laid import laid_out
from quietmind.workspace.notebook import Notebook, Reading
from quietmind.workspace.notebooks import Notebooks
from quietmind.workspace.reading import ReadReport, read


@dataclass(frozen=True)
class Done:
    """What became of a notebook that was due: ``report`` of its reading, None where ``problem`` says why not.

    ``left_out`` passages found no room in the context.
    """

    name: str
    why: str
    report: ReadReport | None
    left_out: tuple[Passage, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Reader:
    """What reads: an engine with the fingerprint of its run, and the store that keeps what it has read.

    ``cut`` says whether the engine can go back to a shorter prefix of what it holds.
    """

    engine: Engine
    fingerprint: Fingerprint
    cut: bool
    store: Store

    def due(self, notebooks: Notebooks, names: Sequence[str] = ()) -> list[Standing]:
        """Return those of ``names`` (none: of all) that are due, after bringing them into step with the notes.

        In the order in which to read them. Raises UsageError for a name that is none.
        """
        chosen = [notebooks.named(name) for name in dict.fromkeys(names)] or notebooks.all()
        fresh = [notebooks.refresh(notebook.name) for notebook in chosen]
        snapshots = self.store.snapshots()
        standings, sizes = [], {}
        for notebook in fresh:
            passages = notebooks.passages(notebook)
            sizes[notebook.name] = sum(len(passage.text) for passage in passages)
            standings.append(standing(notebook, passages, snapshots, parts_of(self.fingerprint), self.engine.context))
        return in_reading_order(standings, sizes)

    def read(
        self, notebooks: Notebooks, notebook: Notebook, progress: Progress = SILENT, until: float | None = None
    ) -> tuple[ReadReport, tuple[Passage, ...]]:
        """Read ``notebook`` and note it once all of it is; return what was done, and what had no room.

        Raises ContextOverflow where nothing of it fits, EngineError, SnapshotError, DiskFull, WorkspaceError.
        """
        progress.begin(f"{notebook.name}: counting tokens", None)
        passages = notebooks.passages(notebook)
        layout = laid_out(notebooks, notebook.name, passages, self.engine, self.fingerprint.tokenizer, progress.advance)
        report = read(
            self.engine,
            self.store,
            self.fingerprint,
            layout,
            label=notebook.name,
            cut=self.cut,
            progress=progress,
            until=until,
        )
        if report.finished:
            cut_at = self.engine.context if layout.left_out else None
            now = datetime.now(UTC).isoformat(timespec="seconds")
            notebooks.note_reading(
                notebook.name,
                Reading(self.fingerprint.digest, content_of(passages, cut_at), report.tokens, report.seconds, now),
            )
        return report, layout.left_out


def read_all(
    reader: Reader,
    notebooks: Notebooks,
    due: Sequence[Standing],
    progress: Progress = SILENT,
    until: float | None = None,
) -> Iterator[Done]:
    """Read what is ``due``, in that order, until the monotonic clock has passed ``until``; yield what became of each.

    A notebook of which nothing fits the context is passed over. Everything else that goes wrong is raised: it would
    befall the next one too.
    """
    for each in due:
        if until is not None and time.monotonic() >= until:
            return
        try:
            report, left_out = reader.read(notebooks, each.notebook, progress, until)
        except ContextOverflow as error:
            yield Done(each.notebook.name, each.due, None, problem=str(error))
            continue
        yield Done(each.notebook.name, each.due, report, left_out)
