"""Ollama's API, for the many clients that speak nothing else: the same models, asked and told in Ollama's words.

Models are not fetched or made through it; options of a model's start are the plan's business and are passed over.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match

from quietmind import __version__
from quietmind.base.errors import UsageError
from quietmind.serve.exchange import Scope
from quietmind.serve.exchanged import as_json
from quietmind.serve.ollama_answer import Embedding, Retelling, error_of
from quietmind.serve.ollama_models import running, shown, tags
from quietmind.serve.ollama_passage import Retold, Route, fetched, named
from quietmind.serve.ollama_request import chat, embed, embeddings, generate, model_of, parsed
from quietmind.serve.served import Served

# The version of Ollama whose API this is: clients ask for it, and hold back what an older one did not know.
SPOKEN = "0.12.11"

_ROUTES = (
    Route("/api/chat", chat, partial(Retelling, shape="chat")),
    Route("/api/generate", generate, partial(Retelling, shape="generate")),
    Route("/api/embed", embed, Embedding),
    Route("/api/embeddings", embeddings, partial(Embedding, single=True)),
)
_NOT_HERE = (
    *(("POST", f"/api/{act}") for act in ("pull", "push", "create", "copy", "blobs/{digest}")),
    *(("DELETE", "/api/delete"), ("GET", "/api/blobs/{digest}")),
)
_MANAGED_ELSEWHERE = "models are not fetched or changed here; use `quietmind pull NAME`, then `quietmind up NAME`"


def _body(fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": fields, "required": required}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_TEXT, _FLAG, _OBJECT = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_FORMAT = {"oneOf": [{"type": "string", "enum": ["json"]}, _OBJECT]}
_THINK = {"oneOf": [_FLAG, {"type": "string", "enum": ["low", "medium", "high", "max"]}]}
_ASKED = {"model": _TEXT, "options": _OBJECT, "format": _FORMAT, "think": _THINK, "stream": {**_FLAG, "default": True}}
_MESSAGE = {
    "type": "object",
    "properties": {"role": {"type": "string", "enum": ["system", "user", "assistant", "tool"]}, "content": _TEXT},
    "required": ["role"],
}
_BODIES = {
    "/api/chat": _body(
        {**_ASKED, "messages": {"type": "array", "items": _MESSAGE}, "tools": {"type": "array", "items": _OBJECT}},
        ["model"],
    ),
    "/api/generate": _body({**_ASKED, "prompt": _TEXT, "system": _TEXT, "raw": _FLAG}, ["model"]),
    "/api/embed": _body(
        {"model": _TEXT, "input": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}}, ["model", "input"]
    ),
    "/api/embeddings": _body({"model": _TEXT, "prompt": _TEXT}, ["model"]),
}


def router(served: Served) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    for each in _ROUTES:
        _add(routes, served, each)

    @routes.get("/api/version")
    async def version() -> Response:
        return as_json({"version": SPOKEN, "quietmind": __version__})

    @routes.get("/api/tags")
    async def listed(request: Request) -> Response:
        status, content = await fetched(request.scope, "/v1/models")
        return _described(status, content) or as_json(tags(served, json.loads(content)["data"]))

    @routes.get("/api/ps")
    async def loaded(request: Request) -> Response:
        status, content = await fetched(request.scope, "/v1/models")
        return _described(status, content) or as_json(running(served, json.loads(content)["data"]))

    @routes.post("/api/show", openapi_extra=_body({"model": _TEXT}, ["model"]))
    async def show(request: Request) -> Response:
        try:
            model = model_of(parsed(await request.body()))
        except UsageError as error:
            return as_json({"error": str(error)}, 400)
        status, content = await fetched(request.scope, f"/v1/models/{named(served, model)}")
        return _described(status, content) or as_json(shown(served, json.loads(content)))

    for method, path in _NOT_HERE:
        routes.add_api_route(path, _refuse, methods=[method], include_in_schema=False)
    routes.routes.append(_ForPrograms("/", _is_running, methods=["GET"], include_in_schema=False))
    return routes


async def _is_running() -> Response:
    return PlainTextResponse("Ollama is running")  # which clients look for, word by word


async def _refuse(request: Request) -> Response:
    await request.body()  # a connection whose request was not taken whole is of no use for the next
    return as_json({"error": _MANAGED_ELSEWHERE}, 501)


class _ForPrograms(APIRoute):
    """A route for clients that are no browsers, which get a page at the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match unless HTML is asked for."""
        accepted = [value for name, value in scope.get("headers", ()) if name == b"accept"]
        if any(b"text/html" in value for value in accepted):
            return Match.NONE, {}
        return super().matches(scope)


def _add(routes: APIRouter, served: Served, route: Route) -> None:
    async def answer() -> Response:
        return Retold(served, route)

    routes.add_api_route(
        route.path,
        answer,
        methods=["POST"],
        response_class=Response,
        name=route.path.removeprefix("/api/"),
        openapi_extra=_BODIES[route.path],
    )


def _described(status: int, content: bytes) -> Response | None:
    """Return the error that was answered; None where none was."""
    return None if status == 200 else as_json(error_of(content, status), status)
