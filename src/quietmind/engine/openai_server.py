"""A server of OpenAI's HTTP in a child of ours (vLLM, SGLang): started, waited for, and its log read for the cause."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quietmind.base.errors import (
    EngineCrashed,
    EngineError,
    EngineHung,
    EngineOutOfMemory,
    EngineStartFailed,
    EngineUnreachable,
    OutOfMemoryAtStart,
)
from quietmind.engine.child import Child
from quietmind.engine.markers import markers_of
from quietmind.engine.meeting_place import MeetingPlace
from quietmind.engine.openai_engine import Identity, OpenAIEngine
from quietmind.engine.openai_http import OpenAIHttp, Patience
from quietmind.engine.port import Endpoint
from quietmind.engine.program import Program
from quietmind.engine.served_tokens import ServedTokens
from quietmind.plan.engines import Capabilities

# The time that a process may take to disappear after its socket has closed.
_DYING_SECONDS = 2.0
_LOOK_SECONDS = 0.1
_READY_SECONDS = 30.0  # SGLang answers /health after it has generated a token

_LOG_LINES = 4000


# Where the workers of one machine meet: in a network of its own there is nothing but the loopback, and outside of it
# nobody else should be met. Gloo and NCCL look for another interface first.
MEETING_ON_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


@dataclass(frozen=True)
class Way:
    """How a server of one kind is started.

    ``words(socket, port, secret_file)`` are its arguments after the plan's, ``environment(key)`` what it is told beside
    them, ``stdin(key)`` what it reads, and ``secrets(key)`` what the file holds that only we may read. ``listens`` says
    whether it can listen on a Unix socket; else it gets a port, and the keeper passes the socket on.
    """

    title: str
    words: Callable[[Path, int | None, Path], tuple[str, ...]]
    environment: Callable[[str], Mapping[str, str]] = lambda _: {}
    secrets: Callable[[str], str] = lambda _: ""
    stdin: Callable[[str], str] = lambda _: ""
    listens: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    health: str = "/health"
    health_seconds: float = 2.0


@dataclass(frozen=True)
class Serving:
    """What to serve. ``command`` is the program and the plan's words, ``folder`` the model's."""

    command: tuple[str, ...]
    name: str
    folder: Path
    capabilities: Capabilities
    log: Path | None = None
    sealed: bool = True
    memory_limit: int | None = None
    start_timeout_s: float = 1800.0
    patience: Patience = field(default_factory=Patience)


def start_server(way: Way, serving: Serving) -> OpenAIEngine:
    """Start the server and wait until it serves.

    Raises EngineStartFailed, of it OutOfMemoryAtStart when memory did not suffice, EngineRefused for a server that
    behaves oddly.
    """
    key, place = secrets.token_hex(32), MeetingPlace()
    port = None if way.listens else _free_port()
    secret_file = place.secret("secret.yaml", way.secrets(key))
    program = Program(
        words=(*serving.command, *way.words(place.socket, port, secret_file)),
        environment=way.environment(key),
        sealed=serving.sealed,
        socket=place.socket,
        port=port,
        memory_limit=serving.memory_limit,
        stdin=way.stdin(key),
    )
    try:
        child = Child.run(program, serving.log)
    except BaseException:
        place.close()
        raise
    host = ChildHost(child, place, way.title, serving.name)
    http: OpenAIHttp | None = None
    try:
        endpoint = Endpoint("http://localhost", key, serving.name, place.socket)
        engines: list[OpenAIEngine] = []
        http = client = OpenAIHttp(
            endpoint,
            f"{serving.name}: {way.title}",
            patience=serving.patience,
            broken=lambda error: engines[0].broken(error) if engines else (host.failure(error) or error),
        )
        _wait(lambda: _listens(place.socket) and client.answers(way.health, _READY_SECONDS), host, way, serving)
        secret_file.unlink()  # it has been read
        engines.append(_engine(way, serving, endpoint, http, host))
        return engines[0]
    except BaseException:  # KeyboardInterrupt too: nothing may be left behind
        if http is not None:
            http.close()
        host.end()
        raise


class ChildHost:
    """A server in a child of ours. ``place`` holds its socket and goes with it."""

    def __init__(self, child: Child, place: MeetingPlace, title: str, name: str) -> None:
        self._child = child
        self._title = title
        self._name = name
        self._place = place
        self._ended: EngineError | None = None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._child.pid

    @property
    def sealed(self) -> bool:
        """Whether it has a network of its own."""
        return self._child.sealed

    def ending(self) -> str | None:
        """Say how the server ended, None if it lives."""
        return self._child.ending()

    def failure(self, error: EngineError | None) -> EngineError | None:
        """Return how the child ended; where it lives, ``error`` as it is, in the words of a child that hangs."""
        if self._ended is not None:
            return self._ended
        lost = isinstance(error, EngineUnreachable)
        ending = self._child.ending(_DYING_SECONDS if lost else 0.0)
        if ending is not None:
            self._ended = self.crashed(ending)
            return self._ended
        if isinstance(error, EngineHung):
            return EngineHung(f"{self._name}: {self._title} was silent for too long and was ended; start it again")
        return error

    def crashed(self, ending: str, *, starting: bool = False) -> EngineError:
        """Return the error for a child that ended, with the cause that its log gives."""
        lines = self._child.log_tail(_LOG_LINES)
        cause = first_cause(lines) or (lines[-1].strip() if lines else "its log says nothing")
        if self._child.out_of_memory() or TOO_LARGE.search(cause):
            kind = OutOfMemoryAtStart if starting else EngineOutOfMemory
            return kind(
                f"{self._name}: {self._title} ran out of memory ({cause}); choose a smaller context, an 8-bit KV cache "
                "or a smaller model"
            )
        if BUSY.search(cause):
            return EngineStartFailed(
                f"{self._name}: a GPU is in use by something else ({cause}); end that (see nvidia-smi) and try again"
            )
        if starting:
            return EngineStartFailed(
                f"{self._name}: {self._title} ended {ending} before it served ({cause}); mend that and start it again"
            )
        return EngineCrashed(f"{self._name}: {self._title} was ended {ending} ({cause}); start it again")

    def end(self) -> None:
        """End the server and wait until it is gone."""
        self._child.end()
        self._place.close()


def _wait(ready: Callable[[], bool], host: ChildHost, way: Way, serving: Serving) -> None:
    """Wait until the server is ready. Raises EngineStartFailed or EngineOutOfMemory."""
    deadline = time.monotonic() + serving.start_timeout_s
    while not ready():
        if (ending := host.ending()) is not None:
            raise host.crashed(ending, starting=True)
        if time.monotonic() > deadline:
            raise EngineStartFailed(
                f"{serving.name}: {way.title} was not ready after {serving.start_timeout_s:.0f} s; allow more time or "
                "see its log"
            )
        time.sleep(_LOOK_SECONDS)


def _listens(path: Path) -> bool:
    """Say whether somebody listens at ``path``; vLLM makes it long before."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _engine(way: Way, serving: Serving, endpoint: Endpoint, http: OpenAIHttp, host: ChildHost) -> OpenAIEngine:
    """Return the engine of a server that is ready, after a look at the context that it has set up."""
    told = http.get("/v1/models")
    try:
        context = int(next(each for each in told["data"] if each["id"] == serving.name)["max_model_len"])
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise EngineStartFailed(
            f"{serving.name}: {way.title} does not say what it serves; is its version known?"
        ) from error
    identity = Identity(
        name=serving.name,
        who=f"{serving.name}: {way.title}",
        endpoint=endpoint,
        context=context,
        capabilities=serving.capabilities,
        extra=way.extra,
        health=lambda each: each.answers(way.health, way.health_seconds),
    )
    return OpenAIEngine(identity, http, ServedTokens(http, serving.name, markers_of(serving.folder)), host)


