"""A scripted engine behind the same port, for error paths and for speed. No model, no process, and no time but what a
script asks for.
"""

from __future__ import annotations

import json
import math
import re
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from quietmind.base.errors import EngineCrashed, EngineError, EngineHung, EngineOutOfMemory, EngineRefused
from quietmind.engine.port import (
    Delta,
    Endpoint,
    Finished,
    FinishReason,
    Message,
    Position,
    Prompt,
    Request,
    Segment,
    Timings,
    require_room,
)
from quietmind.engine.turn import Turn
from quietmind.plan.engines import Capabilities

NOTHING_MORE = Capabilities()

_PIECE = re.compile(r"\s?\w+|\s?[^\w\s]|\s")

# A tenth of a second a thousand tokens of prompt, a hundred tokens a second of answer.
_PREFILL_MS, _DECODE_MS = 0.1, 10.0


@dataclass(frozen=True)
class Crash:
    """The engine dies after ``after`` pieces of ``text``; of memory that ran out, or of something else."""

    text: str = ""
    after: int = 0
    out_of_memory: bool = False


@dataclass(frozen=True)
class Hang:
    """The engine falls silent after ``after`` pieces of ``text``, is found out and ended."""

    text: str = ""
    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """The engine answers this one request with an error."""

    message: str = "the fake engine refuses this request"


@dataclass(frozen=True)
class Slow:
    """The engine reads for ``reading`` seconds, and says ``text`` with ``between`` seconds before each piece."""

    text: str
    reading: float = 0.0
    between: float = 0.0


@dataclass(frozen=True)
class Likely:
    """The engine says ``text``, each piece of it with this ``probability``; other texts have ``PROBABILITY``."""

    text: str
    probability: float


PROBABILITY = 0.9

_AT_ONCE = Slow("")

Step = str | Slow | Likely | Crash | Hang | Refuse


