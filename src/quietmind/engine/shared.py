"""An engine that several use at once, as one of them sees it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

from quietmind.engine.cancel import Cancel
from quietmind.engine.in_front import InFront
from quietmind.engine.port import Delta, Engine, Finished, Message, Prompt, Request


class Shared(InFront):
    """An engine that others use too: leaving its block does not end it, and what it does ends with ``cancel``.

    Whatever is to be done raises Cancelled once ``cancel`` is set; what the engine is, it still says.
    """

    def __init__(self, engine: Engine, cancel: Cancel) -> None:
        self._engine = engine
        self._cancel = cancel

    @property
    def behind(self) -> Engine:
        """The engine."""
        return self._engine

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``; see the port."""
        self._cancel.require_wanted()
        return super().tokenize(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``; see the port."""
        self._cancel.require_wanted()
        return super().render(messages)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt`` until ``cancel`` is set; see the port."""
        self._cancel.require_wanted()
        yield from self._engine.generate(replace(request, cancel=self._cancel))

    def save(self, file: Path) -> int:
        """Write the KV cache that is held to ``file``; see the port."""
        self._cancel.require_wanted()
        return super().save(file)

    def restore(self, file: Path) -> int:
        """Hold the KV cache of ``file``; see the port."""
        self._cancel.require_wanted()
        return super().restore(file)

    def stop(self) -> None:
        """Do nothing: others use the engine."""
