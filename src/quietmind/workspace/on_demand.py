"""A model that sleeps: started by the first call that needs it, let go when nobody does, started again after that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from quietmind.base.errors import EngineRefused
from quietmind.engine.in_front import InFront
from quietmind.engine.port import Endpoint, Engine

State = Literal["asleep", "waking", "awake"]

# Seconds that letting go waits for a start in progress; the child of one that takes longer ends with our process.
_PATIENCE = 5.0


class OnDemand(InFront):
    """An engine that ``start`` starts when it is first used. Thread-safe.

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
    def endpoint(self) -> Endpoint | None:
        """None: nobody else reaches a model that may be asleep."""
        return None

    def healthy(self) -> bool:
        """Say whether a request would be taken now: by one that sleeps, too."""
        engine = self._engine
        return not self._stopped and (engine is None or engine.healthy())

    def wake(self) -> None:
        """Start it, if it sleeps."""
        _ = self.behind

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

    @property
    def behind(self) -> Engine:
        """The engine, woken if it sleeps. Raises EngineRefused once stopped."""
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
