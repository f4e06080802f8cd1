"""The life of `quietmind up`: models planned together, started under supervision, served, and ended together."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from quietmind.base.errors import EngineRefused
from quietmind.engine.port import Engine
from quietmind.plan.ask import Ask
from quietmind.plan.engines import engine_kind
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.key import key_of
from quietmind.serve.lane import Lane
from quietmind.serve.listen import HOST, PORT, bind, require_loopback, serve, url_of
from quietmind.serve.loan import Lending, clear
from quietmind.serve.patience import Patience
from quietmind.workspace.attempt import PlannedAttempt
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.lending import terms_of
from quietmind.workspace.running import AlreadyRunning, Running, hold
from quietmind.workspace.supervise import Attempt, Supervised
from quietmind.workspace.together import asked_of, together

# In the workspace: the caches that change hands between us and whoever borrows a model.
_LENT = "lent"

Tell = Callable[[str], None]
MakeAttempt = Callable[[Start, Path], Attempt]


@dataclass(frozen=True)
class Wanted:
    """What is to run. ``port`` None: the usual one, or wherever the same models run already."""

    names: Sequence[str]
    ask: Ask
    workspace: Path
    host: str = HOST
    port: int | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class Serving:
    """What runs now, and where. ``names`` are those that requests use, in the order of ``starts``."""

    url: str
    starts: Sequence[Start]
    names: Sequence[str]


def attempt_of(start: Start, logs: Path) -> Attempt:
    """Return how a planned model is started: the one place to exchange what runs it. Each has a folder of logs."""
    return PlannedAttempt(start, logs / re.sub(r"[^\w.-]+", "_", start.served_name))


def up(
    wanted: Wanted,
    tell: Tell,
    planned: Callable[[Start], None],
    ready: Callable[[Serving], None],
    attempt: MakeAttempt = attempt_of,
) -> Running | None:
    """Start the models, serve them until SIGINT or SIGTERM, and leave nothing behind; return None then.

    Where the same runs in the workspace already, return that at once. ``planned`` is called with each model before
    the first is loaded, ``ready`` once the address answers; ``tell`` gets a line for everything that happens to an
    engine. Raises UsageError for an address that is no loopback or a key that others may read, AlreadyRunning for
    others, DoesNotFit with the ledger, AddressInUse, ModelError, EngineError; KeyboardInterrupt for a signal that comes
    before it serves.
    """
    require_loopback(wanted.host)
    engine_kind(wanted.ask.engine)
    asked = asked_of(wanted.names, wanted.ask)
    key = None if wanted.key_file is None else key_of(wanted.key_file)
    key_file = None if wanted.key_file is None else wanted.key_file.absolute()
    try:
        with (
            terminable(),
            hold(wanted.workspace, asked, key_file) as registration,
            bind(wanted.host, PORT if wanted.port is None else wanted.port) as listener,
        ):
            starts = together([prepare(name, wanted.ask, wanted.workspace, tell) for name in wanted.names]).starts
            registration.say("starting", url_of(listener), wanted.names)
            for start in starts:
                planned(start)

            def served(lanes: Sequence[Lane]) -> None:
                names = [lane.name for lane in lanes]
                registration.say("serving", url_of(listener), names)
                ready(Serving(url_of(listener), starts, names))

            lent = wanted.workspace / _LENT
            clear(lent)  # nobody else runs here: it is what a killed run has left
            with ExitStack() as engines:
                engines.callback(clear, lent)
                lanes = [
                    _lane(start, name, attempt(start, wanted.workspace / "logs"), tell, engines, lent)
                    for start, name in zip(starts, wanted.names, strict=True)
                ]
                _serve(lanes, listener, Guard(key), served)
    except AlreadyRunning as error:
        running = error.running
        here = running is not None and wanted.port in (None, _port(running)) and running.key_file == _text(key_file)
        if running is None or not here or running.asked != asked:
            raise
        return running
    return None


def _lane(start: Start, called: str, attempt: Attempt, tell: Tell, engines: ExitStack, lent: Path) -> Lane:
    words = [""]

    def told(line: str) -> None:
        words[0] = line
        tell(line)

    supervised = engines.enter_context(Supervised(attempt, told))
    endpoint = supervised.engine.endpoint
    name = start.served_name if endpoint is None else endpoint.model
    return Lane(
        name,
        supervised,
        called=called,
        width=start.plan.sequences,
        last_words=lambda: words[0],
        patience=Patience.of(start.plan),
        lending=Lending(lent, lambda engine: _terms(supervised, engine)),
    )


def _terms(supervised: Supervised, engine: Engine) -> dict[str, Any]:
    """Return what a borrower of ``engine`` has to know. Raises EngineRefused where nothing is known of its run."""
    attempt = supervised.attempt
    if not isinstance(attempt, PlannedAttempt):
        raise EngineRefused(f"{engine.model}: nothing is known of how it runs; start it with `quietmind up`")
    return terms_of(attempt.run, engine)


def _serve(
    lanes: Sequence[Lane], listener: socket.socket, guard: Guard, ready: Callable[[Sequence[Lane]], None]
) -> None:
    with suppress(KeyboardInterrupt):  # the way to end it
        serve(Gateway(lanes, guard), listener, lambda: ready(lanes))


def _port(running: Running) -> int | None:
    port = running.url.rpartition(":")[2]
    return int(port) if port.isdecimal() else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM end this process as Ctrl-C does: with everything put away on the way out."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
