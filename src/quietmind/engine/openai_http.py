"""OpenAI's HTTP as vLLM, SGLang, Ollama, LM Studio and others speak it: requests, event streams, what errors mean.

Answers are bounded in size and time, since an address that we do not run may answer anything; redirects are never
followed, because the key and the notes would follow them.
"""

from __future__ import annotations

import json
import math
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from quietmind.base.errors import ContextOverflow, EngineError, EngineHung, EngineRefused, EngineUnreachable
from quietmind.engine.cancel import Cancel, Line
from quietmind.engine.port import Endpoint

if TYPE_CHECKING:
    import httpx2

# uvicorn closes an idle connection after 5 s (timeout_keep_alive); a request sent just then would be lost.
_KEEP_ALIVE_SECONDS = 2.0
_CONNECT_SECONDS = 5.0

# How often a connection is looked at that may be silent for longer.
_WATCH_SECONDS = 0.25

# The tokens of the longest prompts (2^20) as JSON numbers take 8 MiB; nothing that we ask for is larger.
LARGEST_ANSWER_BYTES = 64 << 20
LARGEST_EVENT_BYTES = 4 << 20

# Where servers put the thinking of a model that is not part of the answer.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")

Broken = Callable[[EngineError], EngineError]


@dataclass(frozen=True)
class Patience:
    """Seconds of silence that are allowed. No server tells of its progress through a prompt.

    ``prefill`` runs from the request to the first event, ``decode`` from one event to the next, ``call`` is all that
    a short request may take: a list of models, a tokenization.
    """

    prefill: float = 1800.0
    decode: float = 120.0
    call: float = 60.0


class KeyRefused(EngineRefused):
    """The server wants another key than the one that it was given."""


