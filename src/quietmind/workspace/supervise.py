"""Keeps a model running: started again after a crash or a hang, smaller after memory ran out, given up with a reason.

What is supervised is handed in as an :class:`Attempt`: something that can be started, and that knows what to try after
memory ran out. So nothing here knows plans or backends, and every path can be tested with a scripted engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from quietmind.base.errors import (
    EngineCrashed,
    EngineError,
    EngineGivenUp,
    EngineHung,
    EngineOutOfMemory,
    EngineRefused,
    EngineStartFailed,
    QuietmindError,
)
from quietmind.engine.in_front import InFront
from quietmind.engine.port import Delta, Engine, Finished, Message, Prompt, Request, saving
from quietmind.workspace.paging import Paging

State = Literal["starting", "ready", "given up", "stopped"]

# Failures in a row after which nothing more is tried. Memory that ran out does not count: the next run is smaller.
GIVE_UP_AFTER = 3
# Seconds before the first, second, ... start again.
BACK_OFF = (1.0, 4.0, 15.0)
# A run that has served for so long, in seconds, has recovered: its next failure is a first one.
RECOVERED_AFTER = 600.0
# How often, in seconds, a waiting engine is looked at.
WATCH_EVERY = 1.0

_LOG_LINES = 12

# Seconds that stopping waits for a start in progress.
_PATIENCE = 5.0


_Answer = TypeVar("_Answer")


class Attempt(Protocol):
    """One way to run a model."""

    @property
    def log(self) -> Path | None:
        """The file that takes what the engine prints."""

    def start(self) -> Engine:
        """Start the engine. Raises EngineError, or ModelError for a file that is gone."""

    def smaller(self, error: EngineError) -> tuple[Attempt, str] | None:
        """Return what to try after ``error``, which says that memory ran out, and the change in words."""

    def decode_at_least(self, depth: int) -> float | None:
        """Return the tokens a second that the plan is sure of at ``depth``; None where it has no opinion."""

    @property
    def pages(self) -> bool:
        """Whether the plan itself reads weights from the disk for each token."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's weights; 0 where they are not known."""


@dataclass(frozen=True)
class Pause:
    """How long to wait before each start again, and when to stop trying. Tests make it quick."""

    back_off: Sequence[float] = BACK_OFF
    recovered_after: float = RECOVERED_AFTER
    watch_every: float = WATCH_EVERY


