"""Errors at the paths of Ollama's API, whoever gives them, in the one shape that its clients read: a text."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from quietmind.serve.exchange import Scope, Send
from quietmind.serve.ollama_answer import error_of

_PATHS = "/api/"


def in_ollamas_words(scope: Scope, send: Send) -> Send:
    """Return a ``send`` for a request of ``scope`` that rewrites errors where Ollama's clients ask; else ``send``."""
    asked = scope["type"] == "http" and scope["path"].startswith(_PATHS)
    return _Errors(send) if asked else send


class _Errors:
    """Holds an error until it is whole, and passes all else on as it comes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: MutableMapping[str, Any] | None = None
        self._held = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Take a piece of an answer."""
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._give(self._start)

    async def _give(self, start: MutableMapping[str, Any]) -> None:
        error = error_of(self._held, start["status"])
        body = json.dumps(error, ensure_ascii=False).encode("utf-8", "replace")
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await self._send({**start, "headers": [*kept, (b"content-length", b"%d" % len(body))]})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
