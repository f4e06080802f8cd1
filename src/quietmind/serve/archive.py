"""The notes of a workspace as a model that answers: questions take their turn at an engine that runs.

Each question has a thread of its own, since searching, reading and generating block. It searches before it waits in
line, so that no search waits for the engine, and its turn ends with its thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from quietmind.base.errors import LineFull, UsageError
from quietmind.base.settings import Settings
from quietmind.engine.cancel import Cancel
from quietmind.engine.port import Engine, Message
from quietmind.engine.shared import Shared
from quietmind.notes.filtering import Filter
from quietmind.serve.embedders import Embedders
from quietmind.serve.lane import Lane
from quietmind.serve.threads import in_thread
from quietmind.serve.turns import MOST_WAITING, Ticket
from quietmind.think.answer import Answer, Event, Text
from quietmind.think.ask import ask
from quietmind.think.deep import ask_deep
from quietmind.workspace.choose import Desk
from quietmind.workspace.elsewhere import searched_elsewhere
from quietmind.workspace.embedding import Searcher, chosen
from quietmind.workspace.workspace import Workspace

if TYPE_CHECKING:
    from quietmind.workspace.supervise import Supervised

# After so many seconds in which nothing happened, whoever asked is told that it goes on.
SIGN_OF_LIFE = 10.0
# How often, in seconds, an engine that is being started is looked at.
_LOOK_EVERY = 0.05
# Calls that work on the workspace at once, and questions that search: more of them would only take turns at the
# processor, and the event loop, which is one thread among theirs, would be late for everybody, cancellations too.
_CALLS = 4

# Characters of a question: some 50,000 tokens, and a second of searching.
LONGEST_QUESTION = 200_000

_Answer = TypeVar("_Answer")

MakeDesk = Callable[[Workspace, Engine], Desk]


@dataclass(frozen=True)
class Question:
    """What is asked. ``earlier`` are the turns before it, the oldest first.

    ``notebook`` names the one to ask, ``deep`` asks every one that holds evidence, and ``within`` keeps to some of the
    notes. ``passages`` and ``max_tokens`` None: what the settings say.
    """

    text: str
    earlier: tuple[Message, ...] = ()
    notebook: str | None = None
    deep: bool = False
    within: Filter | None = None
    passages: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class InLine:
    """So many requests come before this one; 0 once its turn has come. Told again when nothing happens for a while."""

    place: int


def no_notebooks(workspace: Workspace, engine: Engine) -> Desk:
    """Return a desk for an engine that cannot keep what it reads."""
    return Desk(workspace.notebooks, engine, None)


class Archive:
    """The notes of the workspace in ``folder``, which the engine of ``lane`` answers from. For one event loop.

    ``desk`` says where an engine takes up notebooks. ``tell`` gets, once each, the lines that the person should know.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        lane: Lane,
        desk: MakeDesk = no_notebooks,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.lane = lane
        self.desk = desk
        self._tell = tell
        self._told: set[str] = set()
        self.embedders = Embedders(self._warn)
        self._calls = asyncio.Semaphore(_CALLS)
        self.searching = threading.BoundedSemaphore(_CALLS)
        self._asking: set[_Asking] = set()  # each has a thread

    async def ask(self, question: Question) -> AsyncGenerator[Event | InLine]:
        """Yield what happens on the way to the answer, and the Answer last.

        Close it (``contextlib.aclosing``) when nobody wants the answer any more: its generation ends within a moment.
        Raises QuietmindError.
        """
        if len(question.text) > LONGEST_QUESTION:
            raise UsageError(
                f"the question has {len(question.text):,} characters, and at most {LONGEST_QUESTION:,} are looked for; "
                "ask more briefly"
            )
        if len(self._asking) >= MOST_WAITING + self.lane.turns.width:
            raise LineFull(f"{len(self._asking)} questions are being answered already; try again later")
        asking = _Asking(self, question)
        self._asking.add(asking)
        began, tally, silent = time.monotonic(), self.lane.tally, True
        async with aclosing(asking.events()) as events:
            async for event in events:
                if isinstance(event, Text) and silent:
                    silent = False
                    tally.first_token.add(time.monotonic() - began)
                elif isinstance(event, Answer):
                    tally.answered(event)
                yield event

    async def call(self, use: Callable[[Workspace], _Answer]) -> _Answer:
        """Return what ``use`` returns of the workspace, which is opened for it in a thread. Raises what it raises.

        Raises NothingIndexed where there is none.
        """

        def called() -> _Answer:
            with self.opened() as workspace:
                return use(workspace)

        async def in_turn() -> _Answer:
            async with self._calls:
                return await in_thread(called, None)

        # Seen through whatever becomes of its client: the thread that works is one of those that may.
        working = asyncio.ensure_future(in_turn())
        working.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(working)

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Within it the workspace is open for this thread, and searched as the settings say. Raises as Workspace."""
        with Workspace(self.folder) as workspace:
            elsewhere = searched_elsewhere(workspace.folder, self.settings, (), self._warn)
            wanted = chosen(self.settings.embedder)
            workspace.search_with(Searcher(workspace.folder, wanted, self.embedders.open, self._warn, elsewhere))
            yield workspace

    def close(self) -> None:
        """Let go of the models of embeddings."""
        self.embedders.close()

    def over(self, asking: _Asking) -> None:
        """Note that the thread of a question has ended."""
        self._asking.discard(asking)

    def _warn(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


@dataclass(frozen=True)
class _Ended:
    """The thread has come to its end; ``error`` is what it raised."""

    error: BaseException | None


class _WantsTurn:
    """The thread has found passages, and waits for its turn at the engine."""


class _Asking:
    """One question on its way through a thread of its own."""

    def __init__(self, archive: Archive, question: Question) -> None:
        self._archive = archive
        self._question = _spoken(question)
        self._cancel = Cancel()
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[Event | _WantsTurn | _Ended] = asyncio.Queue()
        self._turn = threading.Event()
        self._searches = False
        self._ticket: Ticket | None = None

    async def events(self) -> AsyncGenerator[Event | InLine]:
        """Yield what the thread says, and our place while it waits; the thread ends with the generator."""
        threading.Thread(target=self._run, name="question", daemon=True).start()
        try:
            while not isinstance(said := await self._next(), _Ended):
                if isinstance(said, _WantsTurn):
                    async for place in self._in_line():
                        yield place
                    self._turn.set()
                else:
                    yield said
            if said.error is not None:
                raise said.error
        finally:
            self._cancel.set()
            self._turn.set()

    async def _next(self) -> Event | InLine | _WantsTurn | _Ended:
        """Return what the thread says next; InLine where it says nothing for long."""
        try:
            return self._said.get_nowait()
        except asyncio.QueueEmpty:
            pass
        try:
            async with asyncio.timeout(SIGN_OF_LIFE):
                return await self._said.get()
        except TimeoutError:
            return InLine(0)

    async def _in_line(self) -> AsyncIterator[InLine]:
        """Yield our place until it is our turn, then 0 if it was not at once. Raises LineFull."""
        self._ticket = self._archive.lane.turns.join()
        waited = False
        while place := self._ticket.place:
            waited = True
            yield InLine(place)
            await self._ticket.wait(SIGN_OF_LIFE)
        if waited:
            yield InLine(0)

    def _run(self) -> None:
        """Answer the question, in the thread."""
        error: BaseException | None = None
        try:
            self._search()
            with self._archive.opened() as workspace, closing(self._thinking(workspace)) as events:
                for event in events:
                    self._say(event)
        except BaseException as raised:  # handed on, whatever it is
            error = raised
        self._searched()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._over, error)

    def _search(self) -> None:
        """Wait until there is room for one more that searches. Raises Cancelled."""
        self._archive.searching.acquire()
        self._searches = True
        self._cancel.require_wanted()

    def _searched(self) -> None:
        """Make room for the next one that searches, once."""
        if self._searches:
            self._searches = False
            self._archive.searching.release()

    def _over(self, error: BaseException | None) -> None:
        self._archive.over(self)
        if self._ticket is not None:
            self._archive.lane.turns.leave(self._ticket)
        self._said.put_nowait(_Ended(error))

    def _say(self, what: Event | _WantsTurn) -> None:
        self._cancel.require_wanted()
        self._loop.call_soon_threadsafe(self._said.put_nowait, what)

    def _thinking(self, workspace: Workspace) -> Generator[Event]:
        archive, question = self._archive, self._question
        passages = question.passages or archive.settings.passages
        max_tokens = question.max_tokens or archive.settings.max_tokens

        def desk(engine: Engine) -> Desk:
            return archive.desk(workspace, engine)

        if question.deep:
            return ask_deep(
                workspace,
                question.text,
                self._engine,
                desk,
                passages=passages,
                max_tokens=max_tokens,
                earlier=question.earlier,
            )
        return ask(
            workspace,
            question.text,
            self._engine,
            passages=passages,
            max_tokens=max_tokens,
            earlier=question.earlier,
            desk=desk if question.passages is None else None,
            notebook=question.notebook,
            within=question.within,
            rerank=archive.settings.rerank,
        )

    def _engine(self) -> Engine:
        """Return the engine once it is our turn, and it runs. Raises Cancelled, EngineGivenUp, EngineRefused."""
        self._searched()
        self._say(_WantsTurn())
        self._turn.wait()
        self._cancel.require_wanted()
        supervised: Supervised = self._archive.lane.supervised
        while supervised.state == "starting":
            self._cancel.wait(_LOOK_EVERY)
            self._cancel.require_wanted()
        return Shared(supervised, self._cancel)


def _spoken(question: Question) -> Question:
    """Return ``question`` in characters alone: half of one, which JSON can spell, is nothing that can be looked for."""

    def whole(text: str) -> str:
        return text.encode("utf-8", "replace").decode("utf-8")

    earlier = tuple(replace(message, content=whole(message.content)) for message in question.earlier)
    return replace(question, text=whole(question.text), earlier=earlier)