class Supervised(InFront):
    """An engine that comes back.

    A request that fails before its first token is asked again once the engine is back, one time; one that has shown
    tokens raises its error, since nobody could tell whether the rest belongs to them. ``tell`` gets one line for
    everything that the person should know: what ended, what is tried, what changed.

    Thread-safe: requests wait while the engine is started again. A thread of ours looks at an idle engine each second,
    so that it is back before somebody asks.
    """

    def __init__(
        self, attempt: Attempt, tell: Callable[[str], None] = lambda _line: None, pause: Pause | None = None
    ) -> None:
        self._attempt = attempt
        self._tell = tell
        self._pause = pause or Pause()
        self._changing = threading.RLock()  # held by whoever starts or ends an engine
        self._engine: Engine | None = None
        self._gone: EngineGivenUp | None = None  # why nothing more is tried
        self._failures = 0
        self._started = 0.0
        self._stopping = threading.Event()
        self._paging = Paging(tell)
        self._engine = self._first()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._stopping.is_set():
            return "stopped"
        if self._gone is not None:
            return "given up"
        return "starting" if self._engine is None else "ready"

    @property
    def attempt(self) -> Attempt:
        """What runs, or is tried now: after memory ran out a smaller one than the first."""
        return self._attempt

    @property
    def trouble(self) -> EngineGivenUp | None:
        """Why nothing more is tried; None while something is."""
        return self._gone

    @property
    def engine(self) -> Engine:
        """The engine that runs now, after having waited for it. Raises EngineGivenUp, or EngineRefused when stopped."""
        engine = self._engine
        if engine is None or self._stopping.is_set():
            with self._changing:
                self._require_wanted()
                engine = self._engine
        assert engine is not None  # there is always one outside the lock, or a reason why not
        return engine

    @property
    def behind(self) -> Engine:
        """The same, for whatever is handed on as it is. A cache is not saved twice: a new engine holds nothing."""
        return self.engine

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``; see the port."""
        return self._twice(lambda engine: engine.tokenize(text))

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``; see the port."""
        return self._twice(lambda engine: engine.render(messages))

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt``; see the port. Raises EngineGivenUp where no engine is left to ask."""
        for last_try in (False, True):
            engine = self.engine
            shown = False
            events = engine.generate(request)
            watched = self._paging.watch(engine, events, self._attempt)
            try:
                for event in watched:
                    shown = True
                    yield event
            except EngineError as error:
                if not _ends_the_engine(error):
                    raise
                self.broken(engine, error)
                if shown or last_try:
                    raise
            else:
                return
            finally:
                watched.close()

    def restore(self, file: Path) -> int:
        """Hold the KV cache of ``file``; see the port."""
        return self._twice(lambda engine: saving(engine).restore(file))

    def healthy(self) -> bool:
        """Say whether a request would be taken now. Never raises, never waits for a start."""
        engine = self._engine
        return self.state == "ready" and engine is not None and engine.healthy()

    def broken(self, engine: Engine, error: EngineError) -> None:
        """Act on a failure of ``engine`` that somebody saw: end what is left of it, and start it again.

        Whoever passes requests to :attr:`endpoint` directly calls this too. Never raises: what cannot be mended is
        raised by the next request.
        """
        with self._changing:
            if engine is self._engine and not self._stopping.is_set():  # else another thread saw it first
                self._recover(error)

    def stop(self) -> None:
        """End the engine and wait until it is gone. Calling it again does nothing.

        One that is just being loaded is ended as soon as it is, or with our process, whichever comes first.
        """
        self._stopping.set()
        if self._changing.acquire(timeout=_PATIENCE):
            try:
                engine, self._engine = self._engine, None
            finally:
                self._changing.release()
            if engine is not None:
                engine.stop()
            self._watcher.join(_PATIENCE)

    def _twice(self, call: Callable[[Engine], _Answer]) -> _Answer:
        engine = self.engine
        try:
            return call(engine)
        except EngineError as error:
            if not _ends_the_engine(error):
                raise
            self.broken(engine, error)
        return call(self.engine)

    def _watch(self) -> None:
        while not self._stopping.wait(self._pause.watch_every):
            engine = self._engine
            if engine is None:
                continue
            if (error := _failure(engine)) is not None:
                self.broken(engine, error)
            else:
                self._paging.look(engine, self._attempt)

    def _recover(self, error: EngineError) -> None:
        """Put another engine in the place of the one that failed with ``error``; without success, note why."""
        failed, self._engine = self._engine, None
        if failed is not None:
            failed.stop()
        if time.monotonic() - self._started > self._pause.recovered_after:
            self._failures = 0
        try:
            while self._engine is None:
                self._prepare(error)
                self._require_wanted()
                try:
                    self._engine = self._start()
                except EngineStartFailed as again:
                    error = again
        except QuietmindError as hopeless:
            if not self._stopping.is_set() and self._gone is None:
                self._end_with(str(hopeless))

    def _first(self) -> Engine:
        """Start the engine for the first time: what is wrong then is for the person to mend, except for memory."""
        while True:
            try:
                return self._start()
            except EngineError as error:
                if not out_of_memory(error):
                    raise
                self._prepare(error)

    def _start(self) -> Engine:
        engine = self._attempt.start()
        self._started = time.monotonic()
        if self._stopping.is_set():
            engine.stop()
            self._require_wanted()
        return engine

    def _prepare(self, error: EngineError) -> None:
        """Choose what to start after ``error``, and wait as long as is due. Raises EngineGivenUp."""
        if out_of_memory(error):
            smaller = self._attempt.smaller(error)
            if smaller is None:
                raise self._give_up(error, "nothing smaller is left to try")
            self._attempt, change = smaller
            self._tell(f"{_what(error)}; memory ran out, so it is started again with {change}")
            return
        self._failures += 1
        if self._failures >= GIVE_UP_AFTER:
            raise self._give_up(error, f"it failed {self._failures} times in a row")
        seconds = self._pause.back_off[min(self._failures, len(self._pause.back_off)) - 1]
        count = f"failure {self._failures} of {GIVE_UP_AFTER}"
        self._tell(f"{_what(error)}; it is started again in {seconds:g} s ({count})")
        self._stopping.wait(seconds)

    def _give_up(self, error: EngineError, reason: str) -> EngineGivenUp:
        return self._end_with(f"{_what(error)}; {reason}, and is not tried again")

    def _end_with(self, why: str) -> EngineGivenUp:
        lines = last_lines(self._attempt.log, _LOG_LINES)
        self._gone = EngineGivenUp(why, log=lines)
        self._tell(why)
        for line in lines:
            self._tell(f"  its log: {line}")
        return self._gone

    def _require_wanted(self) -> None:
        if self._stopping.is_set():
            raise EngineRefused("the engine has been stopped; start it again")
        if self._gone is not None:
            raise EngineGivenUp(str(self._gone), log=self._gone.log)


def _failure(engine: Engine) -> EngineError | None:
    """Return how an idle engine has failed; None while it lives, however slow it is."""
    if engine.healthy():
        return None
    try:
        engine.tokenize(".")  # its own words say how it ended; a busy one only takes longer to answer
    except EngineError as error:
        return error if _ends_the_engine(error) else None
    return None


def _what(error: EngineError) -> str:
    """Return what happened, without the advice to do what is being done."""
    return str(error).removesuffix("; start it again").removesuffix(", start it again")


def out_of_memory(error: EngineError) -> bool:
    """Say whether an error means that a smaller run may succeed where this one failed."""
    return isinstance(error, EngineOutOfMemory) or bool(getattr(error, "out_of_memory", False))


def _ends_the_engine(error: EngineError) -> bool:
    return isinstance(error, EngineCrashed | EngineHung | EngineStartFailed)


def last_lines(file: Path | None, count: int) -> tuple[str, ...]:
    """Return the last lines of a log, without the empty ones; none where it cannot be read."""
    if file is None:
        return ()
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - (64 << 10)))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple([line.rstrip() for line in text.splitlines() if line.strip()][-count:])
