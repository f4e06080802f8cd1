"""MCP at /mcp of the address, by streamable HTTP: the archive for assistants that are told a URL.

Requests of the revision of 2026-07-28 stand alone. Earlier ones belong to a session, since a client can cancel a
request only within one; a client that goes away cancels in both.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

from quietmind.base.errors import EngineMissing
from quietmind.serve.archive import Archive
from quietmind.serve.exchange import Receive, Scope, Send
from quietmind.serve.exchanged import as_error
from quietmind.serve.refusal import refuse
from quietmind.serve.served import Served
from quietmind.serve.threads import in_thread

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"

_LARGEST_BODY = 1 << 20  # questions and paths
_MOST_SESSIONS = 1000
_IDLE_SECONDS = 1800.0


def router(served: Served) -> APIRouter:
    """Return the route; none where no notes are served."""
    routes = APIRouter()
    if served.archive is None:
        return routes
    endpoint = _Endpoint(served.archive, served.closing)

    # It describes itself in words of its own, which OpenAPI could not repeat.
    @routes.api_route(PATH, methods=["GET", "POST", "DELETE"], include_in_schema=False)
    async def mcp() -> Response:
        return _Handed(endpoint)

    return routes


class _Handed(Response):
    """A request that the SDK reads and answers itself."""

    def __init__(self, endpoint: _Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._endpoint.answer(scope, receive, send)


class _Endpoint:
    """The SDK's side. It comes to life with its first request, since its imports take a second."""

    def __init__(self, archive: Archive, closing: asyncio.Event) -> None:
        self._archive = archive
        self._closing = closing
        self._living: asyncio.Task[None] | None = None
        self._sessions: asyncio.Future[StreamableHTTPSessionManager] | None = None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, until that is done or the program ends."""
        try:
            sessions = await self._alive()
        except EngineMissing as missing:
            await as_error(refuse(501, str(missing), code="not_installed"))(scope, receive, send)
            return
        if self._closing.is_set():  # while it came to life
            ending = refuse(503, "quietmind is ending; start it again", code="ending")
            await as_error(ending)(scope, receive, send)
            return
        gone = asyncio.Event()

        async def watched() -> dict[str, object]:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            return dict(message)

        from quietmind.serve.mcp_server import GONE

        work = asyncio.ensure_future(sessions.handle_request({**scope, GONE: gone}, watched, send))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({work, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            closing.cancel()
            gone.set()  # whoever still works on it need not
        with suppress(asyncio.CancelledError):
            await work

    async def _alive(self) -> StreamableHTTPSessionManager:
        """Return what answers. Raises EngineMissing where the SDK is not installed."""
        if self._living is None or self._living.done() or self._sessions is None:
            self._sessions = asyncio.get_running_loop().create_future()
            self._living = asyncio.ensure_future(self._live(self._sessions))
        return await asyncio.shield(self._sessions)

    async def _live(self, ready: asyncio.Future[StreamableHTTPSessionManager]) -> None:
        """Serve sessions until the program ends."""
        try:
            sessions = await in_thread(self._made, None)
            async with sessions.run():
                ready.set_result(sessions)
                await self._closing.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    def _made(self) -> StreamableHTTPSessionManager:
        try:
            from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

            from quietmind.serve.mcp_server import server_of
        except ModuleNotFoundError as error:
            raise EngineMissing(f"MCP takes more packages ({error}): pip install 'quietmind[mcp]'") from error
        lane = self._archive.lane
        server = server_of(self._archive, self._archive.settings.embedder, lambda: (lane.name, lane.supervised.state))
        return StreamableHTTPSessionManager(
            server,
            session_idle_timeout=_IDLE_SECONDS,
            max_request_body_size=_LARGEST_BODY,
            max_sessions=_MOST_SESSIONS,
        )
