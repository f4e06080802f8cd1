"""An address that is served as `quietmind up` does, over the example archive, with a scripted engine behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import EngineError
from quietmind.base.settings import Settings
from quietmind.engine.fake import FakeEngine, Step
from quietmind.engine.port import Endpoint, Engine, Request
from quietmind.serve import listen
from quietmind.serve.archive import Archive
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.workspace.supervise import Attempt, Pause, Supervised
from quietmind.workspace.workspace import Workspace

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "archive"
MODEL = "fake-model"

_FIRST_NOTE = re.compile(r"\[1\] [^\n]*\n(.*?)(?=\n\[2\] |\nQuestion:|\nВопрос:|\Z)", re.DOTALL)
_SENTENCE = re.compile(r"[A-ZА-ЯЁ][^.!?\n|#*`\[\]]{20,}[.!?]")


def first_sentence(request: Request) -> str:
    """Say a sentence of the best passage, with its mark: an answer that can be checked."""
    note = _FIRST_NOTE.search(request.prompt)
    found = _SENTENCE.search(note[1]) if note else None
    return f"{found[0]} [1]" if found else "The notes say nothing of it."


class OpenAIServer(ThreadingHTTPServer):
    """Speaks OpenAI's HTTP as an engine does; its answer repeats the question. ``pause`` is before each piece."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.requests: list[dict[str, Any]] = []
        self.pause = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: OpenAIServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "here"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        if self.path == "/v1/embeddings":
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            vector: Any = [1.0, 0.0]
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack("<2f", *vector)).decode("ascii")
            vectors = [{"object": "embedding", "index": n, "embedding": vector} for n in range(len(texts))]
            usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
            self.reply({"object": "list", "model": body["model"], "data": vectors, "usage": usage})
        elif self.path in ("/v1/chat/completions", "/v1/completions"):
            self.generate(body, chat=self.path == "/v1/chat/completions")
        else:
            self.reply({"tokens": [1, 2, 3]})

    def reply(self, content: Any) -> None:
        answer = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def generate(self, body: dict[str, Any], *, chat: bool) -> None:
        prompt = str(body["messages"][-1]["content"] if chat else body["prompt"])
        called = [
            {"index": 0, "id": "call-1", "type": "function", "function": {"name": each, "arguments": "{}"}}
            for each in [tool["function"]["name"] for tool in body.get("tools") or ()][:1]
        ]
        words = [] if called else re.findall(r"\S+\s*", f"You said: {prompt}")
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        kind = "chat.completion" if chat else "text_completion"
        common = {"id": "of-the-engine", "created": 1_700_000_000, "model": body["model"]}
        reason = "tool_calls" if called else "stop"
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(words) or None} | (
                {"tool_calls": called} if called else {}
            )
            said = {"message": message} if chat else {"text": "".join(words)}
            choice = {"index": 0, **said, "finish_reason": reason, "logprobs": None}
            self.reply({**common, "object": kind, "choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)] if chat else words
        deltas = [*deltas, {"tool_calls": called}] if called else deltas
        kind = "chat.completion.chunk" if chat else kind
        try:
            for delta in deltas:
                time.sleep(self.server.pause)
                said = {"delta": delta} if chat else {"text": delta}
                self.event({**common, "object": kind, "choices": [{"index": 0, **said, "finish_reason": None}]})
            last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            self.event({**common, "object": kind, "choices": [{"index": 0, **last, "finish_reason": reason}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                self.event({**common, "object": kind, "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:  # the client has gone away
            pass

    def event(self, content: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
        self.wfile.flush()


class Starting:
    """An attempt that hands out what ``make`` makes."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.start = make

    def smaller(self, error: EngineError) -> tuple[Attempt, str] | None:
        return None

    def decode_at_least(self, depth: int) -> float | None:
        return None


@dataclass
class Here:
    """A running address with all of it in reach.

    ``says`` is what the engine answers to a question of the archive; a test may change it, and ``plain`` undoes that.
    ``engines`` are the scripted ones that were started, the last runs; their requests are those of the archive.
    ``behind`` is where requests that are passed on arrive.
    """

    url: str
    gateway: Gateway
    archive: Archive
    lane: Lane
    workspace: Path
    notes: Path
    behind: OpenAIServer
    told: list[str]
    engines: list[FakeEngine] = field(default_factory=list)
    says: Callable[[Request], Step] = first_sentence

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]

    def plain(self) -> None:
        self.says = first_sentence
        self.behind.pause = 0.0


@contextmanager
def serving(folder: Path, *, guard: Guard | None = None, index: bool = True, context: int = 4096) -> Iterator[Here]:
    """Serve a workspace in ``folder``, over the example archive where ``index`` says so."""
    workspace = folder / "workspace"
    if index:
        with Workspace(workspace, create=True) as created:
            created.index(EXAMPLES)
    told: list[str] = []
    engines: list[FakeEngine] = []
    with OpenAIServer() as behind:
        threading.Thread(target=behind.serve_forever, args=(0.01,), daemon=True).start()

        def said(request: Request) -> Step:
            return here.says(request)

        def make() -> Engine:
            engine = FakeEngine(said, context=context, model=MODEL)
            engine.endpoint = Endpoint(behind.url, "engine-key", MODEL)
            engines.append(engine)
            return engine

        with Supervised(Starting(make), told.append, Pause(back_off=(0.05,), watch_every=0.02)) as supervised:
            lane = Lane(MODEL, supervised)
            settings = Settings(workspace=workspace, embedder="none")
            archive = Archive(workspace, settings, lane, tell=told.append)
            gateway = Gateway([lane], guard or Guard(), archive=archive, workspace=workspace, settings=settings)
            with running(gateway) as url:
                here = Here(url, gateway, archive, lane, workspace, EXAMPLES, behind, told, engines)
                yield here
        behind.shutdown()


@contextmanager
def running(gateway: Gateway) -> Iterator[str]:
    """Serve ``gateway`` from a thread at a free port of the loopback; yields the address."""
    listener = listen.bind(port=0)
    url = listen.url_of(listener)
    listener.listen(128)
    server = listen._server(gateway)

    async def run() -> None:
        await server.serve(sockets=[listener])
        await gateway.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield url
    finally:
        gateway.close()
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    for package in ("uvicorn", "fastapi"):
        pytest.importorskip(package, reason="serving takes more packages: pip install 'quietmind[serve]'")
    with serving(tmp_path_factory.mktemp("served")) as here:
        yield here


@pytest.fixture
def served(_served: Here) -> Iterator[Here]:
    """One address for the tests of a module; what the engine says is as at first for each of them."""
    _served.plain()
    yield _served
    _served.plain()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Return what serves an address of a test's own: see :func:`serving`."""
    return serving


@pytest.fixture(scope="session")
def address() -> Callable[[Gateway], Any]:
    """Return what serves a gateway of a test's own: see :func:`running`."""
    return running