class OpenAIHttp:
    """A client of one server, which ``who`` names in messages.

    ``broken`` is told of every failure that is no answer of the server (EngineUnreachable for a lost connection or
    an answer that cannot be read, EngineHung for silence) and returns the error to raise: whoever owns the server
    knows whether it still lives.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        who: str,
        *,
        patience: Patience | None = None,
        broken: Broken = lambda error: error,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        import httpx2

        self._who = who
        self._broken = broken
        self._patience = patience or Patience()
        self._failures = (
            *(httpx2.HTTPError, httpx2.InvalidURL, httpx2.CookieConflict, httpx2.StreamError),
            *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),  # from reading answers
        )
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}  # a small answer stays small
        if endpoint.key:
            headers["Authorization"] = f"Bearer {endpoint.key}"
        certificates = ssl.create_default_context() if endpoint.url.startswith("https:") else False

        def client(limits: httpx2.Limits) -> httpx2.Client:
            at = endpoint.socket if transport is None else None
            unix = httpx2.HTTPTransport(uds=str(at), limits=limits, trust_env=False) if at is not None else None
            return httpx2.Client(
                base_url=endpoint.url,
                headers=headers,
                verify=certificates,
                limits=limits,
                trust_env=False,  # neither a proxy nor a .netrc of the environment has a part in this
                follow_redirects=False,
                transport=unix or transport,
            )

        self._client = client(httpx2.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS))
        # Each stream has a connection of its own, so that whoever cancels one hangs up on nothing else.
        self._streams = client(httpx2.Limits(max_keepalive_connections=0))
        for each in (self._client, self._streams):
            weakref.finalize(self, each.close)  # for an engine that is dropped instead of stopped

    def get(self, path: str) -> Any:
        """Return the JSON at ``path``. Raises EngineRefused, or what ``broken`` makes of a failure."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any], *, seconds: float | None = None) -> Any:
        """Return the JSON that ``path`` answers to ``body``, within ``seconds`` in the place of ``patience.call``.

        Raises as :meth:`get`; ContextOverflow.
        """
        return self._call("POST", path, body, seconds)

    def stream(self, path: str, body: Mapping[str, Any], cancel: Cancel | None = None) -> Generator[dict[str, Any]]:
        """Yield the JSON of each event that ``path`` sends up to ``[DONE]``.

        Closing the iterator closes the connection, which servers take as a cancellation; so does ``cancel``, at any
        moment and from any thread. Raises as :meth:`post`; Cancelled.
        """
        cancel = cancel or Cancel()
        line = Line()
        with cancel.ending(line.hang_up):
            yield from self._streamed(path, body, line, cancel)

    def _streamed(self, path: str, body: Mapping[str, Any], line: Line, cancel: Cancel) -> Iterator[dict[str, Any]]:
        import httpx2

        # Some servers send the headers at once and some with the first token: both may take as long as the prefill.
        patience = httpx2.Timeout(self._patience.prefill, connect=_CONNECT_SECONDS)
        with self._translated(cancel):
            request = self._streams.build_request(
                "POST",
                path,
                content=encode(body),
                headers={"Connection": "close"},
                timeout=patience,
                extensions={"trace": line.opened},
            )
            response = self._streams.send(request, stream=True)
        try:
            with self._translated(cancel):
                if response.status_code != 200:
                    self._read(response, self._patience.call)
                kind = response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    raise EngineUnreachable(f"{self._who}: {path} answered {kind or 'nothing'} instead of events")
            with Watch(response, self._patience.prefill) as watch:
                yield from self._events(response, watch, cancel)
        finally:
            response.close()

    def answers(self, path: str, seconds: float = 2.0) -> bool:
        """Say whether ``path`` is answered with status 200 within ``seconds``. Never raises."""
        try:
            with self._client.stream("GET", path, timeout=seconds) as response:
                return response.status_code == 200
        except (*self._failures, RuntimeError):  # RuntimeError: the client is closed
            return False

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._streams.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float | None = None) -> Any:
        import httpx2

        seconds = seconds or self._patience.call

        content = None if body is None else encode(body)
        timeout = httpx2.Timeout(seconds, connect=_CONNECT_SECONDS)
        with (
            self._translated(),
            self._client.stream(method, path, content=content, timeout=timeout) as response,
        ):
            return self._read(response, seconds)

    def _events(self, response: httpx2.Response, watch: Watch, cancel: Cancel) -> Iterator[dict[str, Any]]:
        """Yield events, each within its time; comments and other lines are no sign of life."""
        events = data_lines(response.iter_bytes())
        allowed = self._patience.prefill
        while True:
            with self._translated(cancel):
                try:
                    data = next(events, None)
                except Exception as error:
                    if watch.cut:
                        raise self._silent(watch) from error
                    raise
                if data is None:
                    if watch.cut:
                        raise self._silent(watch)
                    raise ValueError("the stream ended before the generation did")
                if data == b"[DONE]":
                    return
                event = json.loads(data)
                if said := _error_of(event):
                    raise refusal(self._who, response.status_code, said)
                if _brings_text(event):
                    allowed = self._patience.decode
                watch.pause()  # whoever reads us may take his time
            yield event
            watch.extend(allowed)

    def _silent(self, watch: Watch) -> EngineHung:
        return EngineHung(f"{self._who} was silent for {watch.seconds:.0f} s; see what it is doing")

    def _read(self, response: httpx2.Response, seconds: float) -> Any:
        """Return the JSON of a whole answer. Raises EngineRefused, ContextOverflow, EngineUnreachable, ValueError."""
        status = response.status_code
        if 300 <= status < 400:
            target = response.headers.get("location", "elsewhere")
            raise EngineUnreachable(
                f"{self._who} sends us on to {target}, which is not followed; if that is the server, give its address"
            )
        raw = _whole(response, time.monotonic() + seconds)
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError):
            content = None
        error = _error_of(content)
        if status == 200 and content is not None and not error:
            return content
        if error or status in {401, 403, 404, 429}:
            raise refusal(self._who, status, error)
        kind = response.headers.get("content-type", "nothing that can be read").partition(";")[0]
        raise EngineUnreachable(
            f"{self._who} answered with status {status} and {kind}; it does not behave as an engine"
        )

    @contextmanager
    def _translated(self, cancel: Cancel | None = None) -> Iterator[None]:
        import httpx2

        try:
            with _hung_up(cancel, self._failures):
                yield
        except (EngineHung, EngineUnreachable) as error:
            raise self._broken(error) from error
        except httpx2.ConnectError as error:
            said = " ".join(str(error).split())
            raise self._broken(
                EngineUnreachable(f"{self._who} cannot be reached ({said}); is it running, and is that its address?")
            ) from error
        except httpx2.TimeoutException as error:
            raise self._broken(EngineHung(f"{self._who} was silent for too long; see what it is doing")) from error
        except self._failures as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise self._broken(
                EngineUnreachable(f"{self._who} gave no answer that could be read ({said}); try again")
            ) from error


