"""The archive as an MCP server: requests of the official SDK's server, answered from the notes. Any transport runs it.

The low-level server, since the one that makes tools of functions reports what it is asked to the log, and errors in
several lines. Nothing of questions or notes is logged here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote_to_bytes

import mcp_types as types
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from quietmind.base.errors import Cancelled, QuietmindError, UsageError
from quietmind.serve import mcp_answers, mcp_tools
from quietmind.serve.archive import InLine, Question
from quietmind.serve.mcp_answers import Json, meant, written
from quietmind.serve.mcp_tools import Tool
from quietmind.think.answer import Answer, Event, Found, Loading, Notice, TakingUp, Text
from quietmind.workspace.workspace import Workspace

# Under this key of a request's ASGI scope: an event that is set when its client has gone away.
GONE = "quietmind.gone"

_SCHEME = "note://"
_PAGE = 500  # resources in one answer to resources/list
_LONGEST_ERROR = 400  # characters; a refused argument may be of any size
_WRITING_EVERY = 1.0  # seconds between two words on how far an answer has come

_READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")

Context = ServerRequestContext[Any, Any]
Tell = Callable[[str], Awaitable[None]]


class Notes(Protocol):
    """What a server answers from; serve/archive.py has the one of `quietmind up`."""

    def ask(self, question: Question) -> AsyncGenerator[Event | InLine]:
        """Yield what happens on the way to the answer, and the Answer last. Raises QuietmindError."""

    async def call(self, use: Callable[[Workspace], _Result]) -> _Result:
        """Return what ``use`` returns of the open workspace, in a thread. Raises what it raises."""


def server_of(notes: Notes, embedder: str | None, model: Callable[[], tuple[str, str]]) -> Server[Any]:
    """Return the server of ``notes``; ``model`` says which model answers and what it is doing.

    ``embedder`` is what the settings say. The server holds no state of its own.
    """
    offered = _Offered(notes, embedder, model)
    server: Server[Any] = Server(
        "quietmind",
        version=metadata.version("quietmind"),
        title="quietmind: a private archive of notes",
        instructions=mcp_tools.INSTRUCTIONS,
        on_list_tools=offered.list_tools,
        on_call_tool=offered.call_tool,
        on_list_resources=offered.list_resources,
        on_list_resource_templates=offered.list_templates,
        on_read_resource=offered.read_resource,
    )
    server.middleware.clear()  # the SDK's own reports each message to OpenTelemetry; what is asked is nobody's business
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it names what it was asked
    return server


class _Offered:
    """The requests that the server answers."""

    def __init__(self, notes: Notes, embedder: str | None, model: Callable[[], tuple[str, str]]) -> None:
        self._notes = notes
        self._embedder = embedder
        self._model = model
        self._checks = {tool.name: Draft202012Validator(tool.takes) for tool in mcp_tools.TOOLS}

    async def list_tools(self, _context: Context, _params: Any) -> types.ListToolsResult:
        """Describe the tools."""
        return types.ListToolsResult(tools=[_described(tool) for tool in mcp_tools.TOOLS])

    async def call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """Use a tool. What goes wrong is its result, in a line that the model can act on."""
        if params.name not in self._checks:
            known = ", ".join(self._checks)
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {_short(params.name)!r}; there are {known}")
        try:
            given = self._checked(params.name, params.arguments or {})
            return _given(await self._used(params.name, given, context))
        except QuietmindError as error:
            return _failed(str(error))
        except Exception as error:
            _LOG.error("MCP tool %s: unexpected %s", params.name, type(error).__name__)
            return _failed(f"{params.name}: unexpected {type(error).__name__}; try it otherwise")

    async def list_resources(
        self, _context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """List the notes, a page at a time; a cursor is the last path of the page before."""
        cursor = params.cursor if params is not None else None
        after = None if cursor is None else Path(meant(cursor))
        found = await self._answered(lambda workspace: workspace.notes(after, _PAGE))
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=uri_of(note.path),
                    name=written(note.path.name),
                    title=_clean(note.title),
                    mime_type=_mime(note.path),
                )
                for note in found
            ],
            next_cursor=written(found[-1].path) if len(found) == _PAGE else None,
        )

    async def list_templates(self, _context: Context, _params: Any) -> types.ListResourceTemplatesResult:
        """Describe how a note is named."""
        note = types.ResourceTemplate(
            uri_template=f"{_SCHEME}{{+path}}",
            name="note",
            title="A note of the archive",
            description="Lines of a note by its whole path, from the first on; read_passage reads any others.",
        )
        return types.ListResourceTemplatesResult(resource_templates=[note])

    async def read_resource(
        self, _context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """Return a note, as far as a result holds it."""
        path = path_of(str(params.uri))
        read = await self._answered(lambda workspace: mcp_answers.lines_read(workspace, {"path": path}))
        left_out = {"left_out": read["left_out"]} if read["left_out"] else None
        text = types.TextResourceContents(
            uri=str(params.uri), mime_type=_mime(Path(path)), text=_clean(read["text"]), _meta=left_out
        )
        return types.ReadResourceResult(contents=[text])

    async def _answered(self, use: Callable[[Workspace], _Result]) -> _Result:
        """Return what ``use`` returns of the workspace. Raises MCPError for what goes wrong there."""
        try:
            return await self._notes.call(use)
        except QuietmindError as error:
            raise MCPError(types.INVALID_PARAMS, _clean(str(error))) from error

    def _checked(self, name: str, arguments: Mapping[str, Any]) -> Json:
        """Return the arguments of a tool. Raises UsageError with the first that its schema refuses."""
        wrong = best_match(self._checks[name].iter_errors(arguments))
        if wrong is not None:
            at = ".".join(str(part) for part in wrong.absolute_path)
            raise UsageError(f"{name}: {f'{at}: ' if at else ''}{_short(wrong.message)}")
        whole = json.loads(_clean(json.dumps(arguments, ensure_ascii=False)))
        return {key: int(value) if isinstance(value, float) else value for key, value in whole.items()}

    async def _used(self, name: str, given: Json, context: Context) -> Json:
        if name == mcp_tools.ASK.name:
            gone = None if context.request is None else context.request.scope.get(GONE)
            return await _wanted(self._asked(given, _Telling(context).say), gone)
        uses: dict[str, Callable[[Workspace], Json]] = {
            mcp_tools.SEARCH.name: lambda workspace: mcp_answers.found(workspace, given),
            mcp_tools.READ_PASSAGE.name: lambda workspace: mcp_answers.lines_read(workspace, given),
            mcp_tools.LIST_NOTEBOOKS.name: mcp_answers.notebooks_listed,
            mcp_tools.LINKS.name: lambda workspace: mcp_answers.links_of(workspace, given),
            mcp_tools.STATUS.name: lambda workspace: mcp_answers.standing(workspace, self._embedder, self._model()),
        }
        return await self._notes.call(uses[name])

    async def _asked(self, given: Json, tell: Tell) -> Json:
        """Return the answer to a question; whoever asked is told how far it is."""
        question = Question(given["question"], notebook=given.get("notebook"), deep=given.get("deep", False))
        if question.deep and question.notebook is not None:
            raise UsageError("notebook asks one notebook, and deep every one; give one of them")
        notices: list[str] = []
        length, told = 0, time.monotonic()
        await tell("searching the notes")
        async with aclosing(self._notes.ask(question)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return mcp_answers.answered(event, notices)
                if isinstance(event, Text):
                    length += len(event.text)
                    if time.monotonic() - told < _WRITING_EVERY:
                        continue
                    told = time.monotonic()
                    await tell(f"writing the answer: {length:,} characters")
                else:
                    notices += [event.text] if isinstance(event, Notice) else []
                    await tell(_words(event))
        raise AssertionError("a question ends with an Answer or an error")


async def _wanted(answering: Coroutine[Any, Any, Json], gone: asyncio.Event | None) -> Json:
    """Return what ``answering`` does; raises Cancelled, and ends it, where its client has ``gone`` before."""
    if gone is None:
        return await answering
    work, left = asyncio.ensure_future(answering), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Cancelled("nobody waits for the answer any more, and it was broken off")
        return work.result()
    finally:
        work.cancel()
        left.cancel()


class _Telling:
    """Progress of one request, for a client that wants it: each word counts one more."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._count = 0

    async def say(self, what: str) -> None:
        self._count += 1
        await self._context.session.report_progress(self._count, message=_clean(what))


