"""The scripted engine of serve_load.py: an HTTP server that says what it was asked, and `quietmind up` in front of it.

    python benchmarks/serve_load_engine.py engine
    python benchmarks/serve_load_engine.py up WORKSPACE ENGINE_URL

Both print one JSON line that says where they are, and end with their standard input. ``GET /log`` of the engine
returns every request that it got, and when.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from quietmind.base.errors import EngineError
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Endpoint, Engine, Request
from quietmind.plan.ask import Ask
from quietmind.serve.entrance import Entrance
from quietmind.serve.up import Serving, Wanted, up
from quietmind.workspace.supervise import Attempt

KEY, MODEL = "the-engines-own-key", "fake"
NONCE = re.compile(r"nonce-[0-9a-f]+")
# 500 tokens a second: a small model on a good accelerator, and more than 100 clients ask for.
SECONDS_A_PIECE = 0.002


class EchoEngine:
    """Answers a chat with the nonce of its last message among ``pieces`` words, a word each SECONDS_A_PIECE."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.busy = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection, until its client goes away."""
        with suppress(asyncio.IncompleteReadError):  # gone before it had asked
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if head.startswith("GET"):
                await _give(writer, {"log": self.log, "busy": self.busy})
            else:
                lines = head.lower().split("\r\n")
                length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
                await self._serve(json.loads(await reader.readexactly(length)), reader, writer)
        writer.close()

    async def _serve(self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = str(asked["messages"][-1]["content"])
        found = NONCE.search(text)
        entry = {"nonce": found[0] if found else None, "began": time.monotonic(), "ended": None, "left": False}
        self.log.append(entry)
        self.busy += 1
        work = asyncio.ensure_future(_answer(asked, text, writer))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        entry["left"], entry["ended"] = not work.done(), time.monotonic()
        self.busy -= 1
        for task in (work, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await task


async def _answer(asked: dict[str, Any], text: str, writer: asyncio.StreamWriter) -> None:
    # The words of the question, so that its nonce comes wherever it stands there.
    words = [word if not number else f" {word}" for number, word in enumerate(text.split())]
    usage = {"prompt_tokens": len(words), "completion_tokens": len(words), "total_tokens": 2 * len(words)}
    about: dict[str, Any] = {"id": f"chatcmpl-{time.monotonic_ns()}", "created": int(time.time()), "model": MODEL}
    if not asked.get("stream"):
        await asyncio.sleep(SECONDS_A_PIECE * len(words))
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await _give(writer, {**about, "object": "chat.completion", "choices": [choice], "usage": usage})
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    deltas: list[dict[str, str]] = [{"role": "assistant"}, *({"content": word} for word in words), {}]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        event = {**about, "object": "chat.completion.chunk", "choices": [choice]}
        writer.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await writer.drain()
        await asyncio.sleep(SECONDS_A_PIECE)
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


async def _give(writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()


def answer_of(request: Request) -> str:
    """Return the sentence of the notes in ``request`` that is about the name in its question, with its mark."""
    question = str(request.prompt).rpartition("Question:")[2]
    name = re.search(r"code of (\w+)", question)
    if name is None:
        return "The notes do not say."
    said = re.search(
        rf"^\[(\d+)\][^\n]*\n(?:[^\[].*\n)*?(.*code of {name[1]} is \w+\.)", str(request.prompt), re.MULTILINE
    )
    return "The notes do not say." if said is None else f"{said[2]} [{said[1]}]"


class _Scripted:
    """An attempt that hands out scripted engines, whose HTTP is the echo's."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, url: str) -> None:
        self._url = url

    def start(self) -> Engine:
        def said(request: Request) -> str:
            engine.requests.clear()  # its memory of them is no part of what is measured
            return answer_of(request)

        engine = FakeEngine(said, model=MODEL)
        engine.endpoint = Endpoint(self._url, KEY, MODEL)
        return engine

    def smaller(self, _error: EngineError) -> tuple[Attempt, str] | None:
        return None

    def decode_at_least(self, _depth: int) -> float | None:
        return None


def _end_with_parent() -> None:
    def wait() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def _serve_engine() -> None:
    async def run() -> None:
        server = await asyncio.start_server(EchoEngine().handle, "127.0.0.1", 0, limit=1 << 22, backlog=256)
        print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
        await server.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


def _serve_up(workspace: Path, engine_url: str) -> None:
    def ready(serving: Serving) -> None:
        print(json.dumps({"url": serving.url, "model": serving.names[0]}), flush=True)

    wanted = Wanted(["tiny"], Ask(2048), workspace, Entrance(port=0))
    up(wanted, lambda line: print(line, file=sys.stderr), lambda _: None, ready, lambda _s, _l: _Scripted(engine_url))


def _main() -> None:
    _end_with_parent()
    if sys.argv[1] == "engine":
        _serve_engine()
    else:
        _serve_up(Path(sys.argv[2]), sys.argv[3])


if __name__ == "__main__":
    _main()
