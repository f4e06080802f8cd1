"""A running server of llama.cpp behind the engine port, whoever built it: over HTTP, on a Unix socket of its own."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from quietmind.base.errors import (
    EngineCrashed,
    EngineError,
    EngineHung,
    EngineMissing,
    EngineOutOfMemory,
    EngineRefused,
    EngineStartFailed,
    OutOfMemoryAtStart,
)
from quietmind.base.paths import shown_path
from quietmind.engine.child import Child
from quietmind.engine.llama_http import LlamaHttp, positions, timings
from quietmind.engine.llamacpp_child import MISSING
from quietmind.engine.meeting_place import MeetingPlace
from quietmind.engine.port import (
    Delta,
    Endpoint,
    Finished,
    Message,
    Position,
    Prompt,
    Request,
    Segment,
    require_room,
)
from quietmind.engine.program import Program
from quietmind.engine.turn import Turn
from quietmind.plan.engines import Capabilities

# The time that a process may take to disappear after its socket has closed.
_DYING_SECONDS = 2.0
_LOOK_SECONDS = 0.02

# Template text to remember the tokens of: asking for them takes a millisecond each time, before the first token.
_LONGEST_MARK = 1024
_MOST_MARKS = 64

# The one slot that a plan of one sequence has; a prompt in it is what a snapshot keeps.
_SLOT = 0

_SMALLER = "it takes more memory than there is: choose a smaller context, KV type q8_0 or a smaller model"
_ADVICE = (
    (re.compile(r"allocat|bad_alloc|out of memory", re.IGNORECASE), _SMALLER),
    (
        re.compile(r"^ended by SIGKILL$"),
        "something else ended it, the system perhaps: see what did, and start it again",
    ),
    (
        re.compile(r"corrupt|incomplete|gguf|magic|exceeds remaining file|failed to read|load model", re.IGNORECASE),
        "the file is damaged or of no known format: fetch the model again",
    ),
)


@dataclass(frozen=True)
class Serving:
    """What is served and by what, and how long it may take.

    ``title`` and ``build`` name the server in messages and snapshots. ``log`` None: a file that goes with the child.

    ``silence_timeout_s`` is how long the engine may give no sign of life at all, neither a token nor the progress of
    the prefill by one batch, before it counts as hung; it has to cover a batch on the slowest machine.
    """

    title: str
    model_path: Path
    capabilities: Capabilities
    build: str
    log: Path | None
    start_timeout_s: float = 900.0
    silence_timeout_s: float = 300.0

    @property
    def name(self) -> str:
        """Name of the model's file, without its ending."""
        return self.model_path.stem