def uri_of(path: Path) -> str:
    """Return the address of a note as a resource."""
    return _SCHEME + quote(os.fsencode(path))


def path_of(uri: str) -> str:
    """Return the path in the address of a note. Raises MCPError for any other address."""
    if not uri.startswith(f"{_SCHEME}/"):
        raise MCPError(types.INVALID_PARAMS, f"{_short(uri)!r} is no note; notes are {_SCHEME}/PATH")
    return os.fsdecode(unquote_to_bytes(uri.removeprefix(_SCHEME)))


def _words(event: Event | InLine) -> str:
    """Return what is happening, for whoever waits."""
    words = "at work"
    match event:
        case InLine(place=place) if place:
            words = f"waiting for the model: {place} {'request' if place == 1 else 'requests'} before this one"
        case Loading():
            words = "waking the model"
        case TakingUp(notebook=name):
            words = f"restoring notebook {name}"
        case Found(given=passages, tokens=tokens):
            words = f"reading {len(passages):,} {'passage' if len(passages) == 1 else 'passages'}, {tokens:,} tokens"
        case Notice(text=text):
            words = text
    return words


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.takes,
        output_schema=tool.gives,
        annotations=_READ_ONLY,
    )


def _given(result: Json) -> types.CallToolResult:
    """Return a result: structured, and the same as text for clients that pass on nothing else."""
    text = _clean(json.dumps(result, ensure_ascii=False))
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=json.loads(text))


def _failed(line: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=_clean(line))], is_error=True)


def _clean(text: str) -> str:
    """Return ``text`` as UTF-8 can carry it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _short(text: str) -> str:
    """Return ``text`` in a line: what was refused stands at its beginning, and why at its end."""
    flat, half = " ".join(text.split()), _LONGEST_ERROR // 2
    return _clean(flat if len(flat) <= _LONGEST_ERROR else f"{flat[:half]}…{flat[-half:]}")


def _mime(path: Path) -> str:
    return "text/markdown" if path.suffix.lower() in (".md", ".markdown") else "text/plain"
