"""An engine that several use at once, as one of them sees it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from quietmind.engine.cancel import Cancel
from quietmind.engine.port import Delta, Endpoint, Engine, Finished, Message, Prompt, Request, saving
from quietmind.plan.engines import Capabilities


class Shared:
    """An engine that others use too: leaving its block does not end it, and what it does ends with ``cancel``.

    Implements the ports Engine and Saving. Each call raises Cancelled once ``cancel`` is set.
    """

    def __init__(self, engine: Engine, cancel: Cancel) -> None:
        self._engine = engine
        self._cancel = cancel

    @property
    def model(self) -> str:
        """Name of the model, for people."""
        return self._engine.model

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take."""
        return self._engine.context

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it speaks OpenAI's HTTP."""
        return self._engine.endpoint

    @property
    def build(self) -> str:
        """The engine's build."""
        return saving(self._engine).build

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``; see the port."""
        self._cancel.require_wanted()
        return self._engine.tokenize(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``; see the port."""
        self._cancel.require_wanted()
        return self._engine.render(messages)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt`` until ``cancel`` is set; see the port."""
        self._cancel.require_wanted()
        yield from self._engine.generate(replace(request, cancel=self._cancel))

    def save(self, file: Path) -> int:
        """Write the KV cache that is held to ``file``; see the port."""
        self._cancel.require_wanted()
        return saving(self._engine).save(file)

    def restore(self, file: Path) -> int:
        """Hold the KV cache of ``file``; see the port."""
        self._cancel.require_wanted()
        return saving(self._engine).restore(file)

    def healthy(self) -> bool:
        """Say whether a request would be taken now."""
        return self._engine.healthy()

    def stop(self) -> None:
        """Do nothing: others use the engine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
