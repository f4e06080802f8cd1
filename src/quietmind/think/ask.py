"""A question to the archive: find, pack, answer, and check every sentence against the files.

``ask`` yields what happens as it happens, so that a caller can show it: which passages were found, the text as it is
generated (with only those marks that were checked), and at the end the whole answer with its citations.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from quietmind.base.errors import ContextOverflow, UsageError
from quietmind.engine.port import Engine, Finished, Request, Timings
from quietmind.notes.document import Hit
from quietmind.think.prompts import conversation, stop_words
from quietmind.think.sentences import Claim, ClaimStream
from quietmind.think.support import Support, closest, find_support, is_claim
from quietmind.think.verify import Citation, Verifier
from quietmind.workspace.pack import Given, pack
from quietmind.workspace.workspace import Workspace

# A passage that holds less of the question's weight than this is not about it. Low on purpose: to refuse a question
# that the notes answer is worse than to ask the model one that they do not, since its answer is checked. See
# benchmarks/relevance.py.
RELEVANT_COVERAGE = 0.25
# One that holds less than this share of what the best one holds would only dilute the context.
BESIDE_THE_BEST = 0.5
# Stands behind a sentence that no passage supports.
UNSUPPORTED_MARK = "[?]"
_CLOSEST_SHOWN = 3
# A few words again and again at the end of the text: weak models fall into this and do not come out.
_LOOP = re.compile(r"(.{6,80}?)\1{4,}\Z", re.DOTALL)
_LOOP_CHARS = 480


@dataclass(frozen=True)
class AskTimings:
    """Where the time of one question went, in milliseconds; ``engine`` holds what the engine itself measured."""

    search_ms: float
    load_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    engine: Timings | None = None


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


@dataclass
class _Draft:
    """The answer while it grows."""

    given: tuple[Given, ...]
    text: str = ""
    borne: list[tuple[Given, Support, str]] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    sentences: set[str] = field(default_factory=set)
    repeated: bool = False

    def judge(self, claim: Claim) -> str:
        """Take in a finished sentence and return the marks to show behind it.

        A mark that the model set counts only if that passage supports the sentence; where none of its marks does,
        the other passages it was given are tried.
        """
        key = " ".join(claim.text.lower().split())
        self.repeated = self.repeated or key in self.sentences
        self.sentences.add(key)
        if not is_claim(claim.text):
            return ""
        named = [given for given in self.given if given.number in claim.marks]
        others = [given for given in self.given if given.number not in claim.marks]
        borne = self._bearing(named, claim) or self._bearing(others, claim)[:1]
        if not borne:
            self.unsupported.append(claim.text)
            return f" {UNSUPPORTED_MARK}"
        self.borne += [(given, support, claim.text) for given, support in borne]
        return " " + "".join(f"[{given.number}]" for given, _ in borne)

    @staticmethod
    def _bearing(given: Sequence[Given], claim: Claim) -> list[tuple[Given, Support]]:
        """Return the passages that support the claim, the one that holds most of its words first."""
        found = [
            (one, support)
            for one in given
            if (support := find_support(claim.text, one.passage.text, one.passage.place))
        ]
        return sorted(found, key=lambda pair: -pair[1].share)


def ask(
    workspace: Workspace,
    question: str,
    start_engine: Callable[[], Engine],
    *,
    passages: int,
    max_tokens: int,
) -> Generator[Found | Text | Answer]:
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

    loading = time.perf_counter()
    with start_engine() as engine:
        load_ms = _ms_since(loading)
        given, prompt = _prompt(engine, question, hits, max_tokens)
        yield Found(given)
        draft = _Draft(given)
        asked = time.perf_counter()
        first_token_ms, finished = 0.0, None
        for event in _generate(engine, Request(prompt, max_tokens, stop=stop_words(question)), draft):
            if isinstance(event, Finished):
                finished = event
                continue
            first_token_ms = first_token_ms or _ms_since(asked)
            draft.text += event.text
            yield event
        model = engine.model
    yield Answer(
        question=question,
        text=draft.text,
        citations=_citations(question, draft),
        unsupported=tuple(draft.unsupported),
        given=given,
        timings=AskTimings(
            search_ms, load_ms, first_token_ms, _ms_since(began), finished.timings if finished else None
        ),
        model=model,
        found=True,
        stopped_early=_why_stopped(draft, finished, max_tokens),
    )


def relevant(hits: Sequence[Hit]) -> list[Hit]:
    """Return those of ``hits`` that are about the question, in their order."""
    best = max((hit.coverage for hit in hits), default=0.0)
    return [hit for hit in hits if hit.coverage >= max(RELEVANT_COVERAGE, BESIDE_THE_BEST * best)]


def _prompt(engine: Engine, question: str, hits: Sequence[Hit], max_tokens: int) -> tuple[tuple[Given, ...], str]:
    """Pack what fits beside the question and ``max_tokens`` of answer; return the passages and the prompt."""
    bare = len(engine.tokenize(engine.render(conversation(question, ()))))
    budget = engine.context - max_tokens - bare
    given = pack(hits, budget, lambda text: len(engine.tokenize(text)))
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


def _generate(engine: Engine, request: Request, draft: _Draft) -> Iterator[Text | Finished]:
    """Yield the text of the answer with checked marks. Stops a model that has begun to repeat itself."""
    stream = ClaimStream()
    events = engine.generate(request)
    for event in events:
        if isinstance(event, Finished):
            yield event
            break
        yield from _shown(stream.feed(event.text), draft)
        draft.repeated = draft.repeated or _LOOP.search(draft.text[-_LOOP_CHARS:]) is not None
        if draft.repeated:
            events.close()  # tells the engine to stop
            break
    yield from _shown(stream.close(), draft)


def _shown(pieces: list[str | Claim], draft: _Draft) -> Iterator[Text]:
    for piece in pieces:
        text = draft.judge(piece) if isinstance(piece, Claim) else piece
        if text:
            yield Text(text)


def _citations(question: str, draft: _Draft) -> tuple[Citation, ...]:
    """Return a citation for each stretch of a note that the answer rests on; where there is none, the closest."""
    verifier = Verifier()
    borne: dict[tuple[int, int, int], list[str]] = {}
    for given, support, sentence in draft.borne:
        borne.setdefault((given.number, support.start, support.end), []).append(sentence)
    if not borne:
        for given in draft.given[:_CLOSEST_SHOWN]:
            near = closest(question, given.passage.text)
            borne[given.number, near.start, near.end] = []
    by_number = {given.number: given.passage for given in draft.given}
    citations = []
    for (number, start, end), sentences in borne.items():
        passage = by_number[number]
        quote = passage.text[start:end]
        standing, first, last = verifier.check(passage, quote)
        citations.append(Citation(number, passage.path, first, last, quote, standing, tuple(sentences)))
    return tuple(sorted(citations, key=lambda citation: (citation.number, citation.first_line)))


def _why_stopped(draft: _Draft, finished: Finished | None, max_tokens: int) -> str | None:
    if draft.repeated:
        return "the model began to repeat itself and was stopped"
    if finished is not None and finished.reason == "length":
        return f"the answer was cut at --max-tokens {max_tokens}"
    return None


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
