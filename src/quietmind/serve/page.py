"""The page at the address: its files, and what they show. It asks as every client does, through OpenAI's API.

A page of ours may run no script and load no style but these files, and connect to nothing but this address; notes and
what a model writes reach it as JSON, and it makes text of them, never markup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from quietmind.base.errors import NothingIndexed
from quietmind.serve.exchanged import as_json
from quietmind.serve.page_memory import memory_of
from quietmind.serve.page_views import archive_of, lines_of, notebooks_of, queue_of, settings_of, start_of
from quietmind.serve.refusal import Refused, refuse
from quietmind.serve.served import Served
from quietmind.workspace.workspace import Workspace

FILES = "/page/files/"
# The page and its files hold nothing of anybody, so that a browser gets them before it knows the key.
OPEN = ("/", FILES)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",  # what makes markup of a string fails, even if somebody writes it one day
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked for anew each time, which takes a millisecond
}
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOLDER = Path(__file__).parent / "page_files"

# More lines than anybody reads beside a question, and less than would fill a browser.
_MOST_AROUND = 2000

_Path = Annotated[str, Query(min_length=1, max_length=4096, description="The path of an indexed note.")]
_Line = Annotated[int, Query(ge=1, le=1 << 31)]
_Around = Annotated[int, Query(ge=0, le=_MOST_AROUND)]
_Known = Annotated[str | None, Header()]


@dataclass(frozen=True)
class _File:
    """A file of the page as it is sent."""

    kind: str
    content: bytes

    @property
    def tag(self) -> str:
        """What tells this content from another (RFC 9110, "ETag")."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def answer(self, known: str | None) -> Response:
        """Return the file, or that a client has it, which knows the tags ``known``."""
        headers = {**_HEADERS, "etag": self.tag}
        if known is not None and self.tag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "content-type": self.kind})


def router(served: Served) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    _add_files(routes)
    _add_views(routes, served)
    _add_archive(routes, served)
    return routes


def _add_files(routes: APIRouter) -> None:
    files = {
        file.name: _File(_KINDS[file.suffix], file.read_bytes())
        for file in sorted(_FOLDER.iterdir())
        if file.suffix in _KINDS
    }

    @routes.get("/", include_in_schema=False)
    async def page(if_none_match: _Known = None) -> Response:
        answer = files["index.html"].answer(if_none_match)
        answer.headers["vary"] = "accept"  # programs get another answer here
        return answer

    @routes.get(FILES + "{name}", include_in_schema=False)
    async def file(name: str, if_none_match: _Known = None) -> Response:
        if name not in files:
            raise Refused(refuse(404, "the page has no file of this name", code="path"))
        return files[name].answer(if_none_match)


def _add_views(routes: APIRouter, served: Served) -> None:
    @routes.get("/page/start")
    async def start() -> Response:
        return as_json(await start_of(served))

    @routes.get("/page/queue")
    async def queue() -> Response:
        return as_json(queue_of(served.lanes))

    @routes.get("/page/plan")
    async def plan() -> Response:
        return as_json(memory_of(served.starts))

    @routes.get("/page/settings")
    async def settings() -> Response:
        return as_json(settings_of(served.settings))


def _add_archive(routes: APIRouter, served: Served) -> None:
    async def shown(use: Callable[[Workspace], Any]) -> Response:
        """Answer with what ``use`` returns of the workspace; null where there is none."""
        try:
            return as_json(None if served.archive is None else await served.archive.call(use))
        except NothingIndexed:
            return as_json(None)

    @routes.get("/page/status")
    async def status() -> Response:
        return await shown(lambda workspace: archive_of(workspace, served.settings.embedder))

    @routes.get("/page/notebooks")
    async def notebooks() -> Response:
        return await shown(lambda workspace: notebooks_of(workspace, served.settings.snapshot_gib))

    @routes.get("/page/lines")
    async def lines(path: _Path, first: _Line, last: _Line, before: _Around = 0, after: _Around = 0) -> Response:
        if served.archive is None:
            raise Refused(refuse(404, "no notes are served at this address", code="path"))
        if last < first:
            raise Refused(refuse(400, f"line {last:,} comes before line {first:,}", code="invalid_request"))
        return as_json(
            await served.archive.call(lambda workspace: lines_of(workspace, path, first - before, last + after))
        )
