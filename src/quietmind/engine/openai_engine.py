"""A model behind OpenAI's HTTP, as an engine of the port; whether it runs in a child of ours or at an address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from quietmind.base.errors import ContextOverflow, EngineCrashed, EngineError, EngineHung, EngineRefused, UsageError
from quietmind.engine.chat_only import fewest_tokens
from quietmind.engine.llama_http import timings as read_timings
from quietmind.engine.openai_http import OpenAIHttp
from quietmind.engine.port import Delta, Endpoint, Finished, Message, Prompt, Request, Timings, require_room
from quietmind.engine.turn import Turn
from quietmind.plan.engines import Capabilities

# The longest published tokens are runs of 128 blanks; past these bounds a server does not count as we do.
_LONGEST_TOKEN = 256
_SPARE = 4096


class Prompts(Protocol):
    """How a server is told of a prompt: as token numbers (ServedTokens), or as messages (ChatOnly)."""

    @property
    def path(self) -> str:
        """Where requests go."""

    @property
    def estimated(self) -> bool:
        """Whether token counts are estimates."""

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt to send."""

    def plain(self, text: str) -> list[int]:
        """Return the tokens of a text alone, without control tokens."""

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt of ``messages``."""

    def body(self, prompt: str, tokens: list[int]) -> Mapping[str, Any]:
        """Return what a request says of its prompt."""

    def held_to(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a request says to hold the output to a JSON schema."""

    def text(self, choice: Mapping[str, Any]) -> str:
        """Return the text of one choice of an event."""


class Host(Protocol):
    """Whatever runs the server: a child of ours, or nobody that we know."""

    @property
    def pid(self) -> int | None:
        """Process id, None for a server that is not ours."""

    def failure(self, error: EngineError | None) -> EngineError | None:
        """Return what ``error`` (or, for None, a look at the process) means for the engine; None if it lives."""

    def end(self) -> None:
        """End the server, if it is ours, and wait until it is gone."""


