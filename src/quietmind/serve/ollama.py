"""Ollama's API, for the many clients that speak nothing else: the same models, asked and told in Ollama's words.

Models are not fetched or made through it; options of a model's start are the plan's business and are passed over.
"""

from __future__ import annotations

import json
from functools import partial

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
from quietmind.serve.ollama_schema import DESCRIBED
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


def router(served: Served) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    for each in _ROUTES:
        _add(routes, served, each)

    @routes.get("/api/version", openapi_extra=DESCRIBED["/api/version"])
    async def version() -> Response:
        return as_json({"version": SPOKEN, "quietmind": __version__})

    @routes.get("/api/tags", openapi_extra=DESCRIBED["/api/tags"])
    async def listed(request: Request) -> Response:
        status, content = await fetched(request.scope, "/v1/models")
        return _described(status, content) or as_json(tags(served, json.loads(content)["data"]))

    @routes.get("/api/ps", openapi_extra=DESCRIBED["/api/ps"])
    async def loaded(request: Request) -> Response:
        status, content = await fetched(request.scope, "/v1/models")
        return _described(status, content) or as_json(running(served, json.loads(content)["data"]))

    @routes.post("/api/show", openapi_extra=DESCRIBED["/api/show"])
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
        openapi_extra=DESCRIBED[route.path],
    )


def _described(status: int, content: bytes) -> Response | None:
    """Return the error that was answered; None where none was."""
    return None if status == 200 else as_json(error_of(content, status), status)
