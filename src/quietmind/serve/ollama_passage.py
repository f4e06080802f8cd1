"""A request of Ollama's API on its way: asked again in OpenAI's words at this very address, and the answer retold.

So turns, patience, failures, cancellation and the notes are what they are there; here are only words. The one who went
away is seen there too, since what the client sends is heard through us.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from quietmind.base.errors import UsageError
from quietmind.serve.exchange import ClientGone, Exchange, Headers, Receive, Scope, Send
from quietmind.serve.ollama_answer import BadAnswer, Embedding, Retelling, error_of, told
from quietmind.serve.ollama_request import Fields, Translated, parsed
from quietmind.serve.refusal import Refusal, refuse
from quietmind.serve.served import Served

Message = dict[str, Any]

_LINES = (b"content-type", b"application/x-ndjson")
_WHOLE = (b"content-type", b"application/json")
_PLACE = b"queue position "  # how streams of events say, in a comment, where in line a request stands
_BROKEN_OFF = "the engine broke off its answer; ask again"

# Of a request, what is ASGI's own; the rest was noted down by who routed it to us, and would mislead the next.
_OF_SCOPE = (
    *("type", "asgi", "http_version", "scheme", "root_path", "client", "server", "extensions", "method"),
    *("path", "raw_path", "query_string", "headers"),
)
_OF_BODY = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding", b"accept")


@dataclass(frozen=True)
class Route:
    """A path of Ollama's API: how its requests are translated, and how answers to them are retold."""

    path: str
    translate: Callable[[Fields], Translated]
    telling: Callable[[str], Retelling | Embedding]


class Retold(Response):
    """The answer to a request of ``route``, whose body has not been read yet."""

    def __init__(self, served: Served, route: Route) -> None:
        super().__init__()
        self._served = served
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        try:
            body = await exchange.body(self._served.largest_body)
        except ClientGone:
            return
        asked = body if isinstance(body, Refusal) else self._translated(body)
        if isinstance(asked, Refusal):
            await give(exchange, {"error": asked.message}, asked.status)
            return
        telling = self._route.telling(asked.called)
        if asked.body is None or asked.context is not None:
            lacking = await _lacking(scope, asked)
            if lacking is not None or asked.body is None:
                await give(exchange, *(lacking or (telling.loaded(), 200)))
                return
        back = _Stream(send, telling) if asked.streamed and isinstance(telling, Retelling) else _Answer(send, telling)
        again = _rewritten(scope, "POST", asked.path, asked.body)
        await scope["app"](again, _replayed(asked.body, receive), back)

    def _translated(self, body: bytes) -> _Asked | Refusal:
        try:
            wanted = self._route.translate(parsed(body))
            name = named(self._served, wanted.model)
            said = None if wanted.body is None else json.dumps({**wanted.body, "model": name}).encode("ascii")
        except UsageError as error:
            return refuse(400, str(error))
        except RecursionError:
            return refuse(400, "the body is nested too deeply")
        return _Asked(wanted.path, wanted.model, name, said, wanted.streamed, wanted.context)


@dataclass(frozen=True)
class _Asked:
    """A translated request: ``called`` is the model in the client's words and ``name`` in ours; see Translated."""

    path: str
    called: str
    name: str
    body: bytes | None
    streamed: bool
    context: int | None


def named(served: Served, model: str) -> str:
    """Return how the model that a client names is called here: Ollama's clients add ``:latest`` where no tag stands."""
    if any(model in lane.names for lane in served.lanes):
        return model
    return model.removesuffix(":latest")


async def give(exchange: Exchange, content: Mapping[str, Any], status: int = 200) -> None:
    """Answer with an object of JSON."""
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    await exchange.give(status, [_WHOLE], body)


async def fetched(scope: Scope, path: str) -> tuple[int, bytes]:
    """Return status and content of what this address answers to GET ``path``, asked as the one of ``scope`` may ask."""
    statuses: list[int] = []
    pieces: list[bytes] = []

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            pieces.append(message.get("body", b""))

    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await scope["app"](_rewritten(scope, "GET", path, b""), nothing, collect)
    return statuses[0], b"".join(pieces)


