"""MCP through standard input and output, for an assistant that starts us: it lives as long as its client.

The model is started by the first question that needs it, or borrowed from a `quietmind up` that runs it, and let go
when nobody has asked for a while; what is borrowed is given back with each answer.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TypeVar

from mcp.server.stdio import stdio_server

from quietmind.base.errors import EngineError
from quietmind.base.settings import Settings
from quietmind.engine.port import Engine
from quietmind.serve.archive import Archive, InLine, Question
from quietmind.serve.lane import Lane
from quietmind.serve.mcp_server import server_of
from quietmind.serve.threads import in_thread
from quietmind.think.answer import Event
from quietmind.workspace.asked_model import AskedModel
from quietmind.workspace.choose import Desk
from quietmind.workspace.on_demand import OnDemand
from quietmind.workspace.supervise import Attempt, Pause, Supervised
from quietmind.workspace.workspace import Workspace

# A model is started when it is asked: one that failed may be tried again at the next question, however often it did.
_NEVER_GIVEN_UP = Pause(back_off=(0.0,), recovered_after=0.0)

_Result = TypeVar("_Result")
# Makes the model that answers, given the workspace, and who is told of our place in the line of a lender.
MakeAsked = Callable[[Workspace, Callable[[int], None]], AskedModel]


async def serve_stdio(notes: OwnNotes, settings: Settings) -> bool:
    """Answer the client until it goes, or a signal ends us; False for a signal. Nothing of ours runs after that.

    A signal leaves a thread behind that waits for the client's next word, which nothing can end but the process's end.
    """
    server = server_of(notes, settings.embedder, notes.model)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # where there are no signals
            asyncio.get_running_loop().add_signal_handler(number, ended.set)

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    serving, signalled = asyncio.ensure_future(serve()), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({serving, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if by_client := serving.done():
            try:
                serving.result()
            except* OSError:  # it does not read any more
                pass
        return by_client
    finally:
        signalled.cancel()
        await notes.close()


class OwnNotes:
    """The notes of the workspace in ``folder``, and a model of our own that answers from them. For one event loop.

    It is let go after ``idle`` seconds without a question. ``tell`` gets lines that the person should know.
    """

    def __init__(
        self, folder: Path, settings: Settings, name: str, asked: MakeAsked, tell: Callable[[str], None], idle: float
    ) -> None:
        self._folder = folder
        self._make = asked
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._asked: AskedModel | None = None
        self._asking = 0
        self._place = 0
        self._resting: asyncio.TimerHandle | None = None
        self._waking = _Waking(name, self._started)
        self._supervised = Supervised(self._waking, tell, _NEVER_GIVEN_UP)
        self._archive = Archive(folder, settings, Lane(name, self._supervised), self._desk, tell)

    async def ask(self, question: Question) -> AsyncGenerator[Event | InLine]:
        """Yield what happens on the way to the answer, and the Answer last; see Archive."""
        self._asking += 1
        try:
            async with aclosing(self._archive.ask(question)) as events:
                async for event in events:
                    yield InLine(self._place) if event == InLine(0) else event
        finally:
            self._asking -= 1
            self._rest_in_time()

    async def call(self, use: Callable[[Workspace], _Result]) -> _Result:
        """Return what ``use`` returns of the open workspace; see Archive."""
        return await self._archive.call(use)

    def model(self) -> tuple[str, str]:
        """Return the model that answers, and what it is doing."""
        state = self._waking.model.state
        borrowed = state == "awake" and self._asked is not None and self._asked.borrowed
        return self._waking.model.model, "borrowed" if borrowed else state

    async def close(self) -> None:
        """Let go of everything."""
        if self._resting is not None:
            self._resting.cancel()
        with suppress(EngineError):
            await in_thread(self._supervised.stop, None)
        self._archive.close()

    def _started(self) -> Engine:
        """Start or borrow the model, in the thread of a question."""
        with Workspace(self._folder) as workspace:
            self._asked = self._make(workspace, self._told_place)
            try:
                engine = self._asked.start()
            finally:
                self._place = 0
        self._loop.call_soon_threadsafe(self._rest_in_time)  # whoever asked may have gone meanwhile
        return engine

    def _told_place(self, place: int) -> None:
        self._place = place

    def _desk(self, workspace: Workspace, engine: Engine) -> Desk:
        self._waking.model.wake()  # how it runs is known once it does
        assert self._asked is not None
        return self._asked.desk_in(workspace, engine)

    def _rest_in_time(self) -> None:
        """Let the model go once nobody has asked for long enough; at once where others wait for it."""
        if self._resting is not None:
            self._resting.cancel()
        if self._asking == 0:
            seconds = 0.0 if self._asked is not None and self._asked.borrowed else self._idle
            self._resting = self._loop.call_later(seconds, self._rest)

    def _rest(self) -> None:
        if self._asking == 0:
            self._loop.create_task(in_thread(self._waking.model.rest, None))


class _Waking:
    """The attempt to run a model that sleeps: it always succeeds at once."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, name: str, start: Callable[[], Engine]) -> None:
        self._name = name
        self._start = start
        self.model = OnDemand(name, start)

    def start(self) -> Engine:
        """Return the model, asleep."""
        self.model = OnDemand(self._name, self._start)
        return self.model

    def smaller(self, error: EngineError) -> tuple[Attempt, str] | None:
        """Return the same: what is free may be more when it is asked again."""
        return self, "the memory that is free when it is next asked"

    def decode_at_least(self, depth: int) -> float | None:
        """Return None: it is not planned before it wakes."""
        return None
