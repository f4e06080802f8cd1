"""One OpenAI-compatible address in front of every engine that runs: names the models, and passes requests through.

An ASGI application of its own: a few fixed paths need no framework, and every request of any path passes one guard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from quietmind.engine.borrowed import LOAN, RESTORE, SAVE
from quietmind.serve.exchange import ClientGone, Exchange, Receive, Scope, Send
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.serve.loan import as_event, ended, in_loan, lane_of, lend, pass_cache, token_of
from quietmind.serve.refusal import Refusal, refuse
from quietmind.serve.relay import Asked, attended, in_turn, lane_named, relay, relay_lent, route

# The last three are how engines count tokens (llama.cpp's, and those of vLLM and SGLang): without them a client that
# packs a context could only guess.
PASSED_ON = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
    *("/tokenize", "/detokenize", "/apply-template"),
)
MODELS, HEALTH = "/v1/models", "/health"
_POSTED = (*PASSED_ON, LOAN, SAVE, RESTORE)

# A million tokens of text are some 4 MiB; the rest is for images, which come as text three fourths as dense.
LARGEST_BODY = 64 << 20


class Gateway:
    """The lanes of an address, and who may ask there. For one event loop."""

    def __init__(self, lanes: Sequence[Lane], guard: Guard, *, largest_body: int = LARGEST_BODY) -> None:
        self._lanes = tuple(lanes)
        self._guard = guard
        self._largest = largest_body
        self._closing = asyncio.Event()
        self._began = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        token = token_of(exchange.headers)
        lent = None if token is None else lane_of(self._lanes, token)
        open_to_all = exchange.path == HEALTH or token is not None
        refusal = self._guard.check(exchange.headers, open_to_all=open_to_all) or _wrong_method(exchange)
        if refusal is None and token is not None and lent is None:
            refusal = ended()
        if refusal is not None:
            await exchange.refuse(refusal)
        elif exchange.path in _POSTED:
            await self._pass_on(exchange, lent)
        else:
            await self._answer(exchange)

    async def warm(self) -> None:
        """Make ready for the first request."""
        for lane in self._lanes:
            await lane.warm()

    def close(self) -> None:
        """Have every request that is in line or being answered end with an error that says why."""
        self._closing.set()

    async def aclose(self) -> None:
        """Close the connections to the engines."""
        for lane in self._lanes:
            await lane.close()

    async def _pass_on(self, exchange: Exchange, lent: Lane | None) -> None:
        """Answer a request with a body; ``lent`` is the model that its client has borrowed."""
        try:
            body = await exchange.body(self._largest)
        except ClientGone:
            return
        found = body if isinstance(body, Refusal) else self._found(exchange.path, body, lent)
        if isinstance(found, Refusal):
            await exchange.refuse(found)
        elif exchange.path in (SAVE, RESTORE):  # seen through whatever becomes of its client: the model is not free
            await in_loan(found[0], exchange, lambda: pass_cache(found[0], exchange))
        else:
            await attended(_answering(exchange, *found, lent=lent is not None), exchange, self._closing)

    def _found(self, path: str, body: bytes, lent: Lane | None) -> tuple[Lane, Asked] | Refusal:
        """Return the lane that a request is for, and what it asks; or why there is none."""
        if path in (SAVE, RESTORE):
            return ended() if lent is None else (lent, Asked(body, {}))
        found = route(self._lanes, body)
        if lent is None or isinstance(found, Refusal) or (found[0] is lent and path != LOAN):
            return found
        return refuse(403, f"only {lent.name} is lent, and is lent already", code="loan")

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.path == HEALTH:
            ready = all(lane.supervised.state == "ready" for lane in self._lanes)
            await exchange.give_json({"status": "ok" if ready else "degraded"})
        elif exchange.path == MODELS:
            described = [await _described(lane, self._began) for lane in self._lanes]
            await exchange.give_json({"object": "list", "data": described})
        elif exchange.path.startswith(f"{MODELS}/"):
            found = lane_named(self._lanes, exchange.path.removeprefix(f"{MODELS}/"))
            if isinstance(found, Refusal):
                await exchange.refuse(found)
            else:
                await exchange.give_json(await _described(found, self._began))
        else:
            known = ", ".join((*PASSED_ON, MODELS, HEALTH))
            await exchange.refuse(refuse(404, f"nothing is at {exchange.path}; there are {known}", code="path"))


def _answering(exchange: Exchange, lane: Lane, asked: Asked, *, lent: bool) -> Coroutine[Any, Any, None]:
    """Return how a request to ``lane`` is answered; ``lent``: by the client that has borrowed it."""
    if exchange.path == LOAN:
        return in_turn(lane, exchange, lambda headers: lend(lane, exchange, headers), as_event)
    return (relay_lent if lent else relay)(lane, asked, exchange)


async def _described(lane: Lane, began: int) -> dict[str, Any]:
    engine = await lane.engine()
    return {
        "id": lane.name,
        "object": "model",
        "created": began,
        "owned_by": "quietmind",
        "state": lane.supervised.state,
        "max_model_len": None if isinstance(engine, Refusal) else engine.context,  # as vLLM calls the context
    }


def _wrong_method(exchange: Exchange) -> Refusal | None:
    wanted = ("POST",) if exchange.path in _POSTED else ("GET", "HEAD")
    if exchange.method in wanted:
        return None
    return refuse(405, f"{exchange.path} takes {wanted[0]}, not {exchange.method}", code="method")
