"""Everything that is served at the address, as one FastAPI application: the parts, and what holds for all of them.

A part is a module with ``router(served)``; one that has a life of its own has ``running(served)`` too, a context that
lasts as long as the address answers. Parts may import FastAPI at their top, since they are imported here alone, inside
a function.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import Cancelled, EngineMissing, QuietmindError
from quietmind.serve.refusal import Refusal, Refused, failed_inside, refuse, refused
from quietmind.serve.served import Served

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

# FastAPI can export what it sees of requests; nothing of them is recorded here, whatever the environment says.
_NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


@dataclass(frozen=True)
class Part:
    """One part of what is served. ``open_paths`` are answered without the key; one that ends in / with all below it."""

    router: Callable[[Served], APIRouter]
    running: Callable[[Served], AbstractAsyncContextManager[None]] | None = None
    open_paths: tuple[str, ...] = ()


def parts() -> Sequence[Part]:
    """Return all parts. Raises EngineMissing where the packages for serving are not installed."""
    try:
        from quietmind.serve import mcp, metrics, ollama, openai_api, page
    except ModuleNotFoundError as error:
        raise EngineMissing(f"serving takes more packages ({error}): pip install 'quietmind[serve]'") from error

    return (
        Part(openai_api.router, open_paths=openai_api.OPEN),
        Part(metrics.router),
        Part(ollama.router),
        Part(mcp.router),
        Part(page.router, open_paths=page.OPEN),
    )


def application(served: Served, made_of: Sequence[Part]) -> FastAPI:
    """Return the application that answers all requests of the address."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    from quietmind.serve.openai_schema import ERROR

    app = FastAPI(
        title="quietmind",
        version=metadata.version("quietmind"),
        description="Models that run on this machine, and the notes that they know.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
        responses={"default": {"description": "Why not", "content": {"application/json": {"schema": ERROR}}}},
    )
    app.add_exception_handler(HTTPException, _of_starlette)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(QuietmindError, _of_ours)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    for part in made_of:
        app.include_router(part.router(served))
    return app


@asynccontextmanager
async def running(served: Served, made_of: Sequence[Part]) -> AsyncIterator[None]:
    """Within it the parts that have a life of their own live."""
    async with AsyncExitStack() as stack:
        for part in made_of:
            if part.running is not None:
                await stack.enter_async_context(part.running(served))
        yield


def is_open(path: str, made_of: Sequence[Part]) -> bool:
    """Say whether ``path`` is answered without the key."""
    return any(
        path == each or (each.endswith("/") and each != "/" and path.startswith(each))
        for part in made_of
        for each in part.open_paths
    )


async def _of_starlette(request: Request, error: Any) -> Response:
    path = request.url.path
    if error.status_code == 404:
        return _answered(refuse(404, f"nothing is at {path}; /openapi.json describes what is served", code="path"))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return _answered(refuse(405, f"{path} takes {allowed}, not {request.method}", code="method"))
    return _answered(refuse(error.status_code, str(error.detail), code="invalid_request"))


async def _invalid(_request: Request, error: Any) -> Response:
    said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return _answered(refuse(400, f"the request is not understood: {said}", code="invalid_request"))


async def _of_ours(_request: Request, error: Any) -> Response:
    return _answered(refused(error))


async def _refused(_request: Request, error: Any) -> Response:
    return _answered(error.refusal)


async def _gone(_request: Request, _error: Any) -> Response:
    return _answered(refused(Cancelled("the request was not sent whole, and nobody waits for an answer")))


async def _unexpected(_request: Request, _error: Any) -> Response:
    return _answered(failed_inside())  # it is raised again behind this, and stands in the log


def _answered(refusal: Refusal) -> Response:
    from quietmind.serve.exchanged import as_error

    return as_error(refusal)
