"""A question to the archive: find, restore or pack, answer, and check every sentence against the files.

``ask`` yields what happens as it happens, so that a caller can show it: which passages were found, the text as it is
generated (with only those marks that were checked), and at the end the whole answer with its citations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from quietmind.base.errors import SnapshotError, UsageError
from quietmind.base.progress import SILENT, Progress
from quietmind.engine.port import Engine, Message
from quietmind.notes.document import Hit
from quietmind.notes.filtering import Filter
from quietmind.think.answer import Answer, AskTimings, Event, Found, Loading, Notice, TakingUp, Text
from quietmind.think.asked import Asked
from quietmind.think.exchange import Exchange, ms_since
from quietmind.think.notebook_ask import chosen_sheet, named_sheet
from quietmind.think.sheet import Sheet, passages_sheet
from quietmind.workspace.choose import Desk
from quietmind.workspace.reranking import FIRST as JUDGED
from quietmind.workspace.reranking import reranked
from quietmind.workspace.workspace import Workspace

# A passage that holds less of the question's weight than this is not about it. Low on purpose: to refuse a question
# that the notes answer is worse than to ask the model one that they do not, since its answer is checked. See
# benchmarks/relevance.py.
RELEVANT_COVERAGE = 0.12
# One that holds less than this share of what the best one holds would only dilute the context.
BESIDE_THE_BEST = 0.5
# So many of the nearest by meaning are given along, whatever words they use, where words vouch for the question: how
# near the nearest is does not tell a question that the notes answer from one that they do not.
NEAREST = 3
# And so many of those that say what the question says in the other language, where words in common are few.
CROSSED = 1
# Passages by which notebooks are told apart: more than are given to a model, fewer than search looks at closely.
RANKED_BY = 48


def ask(  # noqa: PLR0913 - what an answer depends on, each given by its name
    workspace: Workspace,
    question: str,
    start_engine: Callable[[], Engine],
    *,
    passages: int,
    max_tokens: int,
    earlier: Sequence[Message] = (),
    desk: Callable[[Engine], Desk] | None = None,
    notebook: str | None = None,
    within: Filter | None = None,
    rerank: bool = False,
    progress: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(SILENT),
) -> Generator[Event]:
    """Answer ``question`` from the notes in ``workspace``: from the notebook that holds the evidence, if one is read.

    Without a ``desk``, and where no notebook serves, at most ``passages`` of the notes are given to the model instead.
    ``notebook`` names the one to ask, whatever search finds; it is read now if it is not yet, which ``progress`` shows.
    Only passages ``within`` a filter are given; no notebook is asked then, since it holds what it holds. With
    ``rerank`` the model first judges which of the passages found answer, and is given the best of them. The turns
    ``earlier`` help to find what a question that goes on is about, and the model is told as much of them as has room.

    The engine is started only when there is something to ask, and is stopped before the Answer is yielded (and when
    the iterator is closed early). Raises UsageError for an empty question, a notebook that is none or a filter that
    leaves no notes, ContextOverflow for a question that leaves no room for notes, NothingIndexed, and whatever the
    engine and reading raise.
    """
    require_question(question)
    began = time.perf_counter()
    if notebook is not None:
        if within is not None:
            raise UsageError("a notebook is asked as a whole; leave out the filter, or --notebook")
        workspace.notebooks.named(notebook)
    asked, found = looked_for(
        workspace, Asked.after(question, earlier), max(passages, JUDGED) if rerank else passages, within
    )
    hits = relevant(found)
    search_ms = ms_since(began)
    if not hits and notebook is None:
        yield Found(())
        yield nothing_found(question, search_ms)
        return

    yield Loading()
    loading = time.perf_counter()
    with start_engine() as engine:
        load_ms = ms_since(loading)
        sheet: Sheet | None = None
        if desk is not None and within is None and (notebook is not None or workspace.notebooks.all()):
            wide = relevant(workspace.search(asked.query, max(passages, RANKED_BY)))
            if notebook is not None:
                sheet = yield from named_sheet(
                    desk(engine), notebook, asked, wide, passages=passages, max_tokens=max_tokens, progress=progress
                )
            else:
                sheet = yield from _chosen(lambda: desk(engine), asked, wide, max_tokens)
        if sheet is None:
            best = reranked(engine, asked.query, found)[:passages] if rerank else hits
            sheet = passages_sheet(engine, asked, best, max_tokens)
        if unheard := sheet.asked.unheard:
            yield Notice(unheard)
        yield Found(sheet.given, sheet.unread)
        exchange = Exchange(engine, sheet)
        yield from map(Text, exchange.texts())
        model = engine.model
    timings = AskTimings(search_ms, load_ms, exchange.first_token_ms, ms_since(began), exchange.timings)
    yield _answer(question, asked, exchange, timings, model)


def _answer(question: str, asked: Asked, exchange: Exchange, timings: AskTimings, model: str) -> Answer:
    """Return what ``exchange`` came to, with its citations."""
    draft = exchange.draft
    return Answer(
        question=question,
        text=draft.text,
        citations=draft.citations(asked.query),
        unsupported=tuple(draft.unsupported),
        given=exchange.sheet.given,
        timings=timings,
        model=model,
        found=True,
        stopped_early=exchange.stopped_early,
        notebook=exchange.notebook,
        cut=exchange.cut,
    )


def _chosen(
    desk: Callable[[], Desk], asked: Asked, hits: Sequence[Hit], max_tokens: int
) -> Generator[TakingUp | Notice, None, Sheet | None]:
    """Return what :func:`chosen_sheet` does; None also where the snapshots cannot be looked at."""
    try:
        return (yield from chosen_sheet(desk(), asked, hits, max_tokens))
    except SnapshotError as error:  # the notes answer without what was read of them
        yield Notice(f"no notebook is used: {error}")
        return None


def looked_for(workspace: Workspace, asked: Asked, limit: int, within: Filter | None = None) -> tuple[Asked, list[Hit]]:
    """Return ``asked`` with the first of its queries that leads to something, and the ``limit`` best passages."""
    found: list[Hit] = []
    for query in asked.queries:
        asked, found = replace(asked, query=query), workspace.search(query, limit, within)
        if relevant(found):
            break
    return asked, found


def require_question(question: str) -> None:
    """Raise UsageError for an empty question."""
    if not question.strip():
        raise UsageError('the question is empty; ask like this: quietmind ask "How does the hub pair?"')


def nothing_found(question: str, search_ms: float) -> Answer:
    """Return the answer to a question that nothing in the notes is about."""
    timings = AskTimings(search_ms, total_ms=search_ms)
    return Answer(question, "", (), (), (), timings, model=None, found=False)


def relevant(hits: Sequence[Hit]) -> list[Hit]:
    """Return those of ``hits`` that are about the question, in their order."""
    best = max((hit.coverage for hit in hits), default=0.0)
    if best < RELEVANT_COVERAGE:
        return []
    nearest = sorted((hit.similarity for hit in hits if hit.similarity is not None), reverse=True)[:NEAREST]
    crossed = sorted((hit.crossed for hit in hits if hit.crossed is not None), reverse=True)[:CROSSED]
    least = max(RELEVANT_COVERAGE, BESIDE_THE_BEST * best)
    return [hit for hit in hits if hit.coverage >= least or hit.similarity in nearest or hit.crossed in crossed]