def _free_port() -> int:
    """Return a port that was free a moment ago; in a network of its own the program has it to itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# What the servers say when the model or its KV cache finds no room: vLLM (v1/core/kv_cache_planning.py), SGLang
# (model_executor/pool_configurator.py), PyTorch.
TOO_LARGE = re.compile(
    r"larger than the available KV cache memory|No available memory for the cache blocks|out of memory|"
    r"OutOfMemory|Not enough memory|bad_alloc|Cannot allocate memory",
    re.IGNORECASE,
)
# vLLM (v1/worker/utils.py) before it takes any memory.
BUSY = re.compile(r"Free memory on device .* is less than desired")

# "(EngineCore_DP0 pid=7) ERROR 11-22 03:50:00 [core.py:708] " and "[2026-11-22 03:50:00 TP0] ".
_PREFIX = re.compile(
    r"^(?:\([^()]*pid=\d+[^()]*\)\s?)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\] ?)?"
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] ?)?"
)
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\w*)(?:: (?P<said>.*))?$")
_USAGE = re.compile(r"^\S.*: error: (?P<said>.+)$")
# These only say that something before them failed.
_HOLLOW = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|See root cause above|"
    r"EngineDeadError|SystemExit|KeyboardInterrupt|ResourceTracker|BrokenPipe"
)


def first_cause(lines: Iterable[str]) -> str:
    """Return the first real cause in a log of Python servers; empty when there is none.

    A failure in a worker is raised again by each process above it; the first traceback is the nearest to it.
    """
    return next(_causes(lines), "")


def _causes(lines: Iterable[str]) -> Iterator[str]:
    inside, more = False, ""
    for line in lines:
        text = _PREFIX.sub("", line, count=1)
        if more:
            yield f"{more} {text.strip()}"
            more = ""
        elif "Traceback (most recent call last):" in text:
            inside = True
        elif found := _USAGE.match(text):
            yield found["said"].strip()
        elif inside and text[:1].strip() and (raised := _RAISED.match(text)):
            inside = False
            said = (raised["said"] or raised["kind"]).strip()
            if _HOLLOW.search(text):
                continue
            if re.match(r"\d+ validation errors? for", said):  # pydantic says what below
                more = said
            else:
                kind = raised["kind"].rpartition(".")[2]
                yield said if said == raised["kind"] else f"{kind}: {said}"
    if more:
        yield more
