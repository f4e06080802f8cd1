"""The client's side of one request, in the words of ASGI: its body, its answer, and whether it is still there."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from quietmind.serve.refusal import Refusal, refuse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """Nobody is there to read the answer."""


class Exchange:
    """One request and its one answer. ``begun``: the answer's head is sent. ``ended``: all of it is."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers: Headers = list(scope["headers"])
        self.begun = False
        self.ended = False
        self._receive = receive
        self._send = send
        self._events = False

    async def body(self, largest: int) -> bytes | Refusal:
        """Return the whole body, or why it is refused. Raises ClientGone."""
        too_large = refuse(413, f"the body is larger than {largest:,} bytes", code="too_large")
        stated = dict(self.headers).get(b"content-length", b"")
        if stated.isdigit() and int(stated) > largest:
            return too_large
        pieces, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > largest:
                return too_large
            if not message.get("more_body", False):
                return b"".join(pieces)

    async def gone(self) -> None:
        """Return when the client has closed its connection. The body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def begin(self, status: int, headers: Headers, *, events: bool) -> None:
        """Send the head of an answer, which is a stream of events or a whole."""
        self.begun, self._events = True, events
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the answer."""
        if piece:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece of the answer."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def give(self, status: int, headers: Headers, content: bytes) -> None:
        """Send a whole answer; in a stream that has begun already, as an event of it."""
        if self.begun:
            await self.end(b"data: " + b" ".join(content.split(b"\n")) + b"\n\n")
            return
        await self.begin(status, [*headers, (b"content-length", b"%d" % len(content))], events=False)
        await self.end(content)

    async def give_json(self, content: Mapping[str, Any]) -> None:
        """Send an answer of ours."""
        body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        await self.give(200, [(b"content-type", b"application/json")], body)

    async def refuse(self, refusal: Refusal, headers: Headers | None = None) -> None:
        """Send an error: as an answer, or as an event of the stream that has begun."""
        if not self.begun:
            await self.give(refusal.status, [*refusal.headers, *(headers or [])], refusal.body)
        elif self._events:
            await self.end(b"\n" + refusal.event)  # an empty line ends what was broken off
        # an answer with a stated length that has begun can only stay short, which clients notice
