"""Reads the notebooks that are due, one after the other, for as long as there is time. Killed, it resumes.

What makes it resumable stands elsewhere: snapshots are stored whole along the way, and a notebook counts as read only
once all of it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from quietmind.base.errors import ContextOverflow, NoRoomForSnapshot, NothingIndexed
from quietmind.base.progress import SILENT, Progress
from quietmind.base.units import format_bytes
from quietmind.engine.port import Engine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.notes.document import Passage
from quietmind.workspace.auto import ASSUMED, size_of
from quietmind.workspace.cost import stored_per_token
from quietmind.workspace.due import Standing, content_of, in_reading_order, parts_of, standing
from quietmind.workspace.identity import can_go_back, require_going_on
from quietmind.workspace.laid import laid_out
from quietmind.workspace.launch import Start
from quietmind.workspace.levels import EXACT, LOSSLESS, Packing, bytes_per_token, packing_for
from quietmind.workspace.notebook import Notebook, Reading
from quietmind.workspace.notebooks import Notebooks
from quietmind.workspace.reading import BATCH, ReadReport, read


@dataclass(frozen=True)
class Room:
    """What snapshots may take: ``budget`` bytes together, and by the plan each token ``per_token`` of them."""

    budget: int
    per_token: float


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

    ``cut`` says whether the engine can go back to a shorter prefix of what it holds. ``room`` None: no limit is known.
    The engine computes ``batch`` tokens at once. What it reads to the end is stored by ``packing``.
    """

    engine: Engine
    fingerprint: Fingerprint
    cut: bool
    store: Store
    room: Room | None = None
    batch: int = BATCH
    packing: Packing = LOSSLESS

    @classmethod
    def of(
        cls, start: Start, engine: Engine, fingerprint: Fingerprint, store: Store, budget: int, level: str = EXACT
    ) -> Self:
        """Return the reader that is ``engine``, which runs as ``start`` has planned, and stores at ``level``.

        Raises EngineRefused for an engine that cannot go on from what it has read; UsageError for a level that is none.
        """
        require_going_on(start.card)
        return cls(
            engine,
            fingerprint,
            can_go_back(start.card),
            store,
            Room(budget, bytes_per_token(level, fingerprint, store.snapshots()) or stored_per_token(start)),
            max(BATCH, start.plan.micro_batch) if start.measurable else BATCH,
            packing_for(level, start.card, engine.context, fingerprint, store),
        )

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
            batch=self.batch,
            packing=self.packing,
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
    *,
    evict: bool = False,
) -> Iterator[Done]:
    """Read what is ``due``, in that order, until the monotonic clock has passed ``until``; yield what became of each.

    Passed over are notebooks of which nothing is there or fits the context and, unless ``evict``, those for which
    another one that is read would have to go: each night would read what the last one did. Or that take more room than
    was expected. Everything else that goes wrong is raised: it would befall the next one too.
    """
    waiting = {each.notebook.name for each in due}
    for each in due:
        if until is not None and time.monotonic() >= until:
            return
        name = each.notebook.name
        fresh = {notebook.name for notebook in notebooks.all()} - waiting
        waiting.discard(name)
        if not evict and (problem := _no_room(reader, notebooks, each, fresh)):
            yield Done(name, each.due, None, problem=problem)
            continue
        try:
            report, left_out = reader.read(notebooks, each.notebook, progress, until)
        except (ContextOverflow, NothingIndexed) as error:
            yield Done(name, each.due, None, problem=str(error))
            continue
        except NoRoomForSnapshot as error:  # one that had to be kept at a finer level than the others
            if evict:
                raise
            yield Done(name, each.due, None, problem=str(error))
            continue
        yield Done(name, each.due, report, left_out)


def _no_room(reader: Reader, notebooks: Notebooks, due: Standing, fresh: set[str]) -> str:
    """Say why a notebook has no place in the store beside those that are ``fresh`` or pinned; nothing if it has."""
    if reader.room is None:
        return ""
    tokens = min(tokens_about(notebooks.passages(due.notebook)), reader.engine.context)
    needed = int(tokens * reader.room.per_token)
    taken = sum(
        snapshot.bytes for snapshot in reader.store.snapshots() if snapshot.pinned or snapshot.header.label in fresh
    )
    if taken + needed <= reader.room.budget:
        return ""
    return (
        f"it takes about {format_bytes(needed)}, and of the {format_bytes(reader.room.budget)} for snapshots "
        f"{format_bytes(taken)} are taken; raise snapshot_gib, drop a notebook, or read it by its name"
    )


def tokens_about(passages: Sequence[Passage]) -> int:
    """Return about how many tokens ``passages`` take, without having asked a tokenizer."""
    return ASSUMED.tokens([size_of(passage) for passage in passages])
