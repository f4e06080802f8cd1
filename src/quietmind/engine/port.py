"""What every engine can do, whatever runs behind it.

An engine is started by its adapter, used through :class:`Engine`, and ended by ``stop`` (or by leaving its
``with`` block). Whatever goes wrong is raised as one of the EngineError family of ``base.errors``. After EngineCrashed
or EngineHung the child is gone and every further call raises EngineCrashed; after ``stop``, EngineRefused.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

from quietmind.base.errors import ContextOverflow, EngineRefused, UsageError
from quietmind.engine.cancel import Cancel
from quietmind.plan.engines import Capabilities

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Segment:
    """A stretch of a prompt. Only in a ``trusted`` one, which the chat template wrote, are control tokens parsed.

    ``tokens`` are those of ``text``, from this very engine, where the caller has them from an earlier run.
    """

    text: str
    trusted: bool
    tokens: tuple[int, ...] | None = None


class Prompt(str):
    """A prompt that knows which of its words are the template's and which are somebody's.

    Notes and exported chats may hold the very markers that end a turn (``<|im_end|>``); read as control tokens, they
    would let a note speak as the person or as the model. A plain string is trusted whole.
    """

    __slots__ = ("segments",)
    segments: tuple[Segment, ...]

    def __new__(cls, segments: Sequence[Segment]) -> Self:
        """Return the prompt that the texts of ``segments`` make when joined."""
        prompt = super().__new__(cls, "".join(segment.text for segment in segments))
        prompt.segments = tuple(segments)
        return prompt


@dataclass(frozen=True)
class Timings:
    """What a generation took, as the engine measured it. Milliseconds and tokens.

    ``cached`` tokens of the prompt came from the KV cache; ``prompt`` tokens were prefilled.
    """

    cached: int
    prompt: int
    prompt_ms: float
    predicted: int
    predicted_ms: float

    @property
    def prefill_per_second(self) -> float:
        """Prompt tokens prefilled a second; 0 when none were."""
        return 1000 * self.prompt / self.prompt_ms if self.prompt_ms > 0 else 0.0

    @property
    def decode_per_second(self) -> float:
        """Tokens generated a second; 0 when none were."""
        return 1000 * self.predicted / self.predicted_ms if self.predicted_ms > 0 else 0.0


@dataclass(frozen=True)
class Delta:
    """The next piece of generated text."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The last item of every generation that was not broken off."""

    reason: FinishReason
    timings: Timings


@dataclass(frozen=True)
class Request:
    """A prompt (already rendered by the chat template) and how to continue it.

    ``schema`` is a JSON schema that the output is constrained to. ``temperature`` 0 is greedy. ``prefilled``, where
    given, is told along the way how many of the prompt's tokens the engine holds, by one that says so. ``cancel`` set
    by another thread ends the generation within a moment, also before the first token; Cancelled is raised then.
    """

    prompt: str
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    prefilled: Callable[[int], None] | None = field(default=None, compare=False, repr=False)
    cancel: Cancel | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Endpoint:
    """Where a running engine speaks OpenAI's HTTP, for whoever passes requests through untouched.

    Requests go to ``url`` + ``/v1/...`` with ``key`` as the bearer token (empty: none) and ``model`` as the model's
    name. Where ``socket`` is given the connection goes to that Unix socket, and the URL's host is only a name.
    """

    url: str
    key: str
    model: str
    socket: Path | None = None


class Engine(Protocol):
    """A running model."""

    @property
    def model(self) -> str:
        """Name of the model, for people."""

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine, in the version that runs, can do beyond continuing a prompt."""

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it speaks OpenAI's HTTP; None where it does not."""

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text`` alone: no start token added, no control tokens parsed.

        Of a Prompt, the tokens that ``generate`` would send.
        """

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt that the model's own chat template makes of ``messages``, ready for the answer.

        What the messages say never becomes a control token.
        """

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Yield pieces of text as they come, then one Finished. Closing the iterator cancels the generation.

        Nothing happens before the first item is asked for. One generation runs at a time: other threads wait for
        theirs, and the thread that has one open gets EngineRefused.

        Raises UsageError for an empty prompt; ContextOverflow when prompt and ``max_tokens`` exceed the context;
        EngineRefused, EngineCrashed, EngineHung.
        """

    def healthy(self) -> bool:
        """Say whether the engine would take a request now. Never raises."""

    def stop(self) -> None:
        """End the engine and wait until it is gone. Calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


@runtime_checkable
class Saving(Protocol):
    """What an engine whose capabilities name snapshots can do besides: keep the KV cache of its last prompt."""

    @property
    def build(self) -> str:
        """The engine's build: what one saves is for the same one only."""

    def save(self, file: Path) -> int:
        """Write the KV cache that is held now to ``file`` and return its tokens.

        Raises EngineRefused where nothing is held or the file cannot be written, EngineCrashed, EngineHung.
        """

    def restore(self, file: Path) -> int:
        """Hold what :meth:`save` has written, and return its tokens; ``generate`` then finds them cached.

        Raises EngineRefused for a file that the engine does not take, EngineCrashed, EngineHung.
        """


def saving(engine: Engine) -> Saving:
    """Return ``engine`` as one that keeps caches. Raises EngineRefused for one that does not."""
    if isinstance(engine, Saving):
        return engine
    raise EngineRefused(f"{engine.model}: this engine cannot save what it has read; use llama.cpp for notebooks")


@dataclass(frozen=True)
class Position:
    """A place of a continuation: the ``token`` that was taken, the ``text`` that it added, and the likeliest tokens.

    ``logprobs`` are natural logarithms of probabilities over the whole vocabulary, by token.
    """

    token: int
    text: str
    logprobs: Mapping[int, float]


@runtime_checkable
class Probing(Protocol):
    """What an engine that tells probabilities can do besides."""

    def probe(self, prompt: str, tokens: int, top: int) -> tuple[Position, ...]:
        """Continue ``prompt`` greedily by at most ``tokens``; return each place with its ``top`` likeliest tokens.

        Fewer where the model ends. A token that ends within a character makes no place of its own: its text comes with
        the next. Finds its prompt cached, and leaves it so, as ``generate`` does. Raises what that raises, and
        EngineRefused for an answer without probabilities.
        """


def probing(engine: Engine) -> Probing:
    """Return ``engine`` as one that tells probabilities. Raises EngineRefused for one that does not."""
    if isinstance(engine, Probing):
        return engine
    raise EngineRefused(f"{engine.model}: this engine does not tell probabilities; use llama.cpp to measure snapshots")


def require_room(request: Request, prompt_tokens: int, context: int) -> None:
    """Check a request before it is sent. Every adapter calls this, so that all refuse alike.

    Raises UsageError for an empty prompt or output, ContextOverflow when both do not fit in ``context`` tokens.
    """
    if prompt_tokens < 1:
        raise UsageError("the prompt is empty; there is nothing to continue")
    if request.max_tokens < 1:
        raise UsageError(f"max_tokens is {request.max_tokens}; ask for at least one token")
    needed = prompt_tokens + request.max_tokens
    if needed > context:
        raise ContextOverflow(
            f"{prompt_tokens:,} tokens of prompt and {request.max_tokens:,} of answer need {needed:,}, and the context "
            f"holds {context:,}; shorten the prompt or start with a larger context",
            needed=needed,
            context=context,
        )
