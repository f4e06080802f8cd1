"""What holds for every request, whatever its path: who may come in, with how much, for how long; and what browsers are
told about every answer. An ASGI application around the one that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from quietmind.serve import cors
from quietmind.serve.attempts import Attempts
from quietmind.serve.discreet import LOG
from quietmind.serve.exchange import Headers, Receive, Scope, Send
from quietmind.serve.guard import WRONG_KEY, Guard, shows_key
from quietmind.serve.limits import Limits
from quietmind.serve.owner import OWNER, is_foreign
from quietmind.serve.refusal import Refusal, failed_inside, refuse

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Message = MutableMapping[str, Any]

# For answers that say nothing of their own about it: text is never run, embedded elsewhere, or kept on a disk.
_USUAL: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
# Answers to wrong keys that are held back; others are given at once.
_HELD_BACK, _LONGEST_HOLD = 32, 2.0


class Door:
    """The way in to ``inside``.

    ``without_key`` says of a request whether it is let in without the key, ``open_ended`` whether its answer may take
    however long.
    """

    def __init__(
        self,
        inside: Application,
        guard: Guard,
        limits: Limits | None = None,
        *,
        without_key: Callable[[Scope], bool] = lambda _scope: False,
        open_ended: Callable[[Scope], bool] = lambda _scope: False,
    ) -> None:
        self._inside = inside
        self._guard = guard
        self._limits = limits or Limits()
        self._without_key = without_key
        self._open_ended = open_ended
        self._attempts = Attempts()
        self._held_back = 0
        self._bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        origin = self._guard.origin_of(scope["headers"])
        visit = _Visit(scope, receive, send, self._limits, origin, self._count)
        # A browser asks whether it may ask before it shows a key.
        before = origin is not None and cors.is_preflight(scope["method"], scope["headers"])
        free = before or self._without_key(scope)
        if (refusal := await self._refused(scope, free=free) or visit.stated_too_large()) is not None:
            await visit.refuse(refusal)
        elif before:
            await visit.send(
                {"type": "http.response.start", "status": 204, "headers": cors.preflight(scope["headers"])}
            )
            await visit.send({"type": "http.response.body"})
        else:
            await self._let_in(scope, visit)

    async def _refused(self, scope: Scope, *, free: bool) -> Refusal | None:
        headers = scope["headers"]
        if refusal := self._limits.head_refused(headers) or _no_upgrade(headers):
            return refusal
        refusal = self._guard.check(headers, open_to_all=free)
        if refusal is None and self._guard.key is None and not free:
            return _foreign_user(scope)
        if refusal is None or refusal.code != WRONG_KEY or not shows_key(headers):
            return refusal
        return await self._wrong_key((scope.get("client") or ("",))[0], refusal)

    async def _wrong_key(self, peer: str, refusal: Refusal) -> Refusal:
        wait = self._attempts.failed(peer)
        if not wait:
            return refusal
        if self._held_back < _HELD_BACK:
            self._held_back += 1
            try:
                await asyncio.sleep(min(wait, _LONGEST_HOLD))
            finally:
                self._held_back -= 1
        message = f"wrong keys were shown too often; wait {wait} s, or send the right one"
        return refuse(429, message, code="too_many_wrong_keys", retry_after_s=wait)

    async def _let_in(self, scope: Scope, visit: _Visit) -> None:
        longest = None if self._open_ended(scope) else self._limits.answer
        try:
            async with asyncio.timeout(longest) as patience:
                await self._inside(scope, visit.receive, visit.send)
        except Exception:
            if patience.expired():
                message = f"the answer took longer than {longest:g} s; ask for less, or raise --time-limit"
                await visit.refuse(refuse(504, message, code="time_limit"))
            else:
                LOG.exception("a request failed inside")
                await visit.refuse(failed_inside())
        finally:
            visit.close()

    def _count(self, size: int) -> bool:
        """Count bytes of bodies that are held; say whether that is too many."""
        self._bodies += size
        return self._bodies > self._limits.bodies


class _Visit:
    """One request: its body is counted, its answer gets the headers that all get."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        limits: Limits,
        origin: str | None,
        count: Callable[[int], bool],
    ) -> None:
        self._stated = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
        self._receive = receive
        self._send = send
        self._limits = limits
        self._origin = origin
        self._count = count
        self._size = 0
        self._begun = False
        self._events = False
        self._ended = False

    def stated_too_large(self) -> Refusal | None:
        """Return why the body is refused by its stated length."""
        too_large = self._stated.isdigit() and int(self._stated[:20]) > self._limits.body
        return self._limits.body_too_large() if too_large else None

    async def receive(self) -> Message:
        """Return what the client sent next. Past the limit it is refused, and the inside is told that it went."""
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._size += size
        too_many = self._count(size)
        if self._size > self._limits.body:
            await self.refuse(self._limits.body_too_large())
        elif too_many:
            await self.refuse(refuse(503, "too much is asked at once; try again", code="busy", retry_after_s=5))
        else:
            return message
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass on what the inside answers; nothing after a refusal of ours."""
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self._begun = True
            headers = [(name.lower(), value) for name, value in message.get("headers", [])]
            kind = dict(headers).get(b"content-type", b"")
            self._events = kind.startswith(b"text/event-stream")
            message = {**message, "headers": self._with_usual(headers)}
        elif not message.get("more_body", False):
            self._ended = True
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error: as an answer, or as an event of the stream that has begun; else break the answer off."""
        if self._ended:
            return
        if not self._begun:
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers})
            await self.send({"type": "http.response.body", "body": refusal.body})
        elif self._events:
            await self.send({"type": "http.response.body", "body": b"\n" + refusal.event})
        self._ended = True

    def close(self) -> None:
        """Let go of the body."""
        self._count(-self._size)

    def _with_usual(self, headers: Headers) -> Headers:
        given = {name for name, _ in headers}
        usual = [(name, value) for name, value in _USUAL if name not in given]
        return [*headers, *usual, *cors.answer(self._origin)]


def _no_upgrade(headers: Headers) -> Refusal | None:
    if any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in headers):
        return refuse(400, "there are no WebSockets here; streams are server-sent events", code="websocket")
    return None


def _foreign_user(scope: Scope) -> Refusal | None:
    if is_foreign(scope.get("state", {}).get(OWNER)):
        return refuse(
            403, "another user of this machine may not ask without a key; set one with --key-file", code="user"
        )
    return None
