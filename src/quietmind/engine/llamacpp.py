"""llama.cpp in a child process of ours, around the prebuilt ``xllamacpp`` wheel, behind the engine port."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from quietmind.base.errors import (
    EngineCrashed,
    EngineError,
    EngineHung,
    EngineMissing,
    EngineRefused,
    EngineStartFailed,
)
from quietmind.base.paths import shown_path
from quietmind.engine.child import Child
from quietmind.engine.llama_http import LlamaHttp, timings
from quietmind.engine.port import Delta, Endpoint, Finished, Message, Prompt, Request, Segment, require_room
from quietmind.engine.turn import Turn
from quietmind.plan import kv
from quietmind.plan.engines import ENGINES, Capabilities

LOG_NAME = "llamacpp.log"

# The time that a process may take to disappear after its socket has closed.
_DYING_SECONDS = 2.0

_ADVICE = (
    (
        re.compile(r"allocat|bad_alloc|out of memory|SIGKILL", re.IGNORECASE),
        "it takes more memory than there is: choose a smaller context, KV type q8_0 or a smaller model",
    ),
    (
        re.compile(r"corrupt|incomplete|gguf|magic|exceeds remaining file|failed to read|load model", re.IGNORECASE),
        "the file is damaged or of no known format: fetch the model again",
    ),
)


@dataclass(frozen=True)
class LlamaCppOptions:
    """How to run a model.

    ``context`` is in tokens; llama.cpp rounds it up to a multiple of 256 and down to the model's own limit.
    ``kv_type`` is the type of the KV cache, one of ``plan.kv.KV_TYPES``. ``threads`` None leaves the
    choice to llama.cpp: one a physical core.

    ``batch`` tokens of prompt are computed between two looks at the connection: cancelling a prefill, and the sign of
    life that a prefill gives, are as coarse as that. More than ``micro_batch`` gains only where layers are split over
    several GPUs: on a CPU 2,048 and 512 prefill equally fast, and cancelling takes 9.7 s against 2.0 s.

    ``silence_timeout_s`` is how long the engine may give no sign of life at all, neither a token nor the progress of
    the prefill by one batch, before it counts as hung; it has to cover a batch on the slowest machine.
    """

    model_path: Path
    context: int
    kv_type: str = "f16"
    threads: int | None = None
    batch: int = 512
    micro_batch: int = 512
    flash_attention: Literal["auto", "on", "off"] = "auto"
    start_timeout_s: float = 900.0
    silence_timeout_s: float = 300.0


class LlamaCpp:
    """A running llama.cpp. Implements :class:`quietmind.engine.port.Engine`."""

    def __init__(self, child: Child, address: str, key: str, options: LlamaCppOptions) -> None:
        self._child = child
        self._options = options
        self._turn = Turn()
        self._gone: EngineError | None = None  # why no further call can succeed
        self._endpoint = Endpoint(address, key, options.model_path.stem)
        self._http = LlamaHttp(address, key, silence=options.silence_timeout_s, broken=self._broken)
        settings = self._field(self._http.get("/props"), "default_generation_settings")
        self._context = int(self._field(settings, "n_ctx"))

    @classmethod
    def start(cls, options: LlamaCppOptions, log_folder: Path | None = None) -> Self:
        """Start the child and wait until it serves.

        Its log goes to ``llamacpp.log`` in ``log_folder`` (the run before is kept as ``llamacpp.log.1``), or to a
        temporary file. Raises UsageError for an unknown KV type, EngineMissing or EngineStartFailed.
        """
        kv.kv_type(options.kv_type)
        shown = shown_path(options.model_path)
        if not options.model_path.exists():
            raise EngineStartFailed(f"{shown}: there is no such model file; check the path or fetch the model")
        key = secrets.token_hex(32)
        first_line = asdict(options) | {
            "model_path": str(options.model_path.absolute()),
            "model_name": options.model_path.stem,
            "key": key,
        }
        try:
            child = Child.spawn(
                "quietmind.engine.llamacpp_child", first_line, log_folder / LOG_NAME if log_folder else None
            )
        except OSError as error:
            raise EngineStartFailed(f"{shown}: llama.cpp could not be started ({error})") from error
        try:
            return cls(child, _address(child, options), key, options)
        except BaseException:  # KeyboardInterrupt too: nothing may be left behind
            child.end()
            raise

    @property
    def model(self) -> str:
        """Name of the model's file, without its ending."""
        return self._options.model_path.stem

    @property
    def context(self) -> int:
        """Tokens that prompt and output together may take, as the engine has set it up."""
        return self._context

    @property
    def capabilities(self) -> Capabilities:
        """What llama.cpp can do beyond continuing a prompt."""
        return ENGINES["llama.cpp"].capabilities

    @property
    def endpoint(self) -> Endpoint:
        """Where the child speaks OpenAI's HTTP."""
        return self._endpoint

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

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
        if request.schema is not None:
            body["json_schema"] = request.schema
        with self._turn:
            self._require_alive()
            self._child.mark_log()
            text: list[str] = []
            last: dict[str, Any] = {}
            for last in self._http.stream("/completion", body):
                if piece := str(last.get("content", "")):
                    text.append(piece)
                    yield Delta(piece)
        if request.schema is not None:
            self._require_kept("".join(text), ended=last.get("stop_type") == "eos")
        yield self._finished(last)

    def healthy(self) -> bool:
        """Say whether the engine would take a request now. Never raises; waits 2 seconds at most."""
        return self._gone is None and self._child.ending() is None and self._http.healthy()

    def stop(self) -> None:
        """End the child and wait until it is gone. Calling it again does nothing."""
        if self._gone is None:
            self._gone = EngineRefused("the engine has been stopped; start it again")
        self._http.close()
        self._child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """Return the tokens to send: the start token, and control tokens only from what the template wrote."""
        segments = prompt.segments if isinstance(prompt, Prompt) else (Segment(prompt, True),)
        tokens: list[int] = []
        for number, segment in enumerate(segments):
            tokens += self._tokens(segment.text, start=number == 0, special=segment.trusted)
        return tokens

    def _tokens(self, text: str, *, start: bool, special: bool) -> list[int]:
        self._require_alive()
        answer = self._http.post("/tokenize", {"content": text, "add_special": start, "parse_special": special})
        return [int(token) for token in self._field(answer, "tokens")]

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
            self._gone = self._crashed(ending)
            self._child.end()
        if self._gone is not None:
            raise type(self._gone)(*self._gone.args)

    def _broken(self, error: Exception) -> EngineError:
        """Return what a failed exchange means, after having looked at the child."""
        import httpx2

        if self._gone is not None:  # stopped by another thread
            return self._gone
        if isinstance(error, httpx2.TimeoutException):
            seconds = self._options.silence_timeout_s
            self._child.end()
            self._gone = EngineCrashed("llama.cpp had hung and was ended; start the engine again")
            return EngineHung(f"{self.model}: llama.cpp was silent for {seconds:.0f} s and was ended; start it again")
        ending = self._child.ending(_DYING_SECONDS) if isinstance(error, httpx2.HTTPError | OSError) else None
        if ending is None:
            return _unreadable(error)
        self._gone = self._crashed(ending)
        self._child.end()
        return self._gone

    def _crashed(self, ending: str) -> EngineCrashed:
        said = self._child.trouble() or "its log says nothing"
        advice = "; the system ends processes this way when memory runs out" if ending == "by SIGKILL" else ""
        return EngineCrashed(f"{self.model}: llama.cpp was ended {ending} ({said}){advice}; start it again")