async def _lacking(scope: Scope, asked: _Asked) -> tuple[dict[str, str], int] | None:
    """Return why the model cannot answer, with a status: it is not there, or its context is smaller than asked for."""
    status, content = await fetched(scope, f"/v1/models/{asked.name}")
    if status != 200:
        return error_of(content, status), status
    context = json.loads(content).get("max_model_len")
    if asked.context is None or context is None or asked.context <= context:
        return None
    message = (
        f"num_ctx asks for {asked.context:,} tokens, and {asked.called} runs with a context of {context:,}; "
        f"leave it out, or start the model with `quietmind up --context {asked.context}`"
    )
    return {"error": message}, 400


def _rewritten(scope: Scope, method: str, path: str, body: bytes) -> Scope:
    """Return ``scope`` as that of another request by the same client."""
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in _OF_BODY]
    ours = [_WHOLE, (b"content-length", b"%d" % len(body))] if body else []
    return {
        **{key: scope[key] for key in _OF_SCOPE if key in scope},
        "method": method,
        "path": path,
        "raw_path": quote(path, errors="replace").encode("ascii"),
        "query_string": b"",
        "headers": [*kept, *ours],
    }


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that begins with ``body``, and then hears what the client does."""
    told_of = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return told_of.pop() if told_of else dict(await receive())

    return replay


class _Answer:
    """An answer in one piece, or an error, on its way back: it goes on when it is whole."""

    def __init__(self, send: Send, telling: Retelling | Embedding) -> None:
        self._send = send
        self._telling = telling
        self._status = 200
        self._headers: Headers = []
        self._held = b""

    async def __call__(self, message: Message) -> None:
        """Take a piece of what was answered in OpenAI's words."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(name, value) for name, value in message["headers"] if name.lower() not in _OF_BODY]
            return
        self._held += message.get("body", b"")
        if not message.get("more_body", False):
            await self._give()

    async def _give(self) -> None:
        status, content = self._status, self._retold()
        if "error" in content and status < 400:
            status = 502
        body = _line(content)
        length = (b"content-length", b"%d" % len(body))
        headers = [*self._headers, _WHOLE, length]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _retold(self) -> dict[str, Any]:
        if self._status >= 400:
            return error_of(self._held, self._status)
        try:
            return self._telling.whole(json.loads(self._held))
        except BadAnswer as error:
            return {"error": str(error)}
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return {"error": "the engine's answer is not understood; ask again"}


class _Stream(_Answer):
    """A stream of events on its way back, a line of JSON for each that says something; errors come whole."""

    def __init__(self, send: Send, telling: Retelling) -> None:
        super().__init__(send, telling)
        self._telling: Retelling = telling
        self._events = False
        self._ended = False

    async def __call__(self, message: Message) -> None:
        """Take a piece of what was answered in OpenAI's words."""
        if message["type"] == "http.response.start":
            await super().__call__(message)
            self._events = any(_is_events(*header) for header in message["headers"])
            if self._events:
                start = {**message, "headers": [*self._headers, _LINES]}
                await self._send(start)
        elif not self._events:
            await super().__call__(message)
        else:
            await self._pass_on(message.get("body", b""), more=message.get("more_body", False))

    async def _pass_on(self, piece: bytes, *, more: bool) -> None:
        *lines, self._held = (self._held + piece).split(b"\n")
        said = b"".join(_line(each) for line in lines for each in self._lines_of(line))
        if not more and not self._ended:
            said += _line({"error": _BROKEN_OFF})
        if said or not more:
            await self._send({"type": "http.response.body", "body": said, "more_body": more})

    def _lines_of(self, line: bytes) -> list[dict[str, Any]]:
        """Return what a line of an event stream says in Ollama's words; nothing after the end."""
        if self._ended:
            return []
        try:
            return self._understood(line.strip())
        except BadAnswer as error:
            message = str(error)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            message = "the engine's answer is not understood; ask again"
        self._ended = True
        return [{"error": message}]

    def _understood(self, line: bytes) -> list[dict[str, Any]]:
        kind, colon, content = line.partition(b":")
        content = content.strip()
        if colon and not kind:  # a comment: of the place in line, or a sign of life alone
            place = int(content.removeprefix(_PLACE)) if content.startswith(_PLACE) else None
            return [self._telling.waiting(place)]
        if kind not in (b"data", b"error"):
            return []
        if content == b"[DONE]":
            lines = list(self._telling.last())
            self._ended = True
            return lines
        chunk = json.loads(content)
        if (error := told(chunk if kind == b"data" else {"error": chunk})) is not None:
            raise BadAnswer(error)
        return list(self._telling.chunk(chunk))


def _is_events(name: bytes, value: bytes) -> bool:
    return name.lower() == b"content-type" and value.startswith(b"text/event-stream")


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
