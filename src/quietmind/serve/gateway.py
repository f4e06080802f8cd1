"""One loopback address in front of all that runs: who may ask is looked at first, then the application answers."""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quietmind.base.settings import Settings
from quietmind.engine.borrowed import LOAN, RESTORE, SAVE
from quietmind.serve.app import application, is_open, parts, running
from quietmind.serve.archive import Archive
from quietmind.serve.door import Door
from quietmind.serve.exchange import Exchange, Receive, Scope, Send
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.serve.limits import Limits
from quietmind.serve.loan import ended, lane_of, token_of
from quietmind.serve.ollama_errors import in_ollamas_words
from quietmind.serve.refusal import refuse
from quietmind.serve.relay import PASSED_ON
from quietmind.serve.served import LARGEST_BODY, Served
from quietmind.workspace.launch import Start

# What the token of a loan opens.
_LENT = frozenset((*PASSED_ON, LOAN, SAVE, RESTORE))


class Gateway:
    """What is served, and who may ask there: an ASGI application. For one event loop.

    ``lanes`` are the models that run, ``starts`` how they were planned; ``archive`` answers from the notes of
    ``workspace``. Raises EngineMissing where the packages for serving are not installed.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        guard: Guard,
        *,
        archive: Archive | None = None,
        workspace: Path | None = None,
        settings: Settings | None = None,
        starts: Sequence[Start] = (),
        largest_body: int = LARGEST_BODY,
        limits: Limits | None = None,
    ) -> None:
        self.served = Served(
            tuple(lanes),
            archive,
            workspace,
            settings or Settings(workspace=workspace or Path()),
            tuple(starts),
            largest_body=largest_body,
        )
        self.limits = replace(limits or Limits(), body=largest_body)
        self._parts = parts()
        self._app = application(self.served, self._parts)
        self._door = Door(
            self._answer,
            guard,
            self.limits,
            without_key=self._without_key,
            open_ended=lambda scope: scope["path"] == LOAN,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; or live, as long as the server does."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._counted(scope, receive, in_ollamas_words(scope, send))

    async def warm(self) -> None:
        """Make ready for the first request."""
        for lane in self.served.lanes:
            await lane.warm()

    def close(self) -> None:
        """Have every request that is in line or being answered end with an error that says why."""
        self.served.closing.set()

    async def aclose(self) -> None:
        """Close the connections to the engines."""
        for lane in self.served.lanes:
            await lane.close()
        if self.served.archive is not None:
            self.served.archive.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # that the server starts
        async with running(self.served, self._parts):
            await send({"type": "lifespan.startup.complete"})
            await receive()  # that it ends
        await send({"type": "lifespan.shutdown.complete"})

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), ""

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._door(scope, receive, sent)
        finally:
            # Only routes that there are have names: a client could ask for any number of others.
            route = getattr(scope.get("route"), "path", "none")
            self.served.requests.count(route, status, time.monotonic() - began)

    def _without_key(self, scope: Scope) -> bool:
        return token_of(scope["headers"]) is not None or is_open(scope["path"], self._parts)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = token_of(scope["headers"])
        if token is not None and lane_of(self.served.lanes, token) is None:
            await Exchange(scope, receive, send).refuse(ended())
        elif token is not None and scope["path"] not in _LENT and not is_open(scope["path"], self._parts):
            message = "a loan opens the model that is lent and nothing else; show the key of this address"
            await Exchange(scope, receive, send).refuse(refuse(403, message, code="loan"))
        else:
            # Who asks for the head alone is answered as if for all, of which the server sends the head.
            asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            await self._app(asked, receive, send)
            scope["route"] = asked.get("route")
