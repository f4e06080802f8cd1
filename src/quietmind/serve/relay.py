"""Passes one request to the engine of its model and the answer back, byte for byte, whatever happens on the way.

The client hears of everything: of its place in the line, of an engine that ended, of a stream that broke off. And the
engine hears of the client: one that goes away has its generation cancelled at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import ContextOverflow, LineFull
from quietmind.engine.llama_http import refusal as llama_refusal
from quietmind.engine.openai_http import refusal as openai_refusal
from quietmind.engine.port import Engine
from quietmind.serve.exchange import Exchange, Headers
from quietmind.serve.lane import Lane
from quietmind.serve.lines import WholeLines
from quietmind.serve.loan import in_loan
from quietmind.serve.refusal import Refusal, refuse, refused

if TYPE_CHECKING:
    import httpx2

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
# How engines count tokens (llama.cpp's, and those of vLLM and SGLang): without them a client that packs a context could
# only guess.
COUNTING = ("/tokenize", "/detokenize", "/apply-template")
PASSED_ON = (CHAT, COMPLETIONS, EMBEDDINGS, *COUNTING)

# While a request waits in line its stream shows that it is alive so often, in seconds.
_SIGN_OF_LIFE = 10.0

_TO_ENGINE = (b"content-type", b"accept")  # never the client's key, cookies or address
_NOT_TO_CLIENT = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date", "upgrade", "trailer"}
)


class Asked:
    """A request's body, as it came, and what had to be read of it."""

    def __init__(self, body: bytes, content: Mapping[str, Any]) -> None:
        self._body = body
        self.content = content
        self.streamed = content.get("stream") is True
        # A stream that has to be a call of a tool, or of a schema, may be held back until the call is whole.
        self.piecewise = self.streamed and not content.get("tools") and not content.get("response_format")

    def named(self, model: str) -> bytes:
        """Return the body for an engine that knows its model as ``model``: untouched, unless the name differs."""
        if self.content.get("model") == model:
            return self._body
        return json.dumps({**self.content, "model": model}).encode("ascii")


