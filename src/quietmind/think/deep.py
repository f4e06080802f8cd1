"""A question to every notebook that holds evidence, one after the other, and one answer joined from theirs.

Each partial answer is checked like any other; what no passage supports is dropped and counted, what says nothing new is
merged, and what differs is set side by side. The model may compose the final text only if every sentence of it is
supported and nothing that was found is lost; otherwise the partial answers stand as they are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from quietmind.base.errors import EngineError
from quietmind.engine.port import Engine, Message, Timings
from quietmind.notes.document import Passage
from quietmind.think.answer import NO_ENGINE, Answer, AskTimings, Event, Found, Loading, Notice, Part, TakingUp, Text
from quietmind.think.ask import RANKED_BY, looked_for, nothing_found, relevant, require_question
from quietmind.think.asked import Asked
from quietmind.think.draft import CLOSEST_INSTEAD, Borne, Draft, cited, marks
from quietmind.think.exchange import Exchange, ms_since
from quietmind.think.joining import Finding, differing, findings, merged
from quietmind.think.notebook_ask import sheet_of
from quietmind.think.prompts import composing
from quietmind.think.sheet import Sheet, passages_sheet
from quietmind.think.support import Support
from quietmind.workspace.choose import Desk, Due, Evidence, evidence, worth_asking
from quietmind.workspace.pack import Given
from quietmind.workspace.workspace import Workspace

_Key = tuple[str, int, str]

# A sentence that is an item of a list begins a line of its own.
_LISTED = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)])\s")


def ask_deep(
    workspace: Workspace,
    question: str,
    start_engine: Callable[[], Engine],
    desk: Callable[[Engine], Desk],
    *,
    passages: int,
    max_tokens: int,
    earlier: Sequence[Message] = (),
) -> Generator[Event]:
    """Answer ``question`` from every notebook that holds evidence, best first, and from the notes that are in none.

    One that cannot be restored gives at most ``passages`` of its notes. Each partial answer takes at most
    ``max_tokens``. ``earlier``, engine and errors are as with :func:`quietmind.think.ask.ask`, but that an engine which
    fails later than in the first leaves the answer to those that were given.
    """
    require_question(question)
    began = time.perf_counter()
    asked, found = looked_for(workspace, Asked.after(question, earlier), max(passages, RANKED_BY))
    hits = relevant(found)
    search_ms = ms_since(began)
    if not hits:
        yield Found(())
        yield nothing_found(question, search_ms)
        return

    yield Loading()
    loading = time.perf_counter()
    with start_engine() as engine:
        load_ms = ms_since(loading)
        at = desk(engine)
        if not at.notebooks.all():
            yield Notice("there are no notebooks to ask; make some with `quietmind notebook auto`")
        parts = _Parts(at, asked, passages, max_tokens)
        places = worth_asking(evidence(at.notebooks.all(), hits))
        for number, place in enumerate(places, 1):
            try:
                yield from parts.ask(place, f"{number} of {len(places)}")
            except EngineError as error:
                if not parts.done:
                    raise
                yield Notice(f"{len(places) - number + 1} of {len(places)} not asked: {error}")
                break
        joined = _Joined.of(parts.findings)
        text, borne = yield from _together(parts, joined, engine)
        model = engine.model
    yield Text(text)
    yield Answer(
        question=question,
        text=text,
        citations=cited(borne, joined.numbered(each.passage for each in parts.nearest[:CLOSEST_INSTEAD]), asked.query),
        unsupported=(),
        given=tuple(joined.given.values()),
        timings=AskTimings(search_ms, load_ms, parts.first_token_ms, ms_since(began), parts.engine),
        model=model,
        found=True,
        parts=tuple(parts.done),
        disagreements=joined.disagreements,
    )


def _together(parts: _Parts, joined: _Joined, engine: Engine) -> Generator[Notice, None, tuple[str, list[Borne]]]:
    """Return the text of what was found and what bears it: one that the model made, if it can and holds all of it."""
    if len({finding.part for finding in joined.agreeing}) <= 1 or not engine.healthy():
        return joined.text, joined.borne
    yield Notice(f"composing one answer of {len(joined.agreeing)} statements")
    composed = parts.composed(joined)
    if composed is None:
        yield Notice("the composed answer did not hold all that was found, so that the partial ones are shown")
        return joined.text, joined.borne
    return composed.text, [*composed.borne, *joined.borne_apart]


class _Parts:
    """The partial answers: asked one by one, with what they found and what they took."""

    def __init__(self, desk: Desk, asked: Asked, passages: int, max_tokens: int) -> None:
        self.done: list[Part] = []
        self.findings: list[Finding] = []
        self.nearest: tuple[Given, ...] = ()
        self.first_token_ms = 0.0
        self.engine = NO_ENGINE
        self._desk = desk
        self._asked = asked
        self._passages = passages
        self._max_tokens = max_tokens

    def ask(self, place: Evidence, which: str) -> Iterator[TakingUp | Found | Notice]:
        """Ask what lies in ``place``: the notebook whole where it can be restored, else the best of its passages."""
        name = place.notebook.name if place.notebook else None
        shown = f"notebook {name!r}" if name else "what is in no notebook"
        why = "in no notebook"
        sheet: Sheet | None = None
        if place.notebook is not None:
            yield TakingUp(place.notebook.name)
            taken = sheet_of(self._desk, place.notebook, self._asked, place.hits, self._max_tokens)
            sheet, why = (None, taken.why) if isinstance(taken, Due) else (taken, "")
        sheet = sheet or passages_sheet(self._desk.engine, self._asked, place.hits[: self._passages], self._max_tokens)
        yield Found(sheet.given, sheet.unread)
        exchange = self._exchanged(sheet)
        found = findings(exchange.draft.borne, len(self.done))
        dropped = tuple(exchange.draft.unsupported)
        kept = tuple(finding.sentence for finding in found)
        self.done.append(Part(name, exchange.notebook, why, kept, dropped, exchange.stopped_early))
        self.findings += found
        self.nearest = self.nearest or sheet.nearest
        whole = exchange.notebook
        how = f"restored {whole.restored:,} tokens" if whole else _given(sheet, place)
        shown += f" ({why})" if name and why else ""
        yield Notice(f"{shown}, {which}: {how}; sentences: {len(kept)} kept, {len(dropped)} dropped as unsupported")

    def composed(self, joined: _Joined) -> Draft | None:
        """Return one answer that the model made of what was found; None where it fails a check or loses something."""
        engine = self._desk.engine
        prompt = engine.render(composing(self._asked.question, [joined.statement(each) for each in joined.agreeing]))
        room = min(engine.context - len(engine.tokenize(prompt)), self._max_tokens * len(self.done))
        if room < 1:
            return None
        given = joined.numbered(source.passage for finding in joined.agreeing for source in finding.sources)
        exchange = self._exchanged(Sheet(given, given, prompt, 0, room, "the end of the context", self._asked))
        draft = exchange.draft
        if exchange.stopped_early or draft.unsupported or not joined.is_whole_in(draft.borne):
            return None
        return draft

    def _exchanged(self, sheet: Sheet) -> Exchange:
        exchange = Exchange(self._desk.engine, sheet)
        for _ in exchange.texts():
            pass
        self.first_token_ms = self.first_token_ms or exchange.first_token_ms
        self.engine = _sum(self.engine, exchange.timings)
        return exchange


@dataclass(frozen=True)
class _Joined:
    """What all partial answers found together: what agrees, and the pairs that differ.

    ``given`` are the passages that bear it, numbered in the order in which they are cited.
    """

    agreeing: tuple[Finding, ...]
    pairs: tuple[tuple[Finding, Finding], ...]
    given: dict[_Key, Given]

    @classmethod
    def of(cls, every: Sequence[Finding]) -> _Joined:
        """Merge ``every``, and take out what differs."""
        kept = merged(every)
        pairs = tuple(differing(kept))
        apart = [one for pair in pairs for one in pair]
        joined = cls(tuple(finding for finding in kept if finding not in apart), pairs, {})
        joined.numbered(source.passage for finding in (*joined.agreeing, *apart) for source in finding.sources)
        return joined

    def numbered(self, passages: Iterable[Passage]) -> tuple[Given, ...]:
        """Return ``passages`` under their numbers; those that have none yet get the next ones."""
        found = {}
        for passage in passages:
            key = (str(passage.path), passage.first_line, passage.text)
            found[key] = self.given.setdefault(key, Given(len(self.given) + 1, passage, 0.0, 0))
        return tuple(found.values())

    @property
    def text(self) -> str:
        """The partial answers one below the other, without what differs."""
        parts: dict[int, str] = {}
        for finding in self.agreeing:
            before = parts.get(finding.part, "")
            gap = "" if not before else "\n" if _LISTED.match(finding.sentence) else " "
            parts[finding.part] = f"{before}{gap}{self._marked(finding)}"
        return "\n\n".join(parts.values())

    @property
    def disagreements(self) -> tuple[tuple[str, str], ...]:
        """The pairs that differ, with their marks."""
        return tuple((self._marked(one), self._marked(other)) for one, other in self.pairs)

    def statement(self, finding: Finding) -> str:
        """Return a finding as the model is to compose it: its marks in front."""
        return f"{marks(self._bearing(finding))} {finding.sentence}"

    def is_whole_in(self, borne: Sequence[Borne]) -> bool:
        """Say whether ``borne`` holds words of each agreeing finding's sources."""
        places = [(each.given.number, each.support) for each in borne]
        return all(
            any(
                number == each.given.number and support.start < each.support.end and each.support.start < support.end
                for each in self._bearing(finding)
                for number, support in places
            )
            for finding in self.agreeing
        )

    @property
    def borne(self) -> list[Borne]:
        """All that bears what was found."""
        return [*self._bearing(*self.agreeing), *self.borne_apart]

    @property
    def borne_apart(self) -> list[Borne]:
        """What bears the sentences that differ."""
        return self._bearing(*(one for pair in self.pairs for one in pair))

    def _marked(self, finding: Finding) -> str:
        return f"{finding.sentence} {marks(self._bearing(finding))}"

    def _bearing(self, *found: Finding) -> list[Borne]:
        return [
            Borne(finding.sentence, given, Support(source.start, source.end, 1.0))
            for finding in found
            for source in finding.sources
            for given in self.numbered([source.passage])
        ]


def _given(sheet: Sheet, place: Evidence) -> str:
    """Return how many passages of ``place`` were given, and how many that are about the question were not."""
    left = len(place.hits) - len(sheet.given)
    return f"passages given: {len(sheet.given)}" + (f", left out: {left}" if left else "")


def _sum(one: Timings, other: Timings) -> Timings:
    return Timings(
        one.cached + other.cached,
        one.prompt + other.prompt,
        one.prompt_ms + other.prompt_ms,
        one.predicted + other.predicted,
        one.predicted_ms + other.predicted_ms,
    )
