"""What holds for every route of the address, whichever part it belongs to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="serving takes FastAPI: pip install 'quietmind[serve]'")

from fastapi import APIRouter, FastAPI, Request

from quietmind.base.errors import ArchiveLocked, Cancelled, ContextOverflow, NothingIndexed, QuietmindError
from quietmind.serve.app import Part, application, is_open, running
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.ollama_errors import in_ollamas_words
from quietmind.serve.refusal import Refused, refuse, refused


async def answered(app: Any, method: str, path: str) -> tuple[int, bytes]:
    """Ask an ASGI application; return the status and the body."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def failing(error: Exception) -> Part:
    routes = APIRouter()

    @routes.get("/fails/{number}")
    async def fails(number: int) -> None:
        raise error

    return Part(lambda _served: routes)


@pytest.mark.parametrize(
    ("error", "path", "status", "code"),
    [
        (NothingIndexed("no notes"), "/fails/1", 409, "nothing_indexed"),
        (ArchiveLocked("busy"), "/fails/1", 503, "archive_locked"),
        (Refused(refuse(418, "tea only", code="teapot")), "/fails/1", 418, "teapot"),
        (NothingIndexed("no notes"), "/fails/none", 400, "invalid_request"),
        (NothingIndexed("no notes"), "/fail", 404, "path"),
    ],
)
def test_errors_of_every_part_have_one_shape(error: Exception, path: str, status: int, code: str) -> None:
    served = Gateway([], Guard()).served
    said = asyncio.run(answered(application(served, [failing(error)]), "GET", path))
    assert said[0] == status
    assert json.loads(said[1])["error"]["code"] == code


def test_every_error_of_ours_has_a_status() -> None:
    def below(kind: type[QuietmindError]) -> list[type[QuietmindError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in below(child))]

    for kind in below(QuietmindError):
        # Some are made of more than a line.
        error = kind("a", needed=2, context=1) if issubclass(kind, ContextOverflow) else kind.__new__(kind, "a")
        assert 400 <= refused(error).status < 600
    assert refused(ContextOverflow("a", needed=2, context=1)).numbers == {"needed": 2, "context": 1}
    assert refused(Cancelled("a")).status == 499


def test_a_part_that_has_a_life_lives_as_long_as_the_address() -> None:
    lives: list[str] = []

    @asynccontextmanager
    async def living(_served: object) -> AsyncIterator[None]:
        lives.append("begun")
        yield
        lives.append("ended")

    async def scene() -> None:
        part = Part(lambda _served: APIRouter(), living)
        async with running(Gateway([], Guard()).served, [part]):
            assert lives == ["begun"]

    asyncio.run(scene())
    assert lives == ["begun", "ended"]


@pytest.mark.parametrize(
    ("path", "is_so"), [("/", True), ("/page/x.js", True), ("/page", False), ("/v1/models", False), ("//", False)]
)
def test_only_what_a_part_names_is_open_to_all(path: str, is_so: bool) -> None:
    assert is_open(path, [Part(lambda _served: APIRouter(), open_paths=("/", "/page/"))]) is is_so


def test_no_request_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = pytest.importorskip("opentelemetry.trace", reason="this FastAPI traces nothing at all")
    traced: list[str] = []

    def tracer(_self: object, name: str, *_: Any, **__: Any) -> Any:
        traced.append(name)
        return trace.NoOpTracer()

    recording = type("Recording", (trace.TracerProvider,), {"get_tracer": tracer})
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", recording())
    asyncio.run(answered(FastAPI(), "GET", "/health"))
    assert traced, "an application as it comes would be traced"
    traced.clear()
    assert asyncio.run(answered(Gateway([], Guard()), "GET", "/health"))[0] == 200
    assert traced == []


def test_what_nobody_foresaw_has_the_same_shape_and_quotes_nothing() -> None:
    part = failing(RuntimeError("40 degrees"))

    async def scene(path: str) -> dict[str, Any]:
        app, sent = application(Gateway([], Guard()).served, [part]), []

        async def answering(scope: Any, receive: Any, _send: Any) -> None:
            async def send(message: Any) -> None:
                sent.append(message)

            await app(scope, receive, in_ollamas_words({**scope, "path": path}, send))

        with pytest.raises(RuntimeError):  # for the log of whoever serves it
            await answered(answering, "GET", "/fails/1")
        assert sent[0]["status"] == 500
        said: dict[str, Any] = json.loads(sent[1]["body"])
        return said

    error = asyncio.run(scene("/fails/1"))["error"]
    assert error["code"] == "internal"
    assert "degrees" not in error["message"]
    assert asyncio.run(scene("/api/tags")) == {"error": error["message"]}


def test_a_client_that_leaves_before_its_request_is_whole_is_no_failure_inside() -> None:
    routes = APIRouter()

    @routes.post("/whole")
    async def whole(request: Request) -> None:
        await request.body()

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def scene() -> int:
        app = application(Gateway([], Guard()).served, [Part(lambda _served: routes)])
        return (await answered(lambda scope, _receive, send: app(scope, gone, send), "POST", "/whole"))[0]

    assert asyncio.run(scene()) == 499
