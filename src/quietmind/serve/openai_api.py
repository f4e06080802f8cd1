"""OpenAI's API: the models that run, as they are, and the notes of the workspace as one more model."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from quietmind.engine.borrowed import LOAN, RESTORE, SAVE
from quietmind.serve.exchange import ClientGone, Exchange
from quietmind.serve.exchanged import Exchanged, as_json
from quietmind.serve.lane import Lane
from quietmind.serve.loan import as_event, ended, in_loan, lane_of, lend, pass_cache, token_of
from quietmind.serve.refusal import Refusal, Refused, refuse
from quietmind.serve.relay import PASSED_ON, Asked, attended, in_turn, lane_named, relay, relay_lent, route
from quietmind.serve.served import Served

MODELS, HEALTH = "/v1/models", "/health"
OPEN = (HEALTH,)


def router(served: Served) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    async def pass_on() -> Response:
        return Exchanged(lambda exchange: _pass_on(served, exchange))

    for path in (*PASSED_ON, LOAN, SAVE, RESTORE):
        routes.add_api_route(path, pass_on, methods=["POST"], response_class=Response)

    @routes.get(HEALTH)
    async def health() -> Response:
        ready = all(lane.supervised.state == "ready" for lane in served.lanes)
        return as_json({"status": "ok" if ready else "degraded"})

    @routes.get(MODELS)
    async def models() -> Response:
        described = [await _described(lane, served.began) for lane in served.lanes]
        return as_json({"object": "list", "data": described})

    @routes.get(MODELS + "/{model:path}")
    async def model(model: str) -> Response:
        found = lane_named(served.lanes, model)
        if isinstance(found, Refusal):
            raise Refused(found)
        return as_json(await _described(found, served.began))

    return routes


async def _pass_on(served: Served, exchange: Exchange) -> None:
    """Answer a request with a body."""
    token = token_of(exchange.headers)
    lent = None if token is None else lane_of(served.lanes, token)
    try:
        body = await exchange.body(served.largest_body)
    except ClientGone:
        return
    found = body if isinstance(body, Refusal) else _found(served.lanes, exchange.path, body, lent)
    if isinstance(found, Refusal):
        await exchange.refuse(found)
    elif exchange.path in (SAVE, RESTORE):  # seen through whatever becomes of its client: the model is not free
        await in_loan(found[0], exchange, lambda: pass_cache(found[0], exchange))
    else:
        await attended(_answering(exchange, *found, lent=lent is not None), exchange, served.closing)


def _found(lanes: Sequence[Lane], path: str, body: bytes, lent: Lane | None) -> tuple[Lane, Asked] | Refusal:
    """Return the lane that a request is for, and what it asks; or why there is none."""
    if path in (SAVE, RESTORE):
        return ended() if lent is None else (lent, Asked(body, {}))
    found = route(lanes, body)
    if lent is None or isinstance(found, Refusal) or (found[0] is lent and path != LOAN):
        return found
    return refuse(403, f"only {lent.name} is lent, and is lent already", code="loan")


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