class LlamaEngine:
    """A running server of llama.cpp. Implements the ports Engine, Saving and Probing."""

    def __init__(self, child: Child, place: MeetingPlace, key: str, serving: Serving) -> None:
        self._child = child
        self._place = place
        self._serving = serving
        self._turn = Turn()
        self._marks: dict[tuple[str, bool], list[int]] = {}
        self._gone: EngineError | None = None  # why no further call can succeed
        self._endpoint = Endpoint("http://localhost", key, serving.name, place.socket)
        self._http = LlamaHttp(
            self._endpoint.url, key, silence=serving.silence_timeout_s, broken=self._broken, at=place.socket
        )
        self._wait()
        place.forget()
        props = self._http.get("/props")
        self._context = int(self._field(self._field(props, "default_generation_settings"), "n_ctx"))
        self._build = f"{serving.build} {props.get('build_info', '')}".strip()

    @classmethod
    def launch(cls, serving: Serving, program: Callable[[MeetingPlace, str], Program]) -> Self:
        """Start ``program(place, key)`` and wait until it serves at the place's socket, for requests with the key.

        Raises EngineMissing, EngineStartFailed, or of the latter OutOfMemoryAtStart.
        """
        if not serving.model_path.exists():
            raise EngineStartFailed(
                f"{shown_path(serving.model_path)}: there is no such model file; check the path or fetch the model"
            )
        place, key, child = MeetingPlace(), secrets.token_hex(32), None
        try:
            child = Child.run(program(place, key), serving.log)
            return cls(child, place, key, serving)
        except BaseException:  # KeyboardInterrupt too: nothing may be left behind
            if child is not None:
                child.end()
            place.close()
            raise

    @property
    def model(self) -> str:
        """Name of the model's file, without its ending."""
        return self._serving.name

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take, as the engine has set it up."""
        return self._context

    @property
    def capabilities(self) -> Capabilities:
        """What this build can do beyond continuing a prompt."""
        return self._serving.capabilities

    @property
    def endpoint(self) -> Endpoint:
        """Where the child speaks OpenAI's HTTP."""
        return self._endpoint

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._child.pid

    @property
    def sealed(self) -> bool:
        """Whether the server has a network of its own, in which nobody is."""
        return self._child.sealed

    @property
    def build(self) -> str:
        """The server's build; what it saves is for the same one only."""
        return self._build

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text`` alone; see the port. Raises EngineRefused, EngineCrashed or EngineHung."""
        return self._prompt_tokens(text) if isinstance(text, Prompt) else self._tokens(text, start=False, special=False)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt for ``messages``. Raises EngineRefused, EngineCrashed or EngineHung."""
        self._require_alive()
        # The template is given a word that nobody can guess in the place of each message, and so cannot mix them up.
        places = {f"q{secrets.token_hex(16)}q": message for message in messages}
        body = [{"role": message.role, "content": place} for place, message in places.items()]
        answer = self._http.post("/apply-template", {"messages": body})
        prompt = str(self._field(answer, "prompt"))
        segments = []
        for piece in re.split(f"({'|'.join(places)})", prompt) if places else [prompt]:
            message = places.get(piece)
            segments.append(Segment(piece, True) if message is None else Segment(message.content, False))
        return Prompt(segments)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt``; see the port.

        A schema that the engine does not understand is dropped by it, with a word in its log alone: EngineRefused is
        then raised in the place of the last item.
        """
        body = self._body(request)
        with self._turn:
            self._require_alive()
            self._child.mark_log()
            text: list[str] = []
            last: dict[str, Any] = {}
            for last in self._http.stream("/completion", body, request.cancel):
                if request.prefilled is not None and "prompt_progress" in last:
                    request.prefilled(int(self._field(last["prompt_progress"], "processed")))
                if piece := str(last.get("content", "")):
                    text.append(piece)
                    yield Delta(piece)
        if request.schema is not None:
            self._require_kept("".join(text), ended=last.get("stop_type") == "eos")
        yield self._finished(last)

    def probe(self, prompt: str, tokens: int, top: int) -> tuple[Position, ...]:
        """Continue ``prompt`` greedily and say what was likely at each place; see the port."""
        body = self._body(Request(prompt, tokens)) | {"n_probs": top}
        with self._turn:
            self._require_alive()
            events = list(self._http.stream("/completion", body))
        try:
            # Of a token that ends within a character, the server sends no event.
            found = positions(place for event in events for place in event.get("completion_probabilities", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        if not found:
            raise EngineRefused(f"{self.model}: {self._serving.title} told no probabilities; update it")
        return found

    def save(self, file: Path) -> int:
        """Write the KV cache of the last prompt to ``file`` and return its tokens; see the port."""
        return self._slot("save", file, "n_saved")

    def restore(self, file: Path) -> int:
        """Hold what :meth:`save` has written, and return its tokens; see the port."""
        return self._slot("restore", file, "n_restored")

    def healthy(self) -> bool:
        """Say whether the engine would take a request now. Never raises; waits 2 seconds at most."""
        return self._gone is None and self._child.ending() is None and self._http.healthy()

    def stop(self) -> None:
        """End the child and wait until it is gone. Calling it again does nothing."""
        if self._gone is None:
            self._gone = EngineRefused("the engine has been stopped; start it again")
        self._http.close()
        self._child.end()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _body(self, request: Request) -> dict[str, Any]:
        """Return what the server is sent for ``request``. Raises UsageError, ContextOverflow and as ``tokenize``."""
        tokens = self._prompt_tokens(request.prompt)
        require_room(request, len(tokens), self._context)
        body: dict[str, Any] = {
            "prompt": tokens,
            "n_predict": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop": list(request.stop),
            "stream": True,
            "return_progress": True,  # an event a batch of prefill: the sign of life of a long prompt
            "cache_prompt": True,
        }
        return body if request.schema is None else body | {"json_schema": request.schema}

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """Return the tokens to send: the start token, and control tokens only from what the template wrote."""
        segments = prompt.segments if isinstance(prompt, Prompt) else (Segment(prompt, True),)
        tokens: list[int] = []
        for number, segment in enumerate(segments):
            if segment.tokens is not None:
                tokens += segment.tokens
            elif segment.trusted and len(segment.text) <= _LONGEST_MARK:
                tokens += self._mark_tokens(segment.text, start=number == 0)
            else:
                tokens += self._tokens(segment.text, start=number == 0, special=segment.trusted)
        return tokens

    def _mark_tokens(self, text: str, *, start: bool) -> list[int]:
        """Return the tokens of what the template writes around messages, which is the same in every prompt."""
        known = self._marks.get((text, start))
        if known is None:
            if len(self._marks) >= _MOST_MARKS:
                self._marks.clear()
            known = self._marks[text, start] = self._tokens(text, start=start, special=True)
        return known

    def _tokens(self, text: str, *, start: bool, special: bool) -> list[int]:
        self._require_alive()
        answer = self._http.post("/tokenize", {"content": text, "add_special": start, "parse_special": special})
        return [int(token) for token in self._field(answer, "tokens")]

    def _slot(self, action: str, file: Path, count: str) -> int:
        """Have the server write or read ``file``, which it is told of by a link: it takes names in one folder only."""
        link = slots_folder(self._place) / secrets.token_hex(8)
        link.symlink_to(file.absolute())
        try:
            with self._turn:
                self._require_alive()
                answer = self._http.post(f"/slots/{_SLOT}?action={action}", {"filename": link.name})
        finally:
            link.unlink()
        tokens = int(self._field(answer, count))
        if tokens < 1:
            raise EngineRefused(f"{self.model}: {self._serving.title} holds no prompt to {action}; read one first")
        return tokens

    def _require_kept(self, text: str, *, ended: bool) -> None:
        """Raise EngineRefused if the schema was not followed, as far as the log and the output tell."""
        trouble = self._child.trouble()
        if "schema" in trouble:
            raise EngineRefused(f"llama.cpp does not understand the JSON schema ({trouble}); simplify it")
        try:
            if ended:
                json.loads(text)
        except ValueError:
            raise EngineRefused("llama.cpp did not keep to the JSON schema; simplify it") from None

    def _finished(self, last: dict[str, Any]) -> Finished:
        try:
            # "limit" is the number of tokens asked for or the end of the context.
            return Finished("length" if last["stop_type"] == "limit" else "stop", timings(last["timings"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(error) from error

    def _field(self, answer: Any, name: str) -> Any:
        try:
            return answer[name]
        except (KeyError, TypeError) as error:
            raise _unreadable(error) from error

    def _require_alive(self) -> None:
        if self._gone is None and (ending := self._child.ending()) is not None:
            self._lose(self._crashed(ending))
        if self._gone is not None:
            raise type(self._gone)(*self._gone.args)

    def _broken(self, error: Exception) -> EngineError:
        """Return what a failed exchange means, after having looked at the child."""
        import httpx2

        if self._gone is not None:  # stopped by another thread
            return self._gone
        if isinstance(error, httpx2.TimeoutException):
            seconds = self._serving.silence_timeout_s
            self._lose(EngineCrashed(f"{self._serving.title} had hung and was ended; start it again"))
            return EngineHung(
                f"{self.model}: {self._serving.title} was silent for {seconds:.0f} s and was ended; start it again"
            )
        ending = self._child.ending(_DYING_SECONDS) if isinstance(error, httpx2.HTTPError | OSError) else None
        if ending is None:
            return _unreadable(error)
        return self._lose(self._crashed(ending))

    def _lose(self, why: EngineCrashed) -> EngineCrashed:
        """End what is left of the server, which every further call is told of."""
        self._gone = why
        self._child.end()
        self._place.close()
        return why

    def _crashed(self, ending: str) -> EngineCrashed:
        said = self._child.trouble() or "its log says nothing"
        what = f"{self.model}: {self._serving.title} was ended {ending} ({said})"
        if self._child.out_of_memory():
            return EngineOutOfMemory(f"{what}; {_SMALLER}")
        return EngineCrashed(f"{what}; start it again")

    def _wait(self) -> None:
        """Wait until the server serves. Raises EngineMissing, EngineStartFailed."""
        shown, title, patience = (
            shown_path(self._serving.model_path),
            self._serving.title,
            self._serving.start_timeout_s,
        )
        deadline = time.monotonic() + patience
        while not (self._http.healthy()):
            if (ending := self._child.ending()) is not None:
                raise self._start_failure(ending)
            if time.monotonic() > deadline:
                raise EngineStartFailed(
                    f"{shown}: {title} was not ready after {patience:.0f} s; allow more time or see what the "
                    "disk is doing"
                )
            time.sleep(_LOOK_SECONDS)

    def _start_failure(self, ending: str) -> EngineError:
        no_memory, trouble = self._child.out_of_memory(), self._child.trouble()
        # Nothing that it printed says why it was killed.
        last = "" if no_memory or ending == "by SIGKILL" else "".join(f": {line}" for line in self._child.log_tail(1))
        reason = " ".join((trouble or f"ended {ending}{last}").split())
        shown, title = shown_path(self._serving.model_path), self._serving.title
        if ending == f"with exit status {MISSING}":
            return EngineMissing(f"{title} is not installed ({reason}): pip install 'quietmind[llamacpp]'")
        if no_memory:
            return OutOfMemoryAtStart(f"{shown}: {title} could not start ({reason}); {_SMALLER}")
        log = "its log" if self._serving.log is None else self._serving.log.name
        advice = next((advice for pattern, advice in _ADVICE if pattern.search(reason)), f"{log} says more")
        return EngineStartFailed(f"{shown}: {title} could not start ({reason}); {advice}")


def slots_folder(place: MeetingPlace) -> Path:
    """Return the folder that a server at ``place`` is to be given for its slots; made where it is not there."""
    folder = place.folder / "slots"
    folder.mkdir(exist_ok=True)
    return folder


def _unreadable(error: Exception) -> EngineRefused:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return EngineRefused(f"llama.cpp gave no answer that could be read ({said}); try again")
