"""Answering from a notebook: the best one that is read, or one that is named; and what is said where none serves."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from quietmind.base.errors import ContextOverflow, DiskFull, SnapshotError
from quietmind.base.progress import Progress
from quietmind.notes.document import Hit
from quietmind.think.answer import Notice, TakingUp
from quietmind.think.sheet import Sheet, notebook_sheet
from quietmind.workspace.choose import (
    ANSWERS_ALONE,
    LARGER,
    WORTH_ASKING,
    Desk,
    Due,
    Held,
    evidence,
    holding,
    laid,
    read_now,
    take_up,
    unread,
)
from quietmind.workspace.notebook import Notebook


def chosen_sheet(
    desk: Desk, question: str, hits: Sequence[Hit], max_tokens: int
) -> Generator[TakingUp | Notice, None, Sheet | None]:
    """Return the sheet of the best notebook that is read and holds enough of ``hits``; None where none does.

    A better one that is due is named, in one line with the reason.
    """
    if desk.reader is None:
        return None
    ranked = evidence(desk.notebooks.all(), hits)
    first: Due | None = None
    for each in holding(ranked, ANSWERS_ALONE):
        if each.notebook is None:
            break  # what stands outside of all notebooks is the best there is, read or not
        yield TakingUp(each.notebook.name)
        taken = sheet_of(desk, each.notebook, question, hits, max_tokens)
        if isinstance(taken, Due):
            first = first or taken
            continue
        if first is not None:
            yield Notice(unused(first))
        said = {each.notebook.name, first.notebook.name if first else None}
        holders = {one.notebook.name for one in holding(ranked, WORTH_ASKING) if one.notebook is not None}
        if others := len(holders - said):
            more = "1 more notebook holds" if others == 1 else f"{others} more notebooks hold"
            yield Notice(f"{more} something on this; --deep asks them all")
        return taken
    if first is not None:
        yield Notice(f"{unused(first)}; answering from passages")
    return None


def named_sheet(
    desk: Desk, name: str, question: str, hits: Sequence[Hit], max_tokens: int, progress: Progress
) -> Generator[TakingUp | Notice, None, Sheet]:
    """Return the sheet of the notebook ``name``, which is read now unless it can be restored.

    Raises ContextOverflow where the question does not fit beside it, and what reading raises.
    """
    notebook = desk.notebooks.named(name)
    yield TakingUp(name)
    taken = take_up(desk, notebook)
    if isinstance(taken, Due):
        notebook, layout = taken.notebook, laid(desk, taken.notebook)
        tokens, seconds = unread(desk, layout)
        takes = "" if seconds is None else f", about {seconds} s"
        kept = "; it is kept for the next question" if desk.reader else ""
        yield Notice(f"notebook {name!r}: {taken.why}; reading {tokens:,} tokens now{takes}{kept}")
        try:
            taken = read_now(desk, notebook, layout, progress)
        except (SnapshotError, DiskFull) as error:
            yield Notice(f"notebook {name!r} is read and not kept: {error}")
            taken = Held(notebook, layout)
    sheet = notebook_sheet(desk.engine, question, taken, hits, max_tokens)
    if sheet.max_tokens < max_tokens:
        yield Notice(f"the answer may take {sheet.cut_at}")
    if taken.layout.left_out:
        count = len(taken.layout.left_out)
        yield Notice(
            f"{count:,} of the passages of notebook {name!r} have no room in a context of {desk.engine.context:,}"
        )
    return sheet


def unused(due: Due) -> str:
    """Return the line that says why a notebook is not used, and what mends that."""
    return f"notebook {due.notebook.name!r} holds this and is not used: {due.why}{due.mend and '; '}{due.mend}"


def sheet_of(desk: Desk, notebook: Notebook, question: str, hits: Sequence[Hit], max_tokens: int) -> Sheet | Due:
    """Return the sheet of ``notebook`` if it can be restored and what is about the question is in it, else why not."""
    taken = take_up(desk, notebook)
    if isinstance(taken, Due):
        return taken
    try:
        sheet = notebook_sheet(desk.engine, question, taken, hits, max_tokens)
    except ContextOverflow as error:
        return Due(taken.notebook, str(error))
    if not sheet.nearest:
        return Due(taken.notebook, "what is about this has no room in the context", LARGER)
    return sheet