def understood(body: bytes) -> Asked | Refusal:
    """Return what ``body`` asks; or why it asks nothing."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return refuse(400, "the body is no JSON", code="json")
    if not isinstance(content, dict):
        return refuse(400, "the body must be a JSON object", code="json")
    return Asked(body, content)


def lane_for(lanes: Sequence[Lane], asked: Asked) -> Lane | Refusal:
    """Return the lane of the model that is asked; or why there is none."""
    model = asked.content.get("model")
    if model is None and len(lanes) == 1:
        return lanes[0]
    if not isinstance(model, str):
        known = ", ".join(lane.name for lane in lanes)
        return refuse(400, f"name a model: {known}", code="model_missing")
    return lane_named(lanes, model)


def lane_named(lanes: Sequence[Lane], model: str) -> Lane | Refusal:
    """Return the lane of the model of this name; a refusal that lists the names if there is none."""
    found = next((lane for lane in lanes if model in lane.names), None)
    known = ", ".join(lane.name for lane in lanes)
    return found or refuse(404, f"no model {model!r} runs here; there are {known}", code="model_not_found")


async def relay(lane: Lane, asked: Asked, exchange: Exchange) -> None:
    """Answer a request when its turn has come."""
    await in_turn(lane, exchange, _Passage(lane, asked, exchange).run, place_as_comment if asked.streamed else None)


async def relay_lent(lane: Lane, asked: Asked, exchange: Exchange) -> None:
    """Answer a request of the client that the model is lent to, whose turn it is."""
    await in_loan(lane, exchange, lambda: _Passage(lane, asked, exchange).run([]))


async def attended(answering: Coroutine[Any, Any, None], exchange: Exchange, closing: asyncio.Event) -> None:
    """Answer a request, until that is done, its client goes away, or ``closing`` is set."""
    work = asyncio.ensure_future(answering)
    watched = (asyncio.ensure_future(exchange.gone()), asyncio.ensure_future(closing.wait()))
    try:
        await asyncio.wait({work, *watched}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, *watched):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await work  # cancelled, it closes its connection to the engine first
    if closing.is_set() and not exchange.ended:
        await exchange.refuse(refuse(503, "quietmind is ending; start it again", code="ending"))


async def in_turn(
    lane: Lane, exchange: Exchange, answer: Callable[[Headers], Awaitable[None]], tell: Callable[[int], bytes] | None
) -> None:
    """Wait in line, and have ``answer`` answer once it is the request's turn, with headers that say where it began.

    ``tell`` is how a stream is told of its place whenever that changes; None for an answer in one piece.
    """
    try:
        ticket = lane.turns.join()
    except LineFull as full:
        await exchange.refuse(refuse(429, f"{lane.name}: {full}", code="line_full", retry_after_s=30))
        return
    with ticket:
        headers = [(b"x-queue-position", b"%d" % ticket.place)]
        told = 0
        while place := ticket.place:
            if tell is not None:
                if not exchange.begun:
                    head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"), *headers]
                    await exchange.begin(200, head, events=True)
                # A comment, which readers of event streams pass over, is the sign of life.
                await exchange.write(tell(place) if place != told else b":\n\n")
            told = place
            await ticket.wait(_SIGN_OF_LIFE)
        await answer(headers)


class _Passage:
    """One request on its way: with the engine, and back."""

    def __init__(self, lane: Lane, asked: Asked, exchange: Exchange) -> None:
        self._lane = lane
        self._asked = asked
        self._exchange = exchange
        self._headers: Headers = []
        self._began = time.monotonic()

    async def run(self, headers: Headers) -> None:
        """Answer the client, with what the engine says or with why it does not; ``headers`` go with it."""
        self._headers = headers
        engine = await self._lane.engine()
        if isinstance(engine, Refusal):
            await self._exchange.refuse(engine, self._headers)
            return
        import httpx2

        try:
            await self._exchange_with(engine)
        except TimeoutError:
            await self._exchange.refuse(self._lane.hung(engine), self._headers)
        except (httpx2.HTTPError, httpx2.StreamError, OSError):
            await self._exchange.refuse(await self._lane.failed(engine), self._headers)

    async def _exchange_with(self, engine: Engine) -> None:
        endpoint = engine.endpoint
        if endpoint is None:
            refusal = refuse(501, f"{self._lane.name}: its engine speaks no OpenAI HTTP", code="engine_without_http")
            await self._exchange.refuse(refusal, self._headers)
            return
        client = await self._lane.client(endpoint)
        headers = [(name, value) for name, value in self._exchange.headers if name in _TO_ENGINE]
        request = client.build_request(
            "POST",
            self._exchange.path + (f"?{self._exchange.query}" if self._exchange.query else ""),
            content=self._asked.named(endpoint.model),
            headers=[*headers, (b"accept-encoding", b"identity")],
        )
        patience = self._lane.patience
        first, between = (patience.first, patience.between) if self._asked.piecewise else (patience.whole,) * 2
        async with asyncio.timeout(first):
            response = await client.send(request, stream=True)
        try:
            await self._pass_back(response, _watched(response.aiter_raw(), first, between), engine)
        finally:
            await response.aclose()

    async def _pass_back(self, response: httpx2.Response, pieces: AsyncIterator[bytes], engine: Engine) -> None:
        """Send what the engine answers: events as they come, anything else when it is whole."""
        headers = [(name, value) for name, value in response.headers.raw if _goes_back(name)] + self._headers
        tally = self._lane.tally
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            content = b"".join([piece async for piece in pieces])
            tally.passed(content)
            if response.status_code == 400 and (too_long := _overflow(content)) is not None:
                await self._exchange.refuse(too_long, self._headers)
                return
            await self._exchange.give(response.status_code, headers, content)
            return
        if not self._exchange.begun:
            await self._exchange.begin(response.status_code, headers, events=True)
        lines, silent, told = WholeLines(), True, b""
        async for piece in pieces:
            if silent:
                silent = False
                tally.first_token.add(time.monotonic() - self._began)
            whole = lines.feed(piece)
            told = whole if tally.told_by(whole) else told  # some tell it anew with each token
            await self._exchange.write(whole)
        tally.passed(told)
        if lines.finished:
            await self._exchange.end(lines.rest)
        else:
            await self._exchange.refuse(await self._lane.failed(engine))


def place_as_comment(place: int) -> bytes:
    """Return what a stream is told of its place in the line, as a comment, which readers of events pass over."""
    return b": queue position %d\n\n" % place


def _overflow(content: bytes) -> Refusal | None:
    """Return what an engine says of a prompt that is too long, in OpenAI's words; None where it says anything else.

    Clients look for OpenAI's code, which not one of the engines gives.
    """
    try:
        error = json.loads(content)["error"]
        found = llama_refusal(error) if "n_ctx" in error else openai_refusal("the engine", 400, error["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return refused(found) if isinstance(found, ContextOverflow) else None


async def _watched(pieces: AsyncIterator[bytes], first: float | None, between: float | None) -> AsyncIterator[bytes]:
    """Yield ``pieces``. Raises TimeoutError after so many seconds without one; a client that is slow costs none."""
    patience = first
    while True:
        async with asyncio.timeout(patience):
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece
        patience = between


def _goes_back(header: bytes) -> bool:
    name = header.decode("latin-1").lower()
    return name not in _NOT_TO_CLIENT and not name.startswith("access-control-")
