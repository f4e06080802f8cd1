"""A question to the archive: find, pack, answer, and check every sentence against the files.

``ask`` yields what happens as it happens, so that a caller can show it: which passages were found, the text as it is
generated (with only those marks that were checked), and at the end the whole answer with its citations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from quietmind.base.errors import ContextOverflow, UsageError
from quietmind.engine.port import Engine, Finished, Prompt, Request, Timings
from quietmind.notes.document import Hit
from quietmind.think.draft import Draft
from quietmind.think.prompts import conversation, stop_words
from quietmind.think.support import closest
from quietmind.think.verify import Citation
from quietmind.workspace.pack import Given, pack
from quietmind.workspace.workspace import Workspace

# A passage that holds less of the question's weight than this is not about it. Low on purpose: to refuse a question
# that the notes answer is worse than to ask the model one that they do not, since its answer is checked. See
# benchmarks/relevance.py.
RELEVANT_COVERAGE = 0.12
# One that holds less than this share of what the best one holds would only dilute the context.
BESIDE_THE_BEST = 0.5

_NO_ENGINE = Timings(cached=0, prompt=0, prompt_ms=0.0, predicted=0, predicted_ms=0.0)


@dataclass(frozen=True)
class AskTimings:
    """Where the time of one question went, in milliseconds.

    ``engine`` is what the engine itself measured; for an answer that we stopped, what we saw of it.
    """

    search_ms: float
    load_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    engine: Timings = _NO_ENGINE


@dataclass(frozen=True)
class Loading:
    """Something relevant was found, and the model is being loaded, which may take minutes."""


@dataclass(frozen=True)
class Found:
    """The passages that the model is given."""

    given: tuple[Given, ...]


@dataclass(frozen=True)
class Text:
    """The next piece of the answer to show."""

    text: str


@dataclass(frozen=True)
class Answer:
    """What was answered. ``text`` is the joined Text pieces. ``found`` is False when no passage was relevant."""

    question: str
    text: str
    citations: tuple[Citation, ...]
    unsupported: tuple[str, ...]
    given: tuple[Given, ...]
    timings: AskTimings
    model: str | None
    found: bool
    stopped_early: str | None = None


def ask(
    workspace: Workspace,
    question: str,
    start_engine: Callable[[], Engine],
    *,
    passages: int,
    max_tokens: int,
) -> Generator[Loading | Found | Text | Answer]:
    """Answer ``question`` from the notes in ``workspace``, giving the model at most ``passages`` of them.

    The engine is started only when something relevant was found, and is stopped before the Answer is yielded (and
    when the iterator is closed early). Raises UsageError for an empty question, ContextOverflow for one that leaves no
    room for notes, NothingIndexed, and whatever the engine raises.
    """
    if not question.strip():
        raise UsageError('the question is empty; ask like this: quietmind ask "How does the hub pair?"')
    began = time.perf_counter()
    hits = relevant(workspace.search(question, passages))
    search_ms = _ms_since(began)
    if not hits:
        yield Found(())
        timings = AskTimings(search_ms, total_ms=_ms_since(began))
        yield Answer(question, "", (), (), (), timings, model=None, found=False)
        return

    yield Loading()
    loading = time.perf_counter()
    with start_engine() as engine:
        load_ms = _ms_since(loading)
        given, prompt = _prompt(engine, question, hits, max_tokens)
        yield Found(given)
        draft, run = Draft(given), _Run()
        for text in _generate(engine, Request(prompt, max_tokens, stop=stop_words(question)), draft, run):
            yield Text(text)
        model = engine.model
        measured = run.measured or _seen(engine, prompt, run)
    yield Answer(
        question=question,
        text=draft.text,
        citations=draft.citations(question),
        unsupported=tuple(draft.unsupported),
        given=given,
        timings=AskTimings(search_ms, load_ms, run.first_token_ms, _ms_since(began), measured),
        model=model,
        found=True,
        stopped_early=run.stopped_early,
    )


def relevant(hits: Sequence[Hit]) -> list[Hit]:
    """Return those of ``hits`` that are about the question, in their order."""
    best = max((hit.coverage for hit in hits), default=0.0)
    return [hit for hit in hits if hit.coverage >= max(RELEVANT_COVERAGE, BESIDE_THE_BEST * best)]


def _prompt(engine: Engine, question: str, hits: Sequence[Hit], max_tokens: int) -> tuple[tuple[Given, ...], Prompt]:
    """Pack what fits beside the question and ``max_tokens`` of answer; return the passages and the prompt."""
    bare = len(engine.tokenize(engine.render(conversation(question, ()))))
    budget = engine.context - max_tokens - bare
    given = pack(
        hits,
        budget,
        count=lambda text: len(engine.tokenize(text)),
        focus=lambda text: closest(question, text).start,
    )
    while given:
        prompt = engine.render(conversation(question, given))
        if len(engine.tokenize(prompt)) + max_tokens <= engine.context:
            return given, prompt
        given = given[:-1]
    raise ContextOverflow(
        f"the question takes {bare:,} tokens and {max_tokens:,} are kept for the answer, which leaves no room for "
        f"notes in a context of {engine.context:,}; ask more briefly or give a larger --context",
        needed=bare + max_tokens,
        context=engine.context,
    )


@dataclass
class _Run:
    """What a generation showed of itself, seen from here. Milliseconds since it was asked for; a piece is a token."""

    pieces: int = 0
    first_token_ms: float = 0.0
    last_token_ms: float = 0.0
    measured: Timings | None = None
    stopped_early: str | None = None


def _generate(engine: Engine, request: Request, draft: Draft, run: _Run) -> Iterator[str]:
    """Yield the text of the answer with checked marks. Stops a model that has begun to repeat itself."""
    began = time.perf_counter()
    events = engine.generate(request)
    for event in events:
        if isinstance(event, Finished):
            run.measured = event.timings
            if event.reason == "length":
                run.stopped_early = f"the answer was cut at --max-tokens {request.max_tokens}"
            break
        run.pieces += 1
        run.last_token_ms = _ms_since(began)
        run.first_token_ms = run.first_token_ms or run.last_token_ms
        yield from draft.take(event.text)
        if draft.repeats_itself:
            events.close()  # tells the engine to stop
            run.stopped_early = "the model began to repeat itself and was stopped"
            break
    yield from draft.close(whole=run.stopped_early is None)


def _seen(engine: Engine, prompt: str, run: _Run) -> Timings:
    """Return the timings of a generation that was broken off, which the engine no longer reports."""
    return Timings(
        cached=0,
        prompt=len(engine.tokenize(prompt)),
        prompt_ms=run.first_token_ms,
        predicted=run.pieces,
        predicted_ms=run.last_token_ms - run.first_token_ms,
    )


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
