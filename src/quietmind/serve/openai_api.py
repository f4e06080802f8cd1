"""OpenAI's API: the models that run, as they are, and the notes of the workspace as one more model."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from quietmind.base.errors import QuietmindError
from quietmind.engine.borrowed import LOAN, RESTORE, SAVE
from quietmind.serve.archive_names import archive_names, means_archive
from quietmind.serve.archive_openai import answer, wanted
from quietmind.serve.embeddings import embed, embedder_name
from quietmind.serve.exchange import ClientGone, Exchange
from quietmind.serve.exchanged import Exchanged, as_json
from quietmind.serve.lane import Lane
from quietmind.serve.loan import as_event, ended, in_loan, lane_of, lend, pass_cache, token_of
from quietmind.serve.openai_schema import described
from quietmind.serve.refusal import Refusal, Refused, refuse, refused
from quietmind.serve.relay import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    PASSED_ON,
    Asked,
    attended,
    in_turn,
    lane_for,
    relay,
    relay_lent,
    understood,
)
from quietmind.serve.served import Served

MODELS, HEALTH = "/v1/models", "/health"
OPEN = (HEALTH,)


def router(served: Served) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    async def pass_on() -> Response:
        return Exchanged(lambda exchange: _pass_on(served, exchange))

    for path in PASSED_ON:
        routes.add_api_route(
            path,
            pass_on,
            methods=["POST"],
            response_class=Response,
            operation_id=path.removeprefix("/v1/").strip("/").replace("/", "_"),
            openapi_extra=described(path),
        )
    for path in (LOAN, SAVE, RESTORE):  # for other commands of ours
        routes.add_api_route(path, pass_on, methods=["POST"], response_class=Response, include_in_schema=False)

    @routes.get(HEALTH)
    async def health() -> Response:
        ready = all(lane.supervised.state == "ready" for lane in served.lanes)
        return as_json({"status": "ok" if ready else "degraded"})

    @routes.get(MODELS)
    async def models() -> Response:
        return as_json({"object": "list", "data": await _models(served)})

    @routes.get(MODELS + "/{model:path}")
    async def model(model: str) -> Response:
        known = await _models(served)
        lane = next((lane.name for lane in served.lanes if model in lane.names), model)
        found = next((each for each in known if each["id"] == lane), None)
        if found is None:
            there = ", ".join(each["id"] for each in known)
            raise Refused(refuse(404, f"no model {model!r} runs here; there are {there}", code="model_not_found"))
        return as_json(found)

    return routes


async def _pass_on(served: Served, exchange: Exchange) -> None:
    """Answer a request with a body."""
    token = token_of(exchange.headers)
    lent = None if token is None else lane_of(served.lanes, token)
    try:
        body = await exchange.body(served.largest_body)
    except ClientGone:
        return
    if isinstance(body, Refusal):
        await exchange.refuse(body)
    elif exchange.path not in (SAVE, RESTORE):
        await _answer(served, exchange, body, lent)
    elif lent is None:
        await exchange.refuse(ended())
    else:  # seen through whatever becomes of its client: the model is not free
        await in_loan(lent, exchange, lambda: pass_cache(lent, exchange))


async def _answer(served: Served, exchange: Exchange, body: bytes, lent: Lane | None) -> None:
    """Answer a request that names a model; ``lent`` is the one that its client has borrowed."""
    asked = understood(body)
    if isinstance(asked, Refusal):
        await exchange.refuse(asked)
        return
    lane = lane_for(served.lanes, asked)
    if isinstance(lane, Refusal) and lent is None and (answering := _of_ours(served, exchange, asked)) is not None:
        await attended(answering, exchange, served.closing)
    elif isinstance(lane, Refusal):
        await exchange.refuse(lane)
    elif lent is not None and (lane is not lent or exchange.path == LOAN):
        await exchange.refuse(refuse(403, f"only {lent.name} is lent, and is lent already", code="loan"))
    else:
        await attended(_by_engine(exchange, lane, asked, lent=lent is not None), exchange, served.closing)


def _of_ours(served: Served, exchange: Exchange, asked: Asked) -> Coroutine[Any, Any, None] | None:
    """Return how a request to the archive or its embedder is answered; None for one to neither."""
    model = asked.content.get("model")
    if exchange.path in (CHAT, COMPLETIONS) and means_archive(model):
        return _by_archive(served, exchange, asked)
    if served.archive is not None and exchange.path == EMBEDDINGS and model == embedder_name(served.archive):
        return embed(served.archive, asked.content, exchange)
    return None


async def _by_archive(served: Served, exchange: Exchange, asked: Asked) -> None:
    """Answer from the notes."""
    try:
        request = await wanted(served.archive, asked.content, chat=exchange.path == CHAT)
    except Refused as error:
        await exchange.refuse(error.refusal)
    except QuietmindError as error:
        await exchange.refuse(refused(error))
    else:
        assert served.archive is not None, "else nothing can be wanted of it"
        await answer(served.archive, request, exchange)


def _by_engine(exchange: Exchange, lane: Lane, asked: Asked, *, lent: bool) -> Coroutine[Any, Any, None]:
    """Return how a request to ``lane`` is answered; ``lent``: by the client that has borrowed it."""
    if exchange.path == LOAN:
        return in_turn(lane, exchange, lambda headers: lend(lane, exchange, headers), as_event)
    return (relay_lent if lent else relay)(lane, asked, exchange)


async def _models(served: Served) -> list[dict[str, Any]]:
    """Return all that can be asked: the models that run, then the notes, then what embeds them."""
    engines = [await _described(lane, served.began) for lane in served.lanes]
    if served.archive is None:
        return engines
    own = {"object": "model", "created": served.began, "owned_by": "quietmind"}
    answers = await _described(served.archive.lane, served.began)
    notes = [{**answers, "id": name} for name in await archive_names(served.archive)]
    embedder = embedder_name(served.archive)
    return [*engines, *notes, *([] if embedder is None else [{"id": embedder, **own, "state": "ready"}])]


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
