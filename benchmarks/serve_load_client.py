"""The clients of serve_load.py: what each asks, what must come back, and how some of them leave.

Every request carries something that only its own answer can hold: a nonce that the model repeats, a name whose note
only it asks about, a text whose vector is known. A connection serves one request, and is read as its bytes come.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

CHAT, EMBEDDINGS, MODELS, MCP = "/v1/chat/completions", "/v1/embeddings", "/v1/models", "/mcp"
# An answer that has not come by then is lost.
PATIENCE_SECONDS = 600.0
_ACCEPT = {"Accept": "application/json, text/event-stream"}
_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "serve_load", "version": "1"}}
_WORDS = ("harbour", "keeps", "its", "lamps", "lit", "while", "fog", "rolls", "over", "slow", "grey", "water")


class Wrong(Exception):
    """What came back is not the answer to what was asked."""


class Refused(Exception):
    """The answer is an error, with its status and its code."""

    def __init__(self, status: int, code: str, retry_after_s: float | None) -> None:
        super().__init__(f"{status} {code}")
        self.retry_after_s = retry_after_s


class Left(Exception):
    """The client went away on purpose."""


@dataclass
class Record:
    """What became of one request; moments are of time.monotonic()."""

    client: int
    kind: str
    nonce: str
    sent: float
    in_line: float | None = None
    served: float | None = None
    ended: float = 0.0
    left: bool = False
    outcome: str = ""


@dataclass(frozen=True)
class Served:
    """What is asked: the address, its models, names with the codes that the notes give them, texts with vectors."""

    url: str
    model: str
    forced: bool  # the model repeats its nonce because a schema forces it to, not because it is an echo
    codes: Mapping[str, str]
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    embedder: str | None = None
    tool: str | None = None  # the name of the MCP tool that searches
    left_open: float = 0.5  # share of the sessions of MCP that nobody ends


class Call:
    """One request whose answer is being read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.status = 0
        self.headers: dict[str, str] = {}

    async def send(self, host: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request."""
        head = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        for event in (
            h11.Request(method=method, target=path, headers=list({**head, "Connection": "close"}.items())),
            h11.Data(body),
            h11.EndOfMessage(),
        ):
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def head(self) -> None:
        """Read the head of the answer."""
        event = await self._next()
        if not isinstance(event, h11.Response):
            raise Wrong(f"no head, but {type(event).__name__}")
        self.status = event.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises Wrong where the connection ends before it."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise Wrong(f"the answer ended with {type(event).__name__}")
            yield bytes(event.data)

    async def whole(self) -> Any:
        """Return the JSON of the body. Raises Refused for an error, Wrong for anything but JSON."""
        try:
            content = json.loads(b"".join([piece async for piece in self.pieces()]))
        except ValueError as error:
            raise Wrong(f"no JSON under status {self.status}") from error
        if self.status != 200:
            raise refused(self.status, content, self.headers)
        return content

    async def events(self) -> AsyncIterator[Any]:
        """Yield the JSON of each event, None for a comment. Raises Refused for an error, Wrong without [DONE]."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            yield await self.whole()
            raise Wrong("a whole answer where a stream was asked for")
        held = b""
        async for piece in self.pieces():
            *lines, held = (held + piece).split(b"\n")
            for line in map(bytes.strip, lines):
                if line == b"data: [DONE]":
                    return
                if line.startswith(b"data: "):
                    content = json.loads(line.removeprefix(b"data: "))
                    if "error" in content:
                        raise refused(200, content, self.headers)
                    yield content
                elif line.startswith(b":"):
                    yield None
        raise Wrong("the stream ended without [DONE]")

    def vanish(self) -> None:
        """Go away without a word, as a program that is killed does."""
        self._writer.transport.abort()

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                self._http.receive_data(await self._reader.read(65536))
            except h11.RemoteProtocolError as error:
                raise Wrong(f"broken off: {error}") from error
        return event


def refused(status: int, content: Any, headers: Mapping[str, str]) -> Refused:
    """Return what an error's body says."""
    error = content.get("error") if isinstance(content, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    after = headers.get("retry-after", "")
    return Refused(status, str(code), float(after) if after.isdecimal() else None)


@asynccontextmanager
async def calling(
    url: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str = ""
) -> AsyncIterator[Call]:
    """Ask, and yield the call once its answer's head is there."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 22)
    try:
        call = Call(reader, writer)
        content = b"" if body is None else json.dumps(body).encode()
        await call.send(parts.netloc, method or ("GET" if body is None else "POST"), path, content, headers or {})
        await call.head()
        yield call
    finally:
        writer.transport.abort()


def chat_body(served: Served, nonce: str, *, stream: bool) -> dict[str, Any]:
    """Return a chat whose answer must hold ``nonce``."""
    chance = random.Random(nonce)
    words = chance.choices(_WORDS, k=12)
    words.insert(chance.randrange(12), nonce)
    body: dict[str, Any] = {
        "model": served.model,
        "messages": [{"role": "user", "content": " ".join(words)}],
        "max_tokens": 64,
        "temperature": 0,
        "stream": stream,
    }
    if served.forced:
        schema = {"type": "object", "properties": {"nonce": {"const": nonce}}, "required": ["nonce"]}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "nonce", "schema": schema}}
    return body


async def chat_streamed(served: Served, record: Record, _chance: random.Random) -> None:
    """Ask a streamed chat, and hear all of it."""
    async with calling(served.url, CHAT, chat_body(served, record.nonce, stream=True)) as call:
        require_nonce("".join([piece async for piece in texts(call, record)]), record.nonce)


async def chat_whole(served: Served, record: Record, _chance: random.Random) -> None:
    """Ask a chat that is answered in one piece."""
    async with calling(served.url, CHAT, chat_body(served, record.nonce, stream=False)) as call:
        content = await call.whole()
        require_nonce(content["choices"][0]["message"]["content"], record.nonce)


async def chat_cancelled(served: Served, record: Record, chance: random.Random) -> None:
    """Ask a streamed chat, and leave after some of its words."""
    enough = chance.randrange(1, 6)
    async with calling(served.url, CHAT, chat_body(served, record.nonce, stream=True)) as call:
        async for _ in texts(call, record):
            enough -= 1
            if not enough:
                raise Left


async def vanished(served: Served, record: Record, chance: random.Random) -> None:
    """Ask a chat, and be gone at any moment: in line, while all is silent, or within words."""
    body = chat_body(served, record.nonce, stream=chance.random() < 0.5)

    async def ask() -> None:
        async with calling(served.url, CHAT, body) as call:
            async for _ in call.pieces():
                pass
            if call.status != 200:
                raise Refused(call.status, "", None)

    try:
        await asyncio.wait_for(ask(), chance.expovariate(4.0))
    except TimeoutError:
        raise Left from None


async def archive_streamed(served: Served, record: Record, _chance: random.Random) -> None:
    """Ask the notes; the sources come with the last piece of the stream."""
    found: list[Any] = []
    async with calling(served.url, CHAT, archive_body(record.nonce, stream=True)) as call:
        text = "".join([piece async for piece in texts(call, record, found)])
    require_source(served, record.nonce, text, found)


async def archive_whole(served: Served, record: Record, _chance: random.Random) -> None:
    """Ask the notes for an answer in one piece."""
    async with calling(served.url, CHAT, archive_body(record.nonce, stream=False)) as call:
        message = (await call.whole())["choices"][0]["message"]
    require_source(served, record.nonce, message["content"], message.get("citations") or [])


async def archive_cancelled(served: Served, record: Record, _chance: random.Random) -> None:
    """Ask the notes, and leave at the first words."""
    async with calling(served.url, CHAT, archive_body(record.nonce, stream=True)) as call:
        async for _ in texts(call, record):
            raise Left


async def embedded(served: Served, record: Record, chance: random.Random) -> None:
    """Have two texts embedded whose vectors are known."""
    asked = chance.sample(sorted(served.vectors), 2)
    async with calling(served.url, EMBEDDINGS, {"model": served.embedder, "input": asked}) as call:
        data = (await call.whole())["data"]
    for text, each in zip(asked, data, strict=True):
        nearest = max(served.vectors, key=lambda other: _dot(served.vectors[other], each["embedding"]))
        if nearest != text:
            raise Wrong(f"the vector of {nearest!r} for {text!r}")
    record.served = time.monotonic()


async def listed(served: Served, _record: Record, _chance: random.Random) -> None:
    """List the models."""
    async with calling(served.url, MODELS) as call:
        names = [model["id"] for model in (await call.whole())["data"]]
    if served.model not in names:
        raise Wrong(f"models are {names}")


async def searched(served: Served, record: Record, chance: random.Random) -> None:
    """Search through MCP, in a session of its own, which some clients leave open."""
    async with calling(served.url, MCP, _message("initialize", _HELLO, record.nonce), _ACCEPT) as call:
        session = {**_ACCEPT, "Mcp-Session-Id": (await _result(call)).headers.get("mcp-session-id", "")}
    params = {"name": served.tool, "arguments": {"query": f"code of {record.nonce}"}}
    async with calling(served.url, MCP, _message("tools/call", params, record.nonce), session) as call:
        text = (await _result(call)).text
    if served.codes[record.nonce] not in text or record.nonce not in text:
        raise Wrong("the search found another note")
    if chance.random() >= served.left_open:
        async with calling(served.url, MCP, headers=session, method="DELETE") as call:
            await _result(call)


async def search_tool(url: str) -> str:
    """Return the name of the tool that searches. Raises Refused, Wrong."""
    async with calling(url, MCP, _message("initialize", _HELLO, "1"), _ACCEPT) as call:
        session = {**_ACCEPT, "Mcp-Session-Id": (await _result(call)).headers.get("mcp-session-id", "")}
    async with calling(url, MCP, _message("tools/list", {}, "2"), session) as call:
        text = (await _result(call)).text
    if '"search"' not in text:
        raise Wrong("no tool is called search")
    return "search"


@dataclass(frozen=True)
class _Result:
    headers: Mapping[str, str]
    text: str


async def _result(call: Call) -> _Result:
    text = b"".join([piece async for piece in call.pieces()]).decode()
    if call.status != 200:
        raise Refused(call.status, "mcp", None)
    return _Result(call.headers, text)


def _message(method: str, params: Mapping[str, Any], number: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def archive_body(name: str, *, stream: bool) -> dict[str, Any]:
    """Return a question to the notes about ``name``."""
    question = f"What is the door code of {name}?"
    return {
        "model": "archive",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 32,
        "stream": stream,
    }


async def texts(call: Call, record: Record, citations: list[Any] | None = None) -> AsyncIterator[str]:
    """Yield the text of each event, and note when the request stood in line and when it was served."""
    if call.headers.get("content-type", "").startswith("text/event-stream"):
        record.in_line = time.monotonic()
    async for event in call.events():
        if event is None or not event.get("choices"):
            continue
        delta = event["choices"][0].get("delta", {})
        if citations is not None:
            citations += delta.get("citations") or event["choices"][0].get("citations") or event.get("citations") or []
        if text := delta.get("content"):
            record.served = record.served or time.monotonic()
            yield text


def require_nonce(text: str, nonce: str) -> None:
    """Raise Wrong for a text that does not hold ``nonce``."""
    if nonce not in text:
        raise Wrong(f"{nonce} is not in {text[:200]!r}")


def require_source(served: Served, name: str, text: str, citations: Sequence[Any]) -> None:
    """Raise Wrong for an answer that does not cite the note of ``name``, or holds the code of another for its own."""
    if not any(name in str(citation["quote"]) for citation in citations):
        raise Wrong(f"{name} is not in the sources of {text[:200]!r}")
    if not served.forced and served.codes[name] not in text:
        raise Wrong(f"the code of {name} is not in {text[:200]!r}")


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


Kind = Callable[[Served, Record, random.Random], Coroutine[Any, Any, None]]

# Of 100 requests, so many each.
MIX: dict[Kind, int] = {
    chat_streamed: 30,
    chat_whole: 16,
    chat_cancelled: 8,
    vanished: 6,
    archive_streamed: 12,
    archive_whole: 6,
    archive_cancelled: 4,
    embedded: 4,
    searched: 4,
    listed: 10,
}
OF_THE_NOTES = (archive_streamed, archive_whole, archive_cancelled, searched)
STREAMED_CHATS = (chat_streamed.__name__, chat_cancelled.__name__)


async def client(
    number: int, served: Served, names: Sequence[str], until: float, pause_s: float, records: list[Record]
) -> None:
    """Ask one after the other until the moment ``until``, with pauses; a refusal that says when is heeded."""
    chance = random.Random(number)
    kinds = [kind for kind in MIX if _possible(kind, served)]
    weights = [MIX[kind] for kind in kinds]
    turn = 0
    await asyncio.sleep(chance.uniform(0, pause_s))
    while time.monotonic() < until:
        kind = chance.choices(kinds, weights)[0]
        turn += 1
        nonce = names[turn % len(names)] if kind in OF_THE_NOTES else f"nonce-{chance.getrandbits(64):016x}"
        record = Record(number, kind.__name__, nonce, time.monotonic())
        records.append(record)
        wait = chance.expovariate(1 / pause_s)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await kind(served, record, chance)
            record.outcome = "right"
        except Left:
            record.outcome, record.left = "left", True
        except Refused as refusal:
            record.outcome = f"refused {refusal}"
            wait = max(wait, (refusal.retry_after_s or 0.0) * chance.uniform(1.0, 1.2))
        except Wrong as wrong:
            record.outcome = f"wrong: {wrong}"
        except (TimeoutError, OSError, ValueError, LookupError) as error:
            record.outcome = f"lost: {type(error).__name__} {error}"
        record.ended = time.monotonic()
        await asyncio.sleep(min(wait, max(0.0, until - time.monotonic())))


def _possible(kind: Kind, served: Served) -> bool:
    needs: dict[Kind, bool] = {embedded: bool(served.vectors), searched: served.tool is not None}
    return needs.get(kind, not (kind in OF_THE_NOTES and not served.codes))
