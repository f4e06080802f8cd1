"""Answers of the routes that no framework gives: through an Exchange of ours, or as JSON whatever it holds.

Starlette's own streams do not notice a client that leaves while nothing is sent, as during a long prefill.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from quietmind.serve.exchange import Exchange, Receive, Scope, Send
from quietmind.serve.refusal import Refusal


class Exchanged(Response):
    """An answer that ``answer`` gives over an Exchange, whose body has not been read yet."""

    def __init__(self, answer: Callable[[Exchange], Awaitable[None]]) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._answer(Exchange(scope, receive, send))


def as_json(content: Any, status: int = 200) -> Response:
    """Return ``content`` as an answer; a file name that is no UTF-8 has its odd bytes replaced."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(body, status, media_type="application/json")


def as_error(refusal: Refusal) -> Response:
    """Return a refusal as an answer."""
    headers = {name.decode("ascii"): value.decode("ascii") for name, value in refusal.headers}
    return Response(refusal.body, refusal.status, headers)
