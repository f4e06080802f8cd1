"""One connection of the address, with limits where uvicorn has none.

A client that opens connections and says nothing, or sends its request a byte at a time (slow-loris), must not keep the
others out, nor one that does not read its answer.
"""

from __future__ import annotations

import asyncio
import http
import socket
import ssl
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from quietmind.serve.limits import Limits
from quietmind.serve.owner import OWNER, owner_of
from quietmind.serve.refusal import Refusal, refuse

# A refused body goes on coming until its client has read the refusal; closing at once could lose it (RFC 9112, 9.6).
_LINGER_SECONDS = 2.0
# Bytes of a body that is of no use any more which are taken nevertheless, so that its connection can be used again.
_TAKEN = 1 << 16


class Connection(H11Protocol):
    """A connection whose requests have to come in time, and whose answers have to be taken."""

    limits = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._due: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._state: object = h11.IDLE
        self._since = self.quiet_since = self.loop.time()
        self._received = 0
        self._lingers = False

    @property
    def at_work(self) -> bool:
        """Whether a request has come whole and is being answered."""
        return (answer := self._answer) is not None and not answer.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; where too many do, the one that has waited longest gives way."""
        super().connection_made(cast(asyncio.Transport, _Patient(transport, self._close)))
        if self.client is not None and self.server is not None and self.server[1] is not None:
            self.app_state = {**self.app_state, OWNER: owner_of(self.client, (self.server[0], self.server[1]))}
        self._expect(self.limits.head_seconds)
        if len(self.connections) > self.limits.connections:
            quiet = [each for each in self.connections if isinstance(each, Connection) and not each.at_work]
            min(quiet, key=lambda each: each.quiet_since).transport.abort()  # this one, if all others are at work

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._expect(None)
        self._is_taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends, unless it is of no use any more."""
        if self._lingers:
            return
        if self.conn.their_state is h11.IDLE and self._due is None:  # the first bytes of another request
            self._expect(self.limits.head_seconds)
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request; where much of this one is still coming, let the client read, and close."""
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing() and self._is_large:
            self._linger()
            return
        self.quiet_since = self.loop.time()
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Give the client some time to take what it was sent."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.unread, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has taken some of it."""
        self._is_taken()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. Called by uvicorn where it handles h11's error."""
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            self._break_off(refuse(431, f"the headers are more than {self.limits.head:,} bytes", code="headers"))
        else:
            self._break_off(refuse(400, "this is no HTTP request that can be understood", code="http"))

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing of it: any client may offer a newer protocol."""

    @property
    def _answer(self) -> RequestResponseCycle | None:
        """The answer that is not all sent yet."""
        answer: RequestResponseCycle | None = vars(self).get("cycle")  # None at first, whatever uvicorn declares
        return None if answer is None or answer.response_complete else answer

    @property
    def _is_large(self) -> bool:
        """Whether the body that is coming may be more than is taken for nothing: one of no stated length may."""
        stated = next((value for name, value in self.scope["headers"] if name == b"content-length"), b"")
        return not stated.isdigit() or int(stated[:20]) > _TAKEN

    def _watch(self) -> None:
        """Have the clock run that goes with what the client owes now."""
        state = self.conn.their_state
        if state is self._state or self._lingers or self.transport.is_closing():
            return
        self._state = state
        self._since, self._received = self.loop.time(), 0
        self._expect(self.limits.body_grace if state is h11.SEND_BODY else None)

    def _expect(self, seconds: float | None) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._due = None
        if self.transport.is_closing():
            return
        if self._state is h11.SEND_BODY:
            if self._answer is None:  # it has its answer, and goes on sending
                self.transport.abort()
                return
            if self.flow.read_paused:  # it is we who do not read
                self._since = self.loop.time()
            due = self._since + self.limits.body_grace + self._received / self.limits.body_rate
            if (left := due - self.loop.time()) > 0:
                self._expect(left)
                return
        elif not self._received:  # nobody is there who waits for an answer
            self.transport.close()
            return
        self._break_off(refuse(408, "the request came too slowly", code="too_slow"))

    def _break_off(self, refusal: Refusal) -> None:
        """Close the connection; with an answer that says why, where none has begun."""
        if (answer := self._answer) is not None:
            if answer.response_started:
                self.transport.abort()
                return
            answer.disconnected = True  # nobody is there for what is being made
            answer.message_event.set()
        phrase = http.HTTPStatus(refusal.status).phrase
        lines = [b"HTTP/1.1 %d %s" % (refusal.status, phrase.encode("ascii")), b"connection: close"]
        lines += [name + b": " + value for name, value in refusal.headers]
        self.transport.write(b"\r\n".join([*lines, b"", refusal.body]))
        self._linger()

    def _close(self, close: Callable[[], None]) -> None:
        if self.conn.their_state is h11.SEND_BODY and not self._lingers and not self.transport.is_closing():
            self._linger()
        else:
            close()

    def _linger(self) -> None:
        self._lingers = True
        self._expect(None)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        else:  # TLS
            self.transport.close()

    def _is_taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class _Patient:
    """A transport that is closed as its connection sees fit, and is the one that it wraps in all else."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[Callable[[], None]], None]) -> None:
        self._transport = transport
        self._close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close it, or leave that to whoever lets the client read first."""
        self._close(self._transport.close)


def connections(of: Limits) -> type[Connection]:
    """Return the class of connections that keep to the limits ``of`` an address."""

    class Limited(Connection):
        limits = of

    return Limited


class Server(uvicorn.Server):
    """Serves an address; and another one beside it, ``outside``, by ``tls`` where that is given."""

    def __init__(self, config: Config, outside: socket.socket | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(config)
        self._outside = outside
        self._tls = tls

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. That takes seconds at most; more signals do not hurry it, which would leave parts unended."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self._outside is None or self.should_exit:
            return

        made_by: Any = self.config.http_protocol_class

        def connection() -> Connection:
            made: Connection = made_by(self.config, self.server_state, self.lifespan.state)
            return made

        self.servers.append(
            await asyncio.get_running_loop().create_server(
                connection,
                sock=self._outside,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else Connection.limits.head_seconds,
                backlog=self.config.backlog,
            )
        )