class Elsewhere:
    """A server that somebody else runs: errors are what they are, and it is not ours to end."""

    pid = None

    def failure(self, error: EngineError | None) -> EngineError | None:
        """Return the error itself."""
        return error

    def end(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Identity:
    """What is known of a running model. ``name`` is for people, ``who`` names the server in messages.

    ``extra`` goes into the body of every generation: what this server understands beyond OpenAI's words.
    """

    name: str
    who: str
    endpoint: Endpoint
    context: int
    capabilities: Capabilities
    extra: Mapping[str, Any] = field(default_factory=dict)
    health: Callable[[OpenAIHttp], bool] = field(default=lambda http: http.answers("/health"))


class OpenAIEngine:
    """A running model. Implements :class:`quietmind.engine.port.Engine`."""

    def __init__(self, identity: Identity, http: OpenAIHttp, prompts: Prompts, host: Host) -> None:
        self._identity = identity
        self._http = http
        self._prompts = prompts
        self._host = host
        self._turn = Turn()
        self._last: tuple[str | None, list[int]] = (None, [])
        self._gone: EngineError | None = None  # why no further call can succeed

    @property
    def model(self) -> str:
        """Name of the model, for people."""
        return self._identity.name

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take, as the server has set it up."""
        return self._identity.context

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do beyond continuing a prompt."""
        return self._identity.capabilities

    @property
    def endpoint(self) -> Endpoint:
        """Where it speaks OpenAI's HTTP."""
        return self._identity.endpoint

    @property
    def counts_estimated(self) -> bool:
        """Whether token counts are estimates, because the server has no tokenizer to ask."""
        return self._prompts.estimated

    @property
    def pid(self) -> int | None:
        """Process id of the child; None for a server that is not ours."""
        return self._host.pid

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text`` alone; see the port. Estimates where ``counts_estimated``."""
        with self._alive():
            return list(self._tokens(text)) if isinstance(text, Prompt) else self._prompts.plain(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``. Raises as the port says."""
        with self._alive():
            return self._prompts.render(messages)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt``; see the port."""
        if not request.prompt:
            raise UsageError("the prompt is empty; there is nothing to continue")
        if request.schema is not None and not self.capabilities.schema:
            raise EngineRefused(
                f"{self._identity.who} cannot hold its output to a schema; choose another engine for this"
            )
        with self._alive():
            tokens = self._tokens(request.prompt)
        if not self.counts_estimated or request.max_tokens < 1:
            require_room(request, len(tokens), self.context)
        with self._turn, self._alive():
            clock = _Clock()
            reason, usage, said = None, _Usage(), []
            body = self._body(request, tokens)
            for event in self._bounded(request, self._http.stream(self._prompts.path, body, request.cancel)):
                usage.read(event)
                if request.prefilled is not None and "prompt_progress" in event:  # llama-server's, where asked for
                    request.prefilled(int(event["prompt_progress"]["processed"]))
                for choice in event.get("choices") or ():
                    reason = choice.get("finish_reason") or reason
                    if piece := self._prompts.text(choice):
                        clock.tick()
                        said.append(piece)
                        yield Delta(piece)
            clock.end()
            yield self._finished(request, "".join(said), reason, usage.timings(clock, len(tokens)))

    def healthy(self) -> bool:
        """Say whether the engine would take a request now. Never raises."""
        return self._gone is None and self._host.failure(None) is None and self._identity.health(self._http)

    def stop(self) -> None:
        """End the engine and wait until it is gone. Calling it again does nothing."""
        if self._gone is None:
            self._gone = EngineRefused("the engine has been stopped; start it again")
        self._http.close()
        self._host.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def broken(self, error: EngineError) -> EngineError:
        """Return what a failed exchange means, after a look at whoever runs the server."""
        if self._gone is not None:  # stopped by another thread
            return self._gone
        failure = self._host.failure(error) or error
        if self._host.pid is not None and isinstance(failure, EngineHung):
            self._host.end()
            self._gone = EngineCrashed(f"{self._identity.who} had hung and was ended; start it again")
        elif isinstance(failure, EngineCrashed):
            self._host.end()
            self._gone = failure
        return failure

    def _tokens(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt; those of the last one are at hand, since whoever asks has counted them."""
        last, tokens = self._last
        if prompt is not last:
            tokens = self._prompts.tokens(prompt)
            self._last = (prompt, tokens)
        return tokens

    def _alive(self) -> _Alive:
        return _Alive(self)

    def require_alive(self) -> None:
        """Raise what ended the engine, if anything did."""
        if self._gone is None and (failure := self._host.failure(None)) is not None:
            self._gone = failure
            self._host.end()
        if self._gone is not None:
            raise type(self._gone)(*self._gone.args)

    def _body(self, request: Request, tokens: list[int]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._identity.endpoint.model,
            **self._prompts.body(request.prompt, tokens),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._identity.extra,
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.schema is not None:
            body |= self._prompts.held_to(request.schema)
        return body

    def _bounded(self, request: Request, events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield ``events``; raise EngineRefused when they bring more than was asked for, as no engine's would."""
        most = request.max_tokens * _LONGEST_TOKEN + _SPARE
        length = 0
        try:
            for event in events:
                if not isinstance(event, dict):
                    raise EngineRefused(f"{self._identity.who} sent an event that is no object; it is no engine's")
                length += 1 + sum(len(self._prompts.text(choice)) for choice in event.get("choices") or ())
                if length > most:
                    raise EngineRefused(
                        f"{self._identity.who} goes on past the {request.max_tokens:,} tokens that were asked for; "
                        "it does not behave as an engine"
                    )
                yield event
        except ContextOverflow as error:
            if error.needed > error.context > 0:
                raise
            # Some servers count the prompt alone, and some name no numbers at all.
            needed = (error.needed or fewest_tokens(request.prompt)) + request.max_tokens
            raise ContextOverflow(str(error), needed=needed, context=error.context or self.context) from error

    def _finished(self, request: Request, text: str, reason: str | None, took: Timings) -> Finished:
        who = self._identity.who
        if reason is None or reason in {"abort", "error"}:
            raise EngineRefused(f"{who} broke off its answer without saying why; try again")
        if self.counts_estimated and 0 < took.cached + took.prompt < fewest_tokens(request.prompt) // 2:
            raise EngineRefused(
                f"{who} has read {took.cached + took.prompt:,} tokens of a prompt that has "
                f"{fewest_tokens(request.prompt):,} words: it has cut it; give it a larger context (Ollama: "
                "OLLAMA_CONTEXT_LENGTH) and try again"
            )
        if request.schema is not None and reason == "stop":
            try:
                json.loads(text)
            except ValueError:
                raise EngineRefused(f"{who} did not keep to the JSON schema; simplify it") from None
        return Finished("length" if reason == "length" else "stop", took)


class _Alive:
    """Within it the engine is alive at the start, and what cannot be read of an answer is the server's fault."""

    def __init__(self, engine: OpenAIEngine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._engine.require_alive()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError | IndexError):
            said = f"{type(error).__name__}: {error}"
            raise EngineRefused(f"{self._engine.model}: the answer cannot be read ({said}); try again") from error


class _Clock:
    """When a request was sent, when its first piece of text came and when the last, in seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.first: float | None = None
        self.pieces = 0

    def tick(self) -> None:
        self.pieces += 1
        if self.first is None:
            self.first = time.monotonic() - self._start

    def end(self) -> None:
        self.total = time.monotonic() - self._start


class _Usage:
    """What a server reports of a generation; counts that it leaves out are taken from what we saw."""

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}

    def read(self, event: Mapping[str, Any]) -> None:
        self._usage = event.get("usage") or self._usage
        self._timings = event.get("timings") or self._timings

    def timings(self, clock: _Clock, sent: int) -> Timings:
        if self._timings:  # llama-server measures by itself
            return read_timings(self._timings)
        cached = int((self._usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        prompt = max(0, int(self._usage.get("prompt_tokens") or sent) - cached)
        predicted = int(self._usage.get("completion_tokens") or clock.pieces)
        first = clock.total if clock.first is None else clock.first
        return Timings(cached, prompt, 1000 * first, predicted, 1000 * (clock.total - first))
