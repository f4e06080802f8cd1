"""An engine that several use at once, as one of them sees it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from quietmind.engine.cancel import Cancel
from quietmind.engine.in_front import InFront
from quietmind.engine.port import Delta, Engine, Finished, Request


class Shared(InFront):
    """An engine that others use too: leaving its block does not end it, and what it does ends with ``cancel``.

    Whatever is asked of it raises Cancelled once ``cancel`` is set.
    """

    def __init__(self, engine: Engine, cancel: Cancel) -> None:
        self._engine = engine
        self._cancel = cancel

    @property
    def behind(self) -> Engine:
        """The engine. Raises Cancelled."""
        self._cancel.require_wanted()
        return self._engine

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt`` until ``cancel`` is set; see the port."""
        yield from self.behind.generate(replace(request, cancel=self._cancel))

    def healthy(self) -> bool:
        """Say whether a request would be taken now."""
        return self._engine.healthy()

    def stop(self) -> None:
        """Do nothing: others use the engine."""