class FakeEngine:
    """Answers each request with the next step of ``script``, or with ``script(request)``.

    ``requests`` holds every request that reached the engine, in order. One that finds the script used up raises
    AssertionError: the test expected fewer.
    """

    def __init__(
        self,
        script: Sequence[Step] | Callable[[Request], Step],
        *,
        context: int = 4096,
        model: str = "fake",
        capabilities: Capabilities = NOTHING_MORE,
    ) -> None:
        self.requests: list[Request] = []
        self._script = script
        self._context = context
        self._model = model
        self.capabilities = capabilities
        self.endpoint: Endpoint | None = None
        self.build = "fake 1"
        self._gone: EngineError | None = None
        self._turn = Turn()
        self._cache: list[int] = []
        self._step: Step = ""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take."""
        return self._context

    def tokenize(self, text: str) -> list[int]:
        """Return a number for each word, mark and leftover white space, the same for the same piece everywhere."""
        self._require_alive()
        segments = text.segments if isinstance(text, Prompt) else (Segment(text, True),)
        return [
            token
            for segment in segments
            for token in (_tokens(segment.text) if segment.tokens is None else segment.tokens)
        ]

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the messages one after the other, each under its role, and the assistant's mark."""
        self._require_alive()
        segments = []
        for message in messages:
            segments += [Segment(f"<|{message.role}|>\n", True), Segment(message.content, False), Segment("\n", True)]
        return Prompt([*segments, Segment("<|assistant|>\n", True)])

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Play the next step of the script. The schema of the request is recorded and not looked at."""
        tokens = self.tokenize(request.prompt)
        require_room(request, len(tokens), self._context)
        with self._turn:
            self._require_alive()
            step = self._next_step(request)
            if isinstance(step, Refuse):
                raise EngineRefused(step.message)
            slow = step if isinstance(step, Slow) else _AT_ONCE
            _wait(request, slow.reading)
            cached = self._prefill(tokens)
            if request.prefilled is not None:
                request.prefilled((cached + len(tokens)) // 2)  # as after the first of two batches
            text, reason = _cut(step if isinstance(step, str) else step.text, request)
            spoken = pieces(text)
            if isinstance(step, Crash | Hang):
                spoken = spoken[: step.after]
            for piece in spoken:
                _wait(request, slow.between)
                yield Delta(piece)
                self._require_alive()
            if isinstance(step, Crash):
                self._gone = _crashed(self._model, out_of_memory=step.out_of_memory)
                raise self._gone
            if isinstance(step, Hang):
                self._gone = EngineCrashed(f"{self._model}: the engine had hung and was ended; start it again")
                raise EngineHung(f"{self._model}: the engine was silent for too long and was ended; start it again")
        prefilled = len(tokens) - cached
        yield Finished(
            reason,
            Timings(cached, prefilled, _PREFILL_MS * prefilled, len(spoken), _DECODE_MS * len(spoken)),
        )

    def probe(self, prompt: str, tokens: int, top: int) -> tuple[Position, ...]:
        """Play the next step of the script; the tokens that it does not say share what is left of the probability."""
        said = [event.text for event in self.generate(Request(prompt, tokens)) if isinstance(event, Delta)]
        probability = self._step.probability if isinstance(self._step, Likely) else PROBABILITY
        others = {token: math.log((1 - probability) / top) for token in range(top - 1)} if probability < 1 else {}
        return tuple(Position(_token(piece), piece, {_token(piece): math.log(probability), **others}) for piece in said)

    def save(self, file: Path) -> int:
        """Write the tokens that are held."""
        self._require_alive()
        if not self._cache:
            raise EngineRefused("the fake engine holds no prompt to save")
        file.write_text(json.dumps(self._cache), encoding="ascii")
        return len(self._cache)

    def restore(self, file: Path) -> int:
        """Hold the tokens of ``file``."""
        self._require_alive()
        try:
            self._cache = [int(token) for token in json.loads(file.read_text(encoding="ascii"))]
        except (OSError, ValueError, TypeError) as error:
            raise EngineRefused(f"the fake engine cannot restore {file.name} ({error}); read it again") from error
        return len(self._cache)

    def healthy(self) -> bool:
        """Say whether the engine would take a request now."""
        return self._gone is None

    def stop(self) -> None:
        """End the engine. Calling it again does nothing."""
        self._gone = self._gone or EngineRefused("the engine has been stopped; start it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _require_alive(self) -> None:
        if self._gone is not None:
            raise type(self._gone)(*self._gone.args)

    def _next_step(self, request: Request) -> Step:
        self.requests.append(request)
        if callable(self._script):
            self._step = self._script(request)
        elif len(self.requests) > len(self._script):
            raise AssertionError(f"request {len(self.requests)} of a script of {len(self._script)}: {request}")
        else:
            self._step = self._script[len(self.requests) - 1]
        return self._step

    def _prefill(self, tokens: list[int]) -> int:
        """Return how many leading tokens the cache of the last request holds; like llama.cpp, compute at least one."""
        shared = 0
        while shared < min(len(tokens) - 1, len(self._cache)) and tokens[shared] == self._cache[shared]:
            shared += 1
        self._cache = tokens
        return shared


def _wait(request: Request, seconds: float) -> None:
    """Wait as an engine at work would. Raises Cancelled as soon as nobody wants the answer any more."""
    if request.cancel is not None:
        request.cancel.wait(seconds)
        request.cancel.require_wanted()
    elif seconds:
        time.sleep(seconds)


def _tokens(text: str) -> list[int]:
    return [_token(piece) for piece in pieces(text)]


def _token(piece: str) -> int:
    return zlib.crc32(piece.encode("utf-8", "replace"))


def _crashed(model: str, *, out_of_memory: bool) -> EngineCrashed:
    if out_of_memory:
        return EngineOutOfMemory(f"{model}: the engine found no memory and ended; start it again smaller")
    return EngineCrashed(f"{model}: the engine was ended by SIGSEGV; start it again")


def pieces(text: str) -> list[str]:
    """Cut ``text`` into words and marks with the white space before them; joined, they are ``text`` again."""
    return _PIECE.findall(text)


def _cut(text: str, request: Request) -> tuple[str, FinishReason]:
    """Return what of ``text`` comes before a stop string and within ``max_tokens``, and why it ends there."""
    ends = [position for stop in request.stop if stop and (position := text.find(stop)) >= 0]
    text = text[: min(ends, default=len(text))]
    spoken = pieces(text)
    if len(spoken) > request.max_tokens:
        return "".join(spoken[: request.max_tokens]), "length"
    return text, "stop"
