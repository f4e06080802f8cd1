"""Which notebook to answer from: those that hold the evidence, and of them one that is read and can be restored.

A notebook is taken up when its stored beginning covers nearly all of it: what is missing then costs less than the
person would notice. Whatever stands in the way is said in words, never passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from quietmind.base.errors import ContextOverflow, EngineRefused, SnapshotError, WorkspaceError
from quietmind.base.progress import SILENT, Progress
from quietmind.engine.port import Engine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Match
from quietmind.model.card import ModelCard
from quietmind.notes.document import Hit
from quietmind.plan.interval import Interval
from quietmind.plan.plan import Plan
from quietmind.workspace.cost import prefill_seconds
from quietmind.workspace.due import parts_of, standing
from quietmind.workspace.identity import fingerprint_of, require_going_on
from quietmind.workspace.laid import laid_out, reserve_of
from quietmind.workspace.launch import Start
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.levels import EXACT
from quietmind.workspace.notebook import Member, Notebook
from quietmind.workspace.notebooks import Notebooks
from quietmind.workspace.overnight import Reader
from quietmind.workspace.reading import ReadReport, Restored, restore
from quietmind.workspace.store import budget_of, open_store
from quietmind.workspace.workspace import Workspace

# A notebook is taken up if what is missing of it is prefilled in so many seconds: little more than reading the passages
# takes that would be given instead (2 s with the smallest model on two cores), and no more than a person waits calmly.
MISSING_SECONDS = 5.0
# A token's prefill takes longer the more stands before it, and evenly so (attention reads it all): the last tokens of a
# reading took at most twice its mean.
_LAST_TO_MEAN = 2.0
# A notebook answers alone if it holds this share of the evidence of whatever holds most; with less, most of what the
# person asks about stands elsewhere.
ANSWERS_ALONE = 0.5
# One passage that is about the question beside five in the best notebook is still worth asking for.
WORTH_ASKING = 0.2


LARGER = "give a larger --context"


@dataclass(frozen=True)
class Evidence:
    """The passages of a notebook that are about a question, best first; ``notebook`` None: those in no notebook."""

    notebook: Notebook | None
    hits: tuple[Hit, ...]

    @cached_property
    def score(self) -> float:
        """The sum of their scores."""
        return sum(hit.score for hit in self.hits)


@dataclass(frozen=True)
class Held:
    """A notebook laid out, of which the engine holds what was ``restored``, or all of it after a reading just now.

    Neither, for an engine that cannot keep what it reads.
    """

    notebook: Notebook
    layout: Layout
    restored: Restored | None = None
    read: ReadReport | None = None


@dataclass(frozen=True)
class Due:
    """A notebook that cannot be answered from as it stands, why not, and what mends that where ``why`` does not say."""

    notebook: Notebook
    why: str
    mend: str = ""


@dataclass(frozen=True)
class Desk:
    """Where notebooks are taken up: those of a workspace, and what runs.

    ``reader`` is None for an engine that cannot keep what it reads, and ``keeps_nothing`` says why where that is the
    model's doing; ``seconds`` gives the time of prefilling so many tokens from nothing, None where it is not known.
    """

    notebooks: Notebooks
    engine: Engine
    reader: Reader | None
    seconds: Callable[[int], Interval | None] = lambda _tokens: None
    keeps_nothing: str = ""

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        start: Start,
        engine: Engine,
        snapshot_gib: int | None = None,
        snapshot_level: str = EXACT,
        fingerprint: Callable[[Engine, ModelCard, Plan], Fingerprint] = fingerprint_of,
    ) -> Self:
        """Return the desk of ``engine``, which runs as ``start`` has planned; ``fingerprint`` says under which.

        Raises SnapshotError, ModelNotFound.
        """
        reader, keeps_nothing = None, ""
        if engine.capabilities.snapshots:
            budget = budget_of(workspace.folder, snapshot_gib)
            try:
                require_going_on(start.card)
            except EngineRefused as error:
                keeps_nothing = str(error)
            else:
                under, store = fingerprint(engine, start.card, start.plan), open_store(workspace.folder, budget)
                reader = Reader.of(start, engine, under, store, budget, snapshot_level)
        return cls(
            workspace.notebooks, engine, reader, lambda tokens: prefill_seconds(start.speed, tokens), keeps_nothing
        )


def evidence(notebooks: Sequence[Notebook], hits: Sequence[Hit]) -> list[Evidence]:
    """Return where ``hits`` lie, what holds most first; a hit counts for each notebook that it lies in."""
    paths = {hit.passage.path for hit in hits}
    ranked: list[Evidence] = []
    outside = list(hits)
    for notebook in notebooks:
        members = [member for member in notebook.members if member.path in paths]
        below = Path(notebook.source.value) if notebook.source.kind == "path" else None
        within = tuple(
            hit
            for hit in hits
            if any(_lies_in(hit, member) for member in members)
            # A note that came to the folder since the last reading is a member as soon as the notebook is taken up.
            or (below is not None and hit.passage.path.is_relative_to(below))
        )
        outside = [hit for hit in outside if hit not in within]
        ranked.append(Evidence(notebook, within))
    ranked.append(Evidence(None, tuple(outside)))
    return sorted(
        (each for each in ranked if each.hits),
        key=lambda each: (-each.score, each.notebook.name if each.notebook else ""),
    )


def holding(ranked: Sequence[Evidence], share: float) -> list[Evidence]:
    """Return those of ``ranked`` that hold at least this share of the evidence of the first."""
    return [each for each in ranked if each.score >= share * ranked[0].score]


def worth_asking(ranked: Sequence[Evidence]) -> list[Evidence]:
    """Return those of ``ranked`` that hold enough beside the best notebook for a question to all of them.

    What is in no notebook is no measure for those that are: it may be most of the archive.
    """
    best = max((each.score for each in ranked if each.notebook is not None), default=0.0)
    return [each for each in ranked if each.score >= WORTH_ASKING * best]


def take_up(desk: Desk, notebook: Notebook) -> Held | Due:
    """Have the engine hold ``notebook`` if that is a matter of seconds. Raises EngineError."""
    if desk.reader is None:
        return Due(notebook, desk.keeps_nothing or "this engine cannot keep what it reads")
    with suppress(WorkspaceError):  # the question is answered also while another process writes
        notebook = desk.notebooks.refresh(notebook.name)
    context = desk.engine.context
    room = context - reserve_of(context)
    if notebook.reading is not None and notebook.reading.tokens > room:
        why = f"it takes {notebook.reading.tokens:,} tokens, and a context of {context:,} has room for {room:,}"
        return Due(notebook, why, LARGER)
    try:
        return _restored(desk, desk.reader, notebook)
    except (WorkspaceError, SnapshotError, ContextOverflow) as error:
        return Due(notebook, str(error))


def _restored(desk: Desk, reader: Reader, notebook: Notebook) -> Held | Due:
    passages = desk.notebooks.passages(notebook)
    stands = standing(notebook, passages, reader.store.snapshots(), parts_of(reader.fingerprint), desk.engine.context)
    if not stands.usable:  # and nothing is laid out: the tokens of what was never read are not known
        return Due(notebook, stands.due, _read_it(notebook))
    layout = laid_out(desk.notebooks, notebook.name, passages, desk.engine, reader.fingerprint.tokenizer)
    tokens = layout.prefix_tokens()
    match = reader.store.find(reader.fingerprint, tokens)
    if match is None or missing_seconds(match, len(tokens)) > MISSING_SECONDS:
        return Due(notebook, _missing(stands.due, match, len(tokens)), _read_it(notebook))
    restored = restore(desk.engine, reader.store, reader.fingerprint, tokens, more_than=len(layout.tokens[0]))
    if restored.tokens < match.common:
        return Due(notebook, "; ".join(restored.refused) or "what was read is gone", _read_it(notebook))
    return Held(notebook, layout, restored)


def missing_seconds(match: Match, tokens: int) -> float:
    """Return what prefilling the rest of ``tokens`` takes at most, by what reading the beginning took."""
    header = match.snapshot.header
    return _LAST_TO_MEAN * header.seconds / header.tokens * (tokens - match.common)


def laid(desk: Desk, notebook: Notebook) -> Layout:
    """Return ``notebook`` laid out for the engine. Raises ContextOverflow, EngineError, WorkspaceError."""
    passages = desk.notebooks.passages(notebook)
    if desk.reader is None:
        return lay_out(desk.engine, passages, reserve=reserve_of(desk.engine.context))
    return laid_out(desk.notebooks, notebook.name, passages, desk.engine, desk.reader.fingerprint.tokenizer)


def unread(desk: Desk, layout: Layout) -> tuple[int, Interval | None]:
    """Return how many tokens of a notebook are not read yet, and what reading them takes, where that is known."""
    tokens = layout.prefix_tokens()
    match = None if desk.reader is None else desk.reader.store.find(desk.reader.fingerprint, tokens)
    common = 0 if match is None else match.common
    whole, held = desk.seconds(len(tokens)), desk.seconds(common) if common else Interval(0, 0, 0)
    if whole is None or held is None:
        return len(tokens) - common, None
    seconds = Interval(*(max(0.0, end - start) for start, end in zip(_ends(held), _ends(whole), strict=True)))
    return len(tokens) - common, seconds


def read_now(desk: Desk, notebook: Notebook, layout: Layout, progress: Progress = SILENT) -> Held:
    """Read ``notebook`` and keep what was read, if the engine can. Raises what reading raises."""
    if desk.reader is None:
        return Held(notebook, layout)
    report, _ = desk.reader.read(desk.notebooks, notebook, progress)
    return Held(notebook, layout, read=report)


def _lies_in(hit: Hit, member: Member) -> bool:
    line = hit.passage.first_line
    return (
        hit.passage.path == member.path
        and (member.first_line or 0) <= line
        and (member.last_line is None or line <= member.last_line)
    )


def _missing(due: str, match: Match | None, tokens: int) -> str:
    why = due or "it is not read to its end"
    if match is None:
        return why
    takes = missing_seconds(match, tokens)
    return f"{why}, and reading {tokens - match.common:,} of its {tokens:,} tokens takes about {takes:,.0f} s"


def _read_it(notebook: Notebook) -> str:
    name = f'"{notebook.name}"' if " " in notebook.name else notebook.name
    return f"read it with `quietmind read {name}`"


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.low, interval.mid, interval.high
