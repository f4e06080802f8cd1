"""The life of `quietmind up`: models planned together, started under supervision, served, and ended together."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from quietmind.base.errors import EngineRefused
from quietmind.base.settings import Settings
from quietmind.engine.port import Engine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.model.card import ModelCard
from quietmind.plan.ask import Ask
from quietmind.plan.engines import engine_kind
from quietmind.plan.plan import Plan
from quietmind.serve.archive import Archive, MakeDesk, no_notebooks
from quietmind.serve.entrance import Entrance
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.key import key_of
from quietmind.serve.lane import Lane
from quietmind.serve.limits import Limits
from quietmind.serve.listen import Address, serve, taken_address
from quietmind.serve.loan import Lending, clear
from quietmind.serve.patience import Patience
from quietmind.workspace.attempt import PlannedAttempt
from quietmind.workspace.choose import Desk
from quietmind.workspace.identity import fingerprint_of
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.lending import terms_of
from quietmind.workspace.running import AlreadyRunning, Running, hold
from quietmind.workspace.supervise import Attempt, Supervised
from quietmind.workspace.together import asked_of, together
from quietmind.workspace.workspace import Workspace

# In the workspace: the caches that change hands between us and whoever borrows a model.
_LENT = "lent"

Tell = Callable[[str], None]
MakeAttempt = Callable[[Start, Path], Attempt]


@dataclass(frozen=True)
class Wanted:
    """What is to run, and where it is to be reached. ``settings`` None: as where there is no file of them."""

    names: Sequence[str]
    ask: Ask
    workspace: Path
    entrance: Entrance = field(default_factory=Entrance)
    limits: Limits = field(default_factory=Limits)
    settings: Settings | None = None


@dataclass(frozen=True)
class Serving:
    """What runs now, and where. ``names`` are those that requests use, in the order of ``starts``.

    ``outside_url`` is where others ask, if that is elsewhere; ``new_key`` the key of ``key_file`` if it was made now.
    """

    url: str
    starts: Sequence[Start]
    names: Sequence[str]
    outside_url: str | None = None
    key_file: Path | None = None
    new_key: str | None = None


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
    engine. Raises UsageError for an address that makes no sense or a key that others may read, AlreadyRunning for
    others, DoesNotFit with the ledger, AddressInUse, ModelError, EngineError; KeyboardInterrupt for a signal that comes
    before it serves.
    """
    entrance = wanted.entrance.settled(wanted.workspace)
    engine_kind(wanted.ask.engine)
    asked = asked_of(wanted.names, wanted.ask)
    key_file = None if entrance.key_file is None else entrance.key_file.absolute()
    try:
        with (
            terminable(),
            hold(wanted.workspace, asked, key_file, entrance.host) as registration,
            taken_address(entrance) as address,
        ):
            key = None if key_file is None else key_of(key_file)
            starts = together([prepare(name, wanted.ask, wanted.workspace, tell) for name in wanted.names]).starts
            registration.say("starting", address.url, wanted.names)
            for start in starts:
                planned(start)

            def served(lanes: Sequence[Lane]) -> None:
                names = [lane.name for lane in lanes]
                registration.say("serving", address.url, names)
                new_key = key.text if key is not None and key.new else None
                ready(Serving(address.url, starts, names, address.outside_url, key_file, new_key))

            lent = wanted.workspace / _LENT
            clear(lent)  # nobody else runs here: it is what a killed run has left
            with ExitStack() as engines:
                engines.callback(clear, lent)
                lanes = [
                    _lane(start, name, attempt(start, wanted.workspace / "logs"), tell, engines, lent)
                    for start, name in zip(starts, wanted.names, strict=True)
                ]
                guard = entrance.guard(None if key is None else key.text)
                _serve(_gateway(wanted, guard, lanes, starts, tell), address, lambda: served(lanes))
    except AlreadyRunning as error:
        running = error.running
        if running is None or running.asked != asked or not _is_at(running, entrance, key_file):
            raise
        return running
    return None


def _is_at(running: Running, entrance: Entrance, key_file: Path | None) -> bool:
    """Say whether ``running`` is where ``entrance`` would be."""
    ports = (None, _port(running))
    return entrance.port in ports and running.host == entrance.host and running.key_file == _text(key_file)


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


def _gateway(wanted: Wanted, guard: Guard, lanes: Sequence[Lane], starts: Sequence[Start], tell: Tell) -> Gateway:
    """Return what serves the lanes, and the notes of the workspace, which the first of them answers from."""
    settings = wanted.settings or Settings(workspace=wanted.workspace)
    archive = Archive(wanted.workspace, settings, lanes[0], _desk(lanes[0], settings), tell)
    return Gateway(
        lanes,
        guard,
        archive=archive,
        workspace=wanted.workspace,
        settings=settings,
        starts=starts,
        limits=wanted.limits,
    )


def _desk(lane: Lane, settings: Settings) -> MakeDesk:
    """Return where questions take up notebooks: those that were read under the very run of ``lane`` are restored."""
    run: tuple[Engine, Fingerprint] | None = None

    def fingerprint(_shared: Engine, card: ModelCard, plan: Plan) -> Fingerprint:
        """Return that of the engine of now, which is taken once: it reads 48 MiB of the weights."""
        nonlocal run
        engine = lane.supervised.engine
        if run is None or run[0] is not engine:
            run = engine, fingerprint_of(engine, card, plan)
        return run[1]

    def desk(workspace: Workspace, engine: Engine) -> Desk:
        attempt = lane.supervised.attempt
        # Of several caches, nobody could tell which one a question would find.
        if lane.turns.width > 1 or not isinstance(attempt, PlannedAttempt):
            return no_notebooks(workspace, engine)
        kept = settings.snapshot_gib, settings.snapshot_level
        return Desk.of(workspace, attempt.run, engine, *kept, fingerprint)

    return desk


def _terms(supervised: Supervised, engine: Engine) -> dict[str, Any]:
    """Return what a borrower of ``engine`` has to know. Raises EngineRefused where nothing is known of its run."""
    attempt = supervised.attempt
    if not isinstance(attempt, PlannedAttempt):
        raise EngineRefused(f"{engine.model}: nothing is known of how it runs; start it with `quietmind up`")
    return terms_of(attempt.run, engine)


def _serve(gateway: Gateway, address: Address, ready: Callable[[], None]) -> None:
    with suppress(KeyboardInterrupt):  # the way to end it
        serve(gateway, address, ready)


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