@contextmanager
def _hung_up(cancel: Cancel | None, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise Cancelled in the place of a failure that is our own hanging up."""
    try:
        yield
    except failures:
        if cancel is not None:
            cancel.require_wanted()
        raise


def encode(body: Mapping[str, Any]) -> bytes:
    """Return ``body`` as JSON. A lone surrogate has no encoding, and no meaning to a model either."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that hold its output to ``schema``, in OpenAI's words."""
    strict = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": strict}}


def refusal(who: str, status: int, error: str) -> EngineError:
    """Return our error for an error that the server words as ``error``: ContextOverflow or EngineRefused.

    Where a server does not give the numbers of an overflow, both are 0.
    """
    if (numbers := overflow(error)) is not None:
        needed, context = numbers
        counted = f"({needed:,} tokens needed, {context:,} held)" if needed and context else f"({error})"
        return ContextOverflow(
            f"{who}: the prompt and its answer do not fit in the context {counted}; shorten the prompt or start "
            "with a larger context",
            needed=needed,
            context=context,
        )
    if status in {401, 403}:
        return KeyRefused(f"{who} refuses the key that it was given; give the right one")
    said = " ".join(error.split())[:500] or f"status {status}"
    return EngineRefused(f"{who} refused the request: {said}")


# What the servers say of a prompt that is too long: vLLM (renderers/params.py, serve/utils/api_utils.py), OpenAI,
# SGLang (managers/tokenizer_manager.py), llama-server, LM Studio, Ollama.
_LIMIT = (
    r"maximum context length (?:is|of) (?P<context>\d+) tokens",
    r"maximum context length \((?P<context>\d+)\)",
    r"model's context length \((?P<context>\d+) tokens\)",
    r"available context size \((?P<context>\d+) tokens\)",
    r"context length of only (?P<context>\d+) tokens",
)
_WANTED = (
    r"for a total of (?:at least )?(?P<needed>\d+) tokens",
    r"requested a total of (?P<needed>\d+) tokens",
    r"you requested (?P<needed>\d+) tokens",
    r"prompt contains (?:at least )?(?P<needed>\d+) input tokens",
    r"messages resulted in (?P<needed>\d+) tokens",
    r"[Ii]nput(?: length)? \((?P<needed>\d+)(?: tokens)?\)",
    r"request \((?P<needed>\d+) tokens\)",
    r"keep the first (?P<needed>\d+) tokens",
)
_WORDLESS = re.compile(
    r"exceeds?(?: the| model's)? (?:available |maximum |max )?context|exceeded max context length", re.IGNORECASE
)


def overflow(error: str) -> tuple[int, int] | None:
    """Return the tokens needed and the tokens held that ``error`` names, 0 where it does not; None for other errors."""
    context = _number("context", _LIMIT, error)
    if context is None and not _WORDLESS.search(error):
        return None
    return _number("needed", _WANTED, error) or 0, context or 0


def _number(name: str, patterns: tuple[str, ...], text: str) -> int | None:
    found = next(filter(None, (re.search(pattern, text) for pattern in patterns)), None)
    return int(found[name][:18]) if found else None


def _error_of(content: Any) -> str:
    """Return what an answer says went wrong, in whichever of the usual shapes; empty when it says nothing of it."""
    if not isinstance(content, dict):
        return ""
    error = content.get("error")
    if error is None:  # FastAPI, and the flat form of SGLang
        error = content.get("detail") or (content.get("message") if content.get("object") == "error" else None)
    if isinstance(error, dict):
        error = error.get("message") or json.dumps(error)
    return "" if error is None else str(error) or "an error without words"


def _brings_text(event: Any) -> bool:
    """Say whether the prefill is over. A first event with the role alone may come before it."""
    choice = event["choices"][0] if isinstance(event, dict) and event.get("choices") else {}
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(delta.get(field) for field in ("content", *REASONING_FIELDS)))


def _whole(response: httpx2.Response, deadline: float) -> bytes:
    """Return the body. Raises EngineUnreachable past the largest size, EngineHung past ``deadline``."""
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > LARGEST_ANSWER_BYTES:
            raise EngineUnreachable(f"{response.request.url} answers without an end; it is no engine's answer")
        if time.monotonic() > deadline:
            raise EngineHung(f"{response.request.url} did not come to the end of its answer; see what it is doing")
    return bytes(body)


def data_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what stands after ``data:`` on each line. Lines end at a newline only, not at U+2028.

    Raises EngineUnreachable for a line without an end.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(rest) > LARGEST_EVENT_BYTES:
            raise EngineUnreachable("an event without an end came, which is no engine's answer; see what runs there")


class Watch:
    """Cuts the connection of an answer that brings nothing for longer than allowed.

    The client has one read timeout for all of an answer, and the wait for the first token may be a hundred times as
    long as the one between two. ``cut`` says that it came to that; ``seconds`` is the time that was allowed.
    """

    def __init__(self, response: httpx2.Response, seconds: float) -> None:
        stream = response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        self.cut = False
        self.extend(seconds)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(connection,), daemon=True)

    def extend(self, seconds: float) -> None:
        """Allow ``seconds`` from now."""
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds

    def pause(self) -> None:
        """Let it take any time, until :meth:`extend`."""
        self._deadline = math.inf

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()

    def _watch(self, connection: socket.socket | None) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._done.wait(min(left, _WATCH_SECONDS)):
                return
        self.cut = True
        if connection is not None:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
