"""An engine in front of another one, to which it hands on whatever it does not do itself."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self

from quietmind.engine.port import Delta, Endpoint, Engine, Finished, Message, Prompt, Request, saving
from quietmind.plan.engines import Capabilities


class InFront:
    """Hands everything on to ``behind``. Implements the ports Engine and Saving; a subclass says what it changes."""

    @property
    def behind(self) -> Engine:
        """The engine that is asked now."""
        raise NotImplementedError

    @property
    def model(self) -> str:
        """Name of the model, for people."""
        return self.behind.model

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take."""
        return self.behind.context

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self.behind.capabilities

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the engine speaks OpenAI's HTTP."""
        return self.behind.endpoint

    @property
    def build(self) -> str:
        """The engine's build."""
        return saving(self.behind).build

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``; see the port."""
        return self.behind.tokenize(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``; see the port."""
        return self.behind.render(messages)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt``; see the port."""
        yield from self.behind.generate(request)

    def save(self, file: Path) -> int:
        """Write the KV cache that is held to ``file``; see the port."""
        return saving(self.behind).save(file)

    def restore(self, file: Path) -> int:
        """Hold the KV cache of ``file``; see the port."""
        return saving(self.behind).restore(file)

    def healthy(self) -> bool:
        """Say whether a request would be taken now."""
        return self.behind.healthy()

    def stop(self) -> None:
        """End the engine."""
        self.behind.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
