"""Answering from a notebook: the best one that is read, or one that is named; and what is said where none serves."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager

from quietmind.base.errors import ContextOverflow, DiskFull, SnapshotError
from quietmind.base.progress import Progress
from quietmind.notes.document import Hit
from quietmind.think.answer import Notice, TakingUp
from quietmind.think.asked import Asked
from quietmind.think.sheet import Sheet, notebook_sheet, passages_sheet
from quietmind.workspace.choose import (
    ANSWERS_ALONE,
    LARGER,
    Desk,
    Due,
    Held,
    evidence,
    holding,
    laid,
    read_now,
    take_up,
    unread,
    worth_asking,
)
from quietmind.workspace.notebook import Notebook


def chosen_sheet(
    desk: Desk, asked: Asked, hits: Sequence[Hit], max_tokens: int
) -> Generator[TakingUp | Notice, None, Sheet | None]:
    """Return the sheet of the best notebook that is read and holds enough of ``hits``; None where none does.

    A better one that is due is named, in one line with the reason.
    """
    if desk.reader is None:
        if desk.keeps_nothing:
            yield Notice(f"no notebook is used: {desk.keeps_nothing}")
        return None
    ranked = evidence(desk.notebooks.all(), hits)
    first: Due | None = None
    for each in holding(ranked, ANSWERS_ALONE):
        if each.notebook is None:
            break  # what stands outside of all notebooks is the best there is, read or not
        yield TakingUp(each.notebook.name)
        taken = sheet_of(desk, each.notebook, asked, hits, max_tokens)
        if isinstance(taken, Due):
            first = first or taken
            continue
        if first is not None:
            yield Notice(unused(first))
        said = {each.notebook.name, first.notebook.name if first else None}
        holders = {one.notebook.name for one in worth_asking(ranked) if one.notebook is not None}
        if others := len(holders - said):
            more = "1 more notebook holds" if others == 1 else f"{others} more notebooks hold"
            yield Notice(f"{more} something on this; --deep asks them all")
        return taken
    if first is not None:
        yield Notice(f"{unused(first)}; answering from passages")
    return None


def named_sheet(
    desk: Desk,
    name: str,
    asked: Asked,
    hits: Sequence[Hit],
    *,
    passages: int,
    max_tokens: int,
    progress: Callable[[], AbstractContextManager[Progress]],
) -> Generator[TakingUp | Notice, None, Sheet]:
    """Return the sheet of the notebook ``name``, which is read now unless it can be restored; ``progress`` shows that.

    In a context that is too small for what was read of it, the sheet of at most ``passages`` of its passages: reading
    it again would put less in the place of more. Raises ContextOverflow where the question does not fit beside the
    notes, or nothing of them is about it, and what reading raises.
    """
    notebook = desk.notebooks.named(name)
    yield TakingUp(name)
    taken = take_up(desk, notebook)
    if isinstance(taken, Due) and taken.mend == LARGER:
        within = next((each.hits for each in evidence([taken.notebook], hits) if each.notebook), ())
        if not within:
            raise ContextOverflow(
                f"notebook {name!r}: {taken.why}, and none of its passages is about the question; {taken.mend}",
                needed=taken.notebook.reading.tokens if taken.notebook.reading else 0,
                context=desk.engine.context,
            )
        yield Notice(f"notebook {name!r} is not used whole: {taken.why}; {taken.mend}")
        return passages_sheet(desk.engine, asked, within[:passages], max_tokens)
    if isinstance(taken, Due):
        taken = yield from _read(desk, taken, progress)
    sheet = notebook_sheet(desk.engine, asked, taken, hits, max_tokens)
    if sheet.max_tokens < max_tokens:
        yield Notice(f"the answer may take {sheet.cut_at}")
    if left := len(taken.layout.left_out):
        context = desk.engine.context
        yield Notice(
            f"notebook {name!r} is not whole: {left:,} of its passages have no room in a context of {context:,}"
        )
    return sheet


def _read(
    desk: Desk, due: Due, progress: Callable[[], AbstractContextManager[Progress]]
) -> Generator[Notice, None, Held]:
    """Say what reading a notebook costs, and read it. One that cannot be kept is read all the same."""
    notebook, layout = due.notebook, laid(desk, due.notebook)
    tokens, seconds = unread(desk, layout)
    takes = "" if seconds is None else f", about {seconds} s"
    kept = "; it is kept for the next question" if desk.reader else ""
    yield Notice(f"notebook {notebook.name!r}: {due.why}; reading {tokens:,} tokens now{takes}{kept}")
    try:
        with progress() as shown:
            return read_now(desk, notebook, layout, shown)
    except (SnapshotError, DiskFull) as error:
        yield Notice(f"notebook {notebook.name!r} is read and not kept: {error}")
        return Held(notebook, layout)


def unused(due: Due) -> str:
    """Return the line that says why a notebook is not used, and what mends that."""
    return f"notebook {due.notebook.name!r} holds this and is not used: {due.why}{due.mend and '; '}{due.mend}"


def sheet_of(desk: Desk, notebook: Notebook, asked: Asked, hits: Sequence[Hit], max_tokens: int) -> Sheet | Due:
    """Return the sheet of ``notebook`` if it can be restored and what is about the question is in it, else why not."""
    taken = take_up(desk, notebook)
    if isinstance(taken, Due):
        return taken
    try:
        sheet = notebook_sheet(desk.engine, asked, taken, hits, max_tokens)
    except ContextOverflow as error:
        return Due(taken.notebook, str(error))
    if not sheet.nearest:
        return Due(taken.notebook, "what is about this has no room in the context", LARGER)
    return sheet