def _address(child: Child, options: LlamaCppOptions) -> str:
    """Wait for the child to serve and return its address. Raises EngineMissing or EngineStartFailed."""
    shown = shown_path(options.model_path)
    try:
        answer = child.report(options.start_timeout_s)
    except TimeoutError:
        raise EngineStartFailed(
            f"{shown}: llama.cpp was not ready after {options.start_timeout_s:.0f} s; allow more time or see what "
            "the disk is doing"
        ) from None
    if answer is None:
        ending = child.ending(_DYING_SECONDS) or "without a word"
        raise EngineStartFailed(_start_failure(shown, f"ended {ending}", child.trouble()))
    if "missing" in answer:
        raise EngineMissing(f"llama.cpp is not installed ({answer['missing']}): pip install 'quietmind[llamacpp]'")
    if "address" not in answer:
        raise EngineStartFailed(_start_failure(shown, str(answer.get("failed")), child.trouble()))
    return str(answer["address"])


def _start_failure(shown: str, ending: str, trouble: str) -> str:
    reason = " ".join((trouble or ending).split())
    advice = next((advice for pattern, advice in _ADVICE if pattern.search(reason)), f"{LOG_NAME} says more")
    return f"{shown}: llama.cpp could not start ({reason}); {advice}"


def _unreadable(error: Exception) -> EngineRefused:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return EngineRefused(f"llama.cpp gave no answer that could be read ({said}); try again")
