"""A model that sleeps: started by the first call that needs it, let go when nobody does, started again after that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal, Self

from quietmind.base.errors import EngineRefused
from quietmind.engine.port import Delta, Endpoint, Engine, Finished, Message, Prompt, Request, saving
from quietmind.plan.engines import Capabilities

State = Literal["asleep", "waking", "awake"]

# Seconds that letting go waits for a start in progress; the child of one that takes longer ends with our process.
_PATIENCE = 5.0


class OnDemand:
    """An engine that ``start`` starts when it is first used. Implements the ports Engine and Saving. Thread-safe.

    ``name`` is the model's until the engine says its own. Every call raises what ``start`` raises.
    """

    def __init__(self, name: str, start: Callable[[], Engine]) -> None:
        self._name = name
        self._start = start
        self._changing = threading.Lock()
        self._engine: Engine | None = None
        self._stopped = False

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._engine is not None:
            return "awake"
        return "waking" if self._changing.locked() else "asleep"

    @property
    def model(self) -> str:
        """Name of the model, for people."""
        engine = self._engine
        return self._name if engine is None else engine.model

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take."""
        return self._awake().context

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._awake().capabilities

    @property
    def endpoint(self) -> Endpoint | None:
        """None: nobody else reaches a model that may be asleep."""
        return None

    @property
    def build(self) -> str:
        """The engine's build."""
        return saving(self._awake()).build

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``; see the port."""
        return self._awake().tokenize(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``; see the port."""
        return self._awake().render(messages)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt``; see the port."""
        yield from self._awake().generate(request)

    def save(self, file: Path) -> int:
        """Write the KV cache that is held to ``file``; see the port."""
        return saving(self._awake()).save(file)

    def restore(self, file: Path) -> int:
        """Hold the KV cache of ``file``; see the port."""
        return saving(self._awake()).restore(file)

    def healthy(self) -> bool:
        """Say whether a request would be taken now: by one that sleeps, too."""
        engine = self._engine
        return not self._stopped and (engine is None or engine.healthy())

    def wake(self) -> None:
        """Start it, if it sleeps."""
        self._awake()

    def rest(self) -> None:
        """Let the engine go, until it is needed again."""
        if not self._changing.acquire(timeout=_PATIENCE):
            return
        try:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.stop()  # before another is started: both at once may not fit
        finally:
            self._changing.release()

    def stop(self) -> None:
        """Let the engine go for good. Calling it again does nothing."""
        self._stopped = True
        self.rest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _awake(self) -> Engine:
        engine = self._engine
        if engine is not None:
            return engine
        with self._changing:
            if self._engine is None:
                self._require_wanted()
                started = self._start()
                if self._stopped:  # meanwhile
                    started.stop()
                    self._require_wanted()
                self._engine = started
            return self._engine

    def _require_wanted(self) -> None:
        if self._stopped:
            raise EngineRefused("the engine has been stopped; start it again")
