"""An answer on its way back: however its bytes are cut, and whatever an engine makes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.settings import Settings

pytest.importorskip("fastapi", reason="serving takes FastAPI: pip install 'quietmind[serve]'")

from quietmind.serve.ollama_answer import Embedding, Retelling
from quietmind.serve.ollama_passage import Retold, Route
from quietmind.serve.ollama_request import chat, embed
from quietmind.serve.served import Served

CHAT = Route("/api/chat", chat, partial(Retelling, shape="chat"))
EMBED = Route("/api/embed", embed, Embedding)
ASKED = {"model": "м:latest", "messages": [{"role": "user", "content": "x"}]}
EVENTS = b"text/event-stream; charset=utf-8"


class Behind:
    """The address asked again: answers with ``pieces``, and hears whether the client has gone."""

    def __init__(self, pieces: list[bytes], kind: bytes = EVENTS, status: int = 200) -> None:
        self.pieces, self.kind, self.status = pieces, kind, status
        self.scope: dict[str, Any] = {}
        self.body = b""
        self.heard: dict[str, Any] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope = scope
        self.body = (await receive())["body"]
        headers = [(b"Content-Type", self.kind), (b"x-queue-position", b"3"), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.heard = await receive()


def asked(behind: Behind, route: Route = CHAT, **fields: Any) -> tuple[int, dict[bytes, bytes], list[Any]]:
    """Return status, headers and lines of the answer to a request that ``behind`` answers."""
    sent: list[dict[str, Any]] = []
    coming: list[dict[str, Any]] = [
        {"type": "http.request", "body": json.dumps({**ASKED, **fields}).encode(), "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "method": "POST",
        "path": route.path,
        "query_string": b"a=1",
        "headers": [(b"authorization", b"Bearer k"), (b"content-length", b"9"), (b"accept", b"*/*")],
        "app": behind,
        "route": "of the framework",
    }
    served = Served((), None, None, Settings(workspace=Path()))
    asyncio.run(Retold(served, route)(scope, receive, send))
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    body = b"".join(message["body"] for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), [json.loads(line) for line in body.splitlines()]


def events(*contents: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(each, ensure_ascii=False).encode() + b"\n\n" for each in contents)


def delta(content: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": content}}]}


STREAM = b": queue position 2\n\n:\n\n" + events(delta("зи"), delta("ма")) + b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_a_stream_says_the_same_however_it_is_cut(cuts: list[int]) -> None:
    pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    status, headers, lines = asked(Behind(pieces))
    assert (status, headers[b"content-type"], headers[b"x-queue-position"]) == (200, b"application/x-ndjson", b"3")
    assert b"content-length" not in {name.lower() for name in headers}
    assert [line["message"]["content"] for line in lines] == ["", "", "зи", "ма", ""]
    assert [line.get("queue_position") for line in lines] == [2, None, None, None, None]
    assert [line["done"] for line in lines] == [False] * 4 + [True]


def test_the_request_is_asked_again_as_the_same_client() -> None:
    behind = Behind([STREAM])
    asked(behind)
    assert behind.scope["path"] == "/v1/chat/completions"
    assert behind.scope["query_string"] == b""
    assert "route" not in behind.scope
    headers = dict(behind.scope["headers"])
    assert headers[b"authorization"] == b"Bearer k"
    assert headers[b"content-length"] == b"%d" % len(behind.body)
    assert json.loads(behind.body)["model"] == "м"
    assert behind.heard == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (events(delta("a"), {"error": {"message": "out of memory"}}), "out of memory"),
        (events(delta("a")) + b'error: {"message": "out of memory"}\n\n', "out of memory"),
        (events(delta("a")), "the engine broke off its answer; ask again"),
        (events(delta("a")) + b'data: {"choi', "the engine broke off its answer; ask again"),
        (events(delta("a")) + b"data: {\n\n", "the engine's answer is not understood; ask again"),
        (events(delta("a"), {"choices": 7}), "the engine's answer is not understood; ask again"),
        (events(delta("a"), [1]), "the engine's answer is not understood; ask again"),
    ],
)
def test_a_stream_that_fails_ends_with_one_error(stream: bytes, message: str) -> None:
    _, _, lines = asked(Behind([stream, b"data: [DONE]\n\n" if b"error" in stream else b""]))
    assert [line.get("message", {}).get("content") for line in lines] == ["a", None]
    assert lines[-1] == {"error": message}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, b'{"error": {"message": "too long", "code": 400}}', (400, "too long")),
        (503, b"<html>", (503, "the engine answered with status 503")),
        (200, b"<html>", (502, "the engine's answer is not understood; ask again")),
        (200, b'{"choices": "none"}', (502, "the engine's answer is not understood; ask again")),
    ],
)
def test_an_answer_that_is_none_is_an_error(status: int, content: bytes, told: tuple[int, str], streamed: bool) -> None:
    answered, headers, (line,) = asked(Behind([content[:5], content[5:]], b"text/html", status), stream=streamed)
    assert (answered, line) == (told[0], {"error": told[1]})
    assert headers[b"content-type"] == b"application/json"


def test_an_engine_that_answers_in_one_piece_although_asked_for_a_stream_is_understood() -> None:
    whole = {"choices": [{"message": {"content": "all"}, "finish_reason": "stop"}]}
    _, _, (line,) = asked(Behind([json.dumps(whole).encode()], b"application/json"))
    assert (line["message"]["content"], line["done"]) == ("all", True)


def test_a_model_that_does_not_embed_is_an_error() -> None:
    status, _, (line,) = asked(Behind([b'{"data": [{}]}'], b"application/json"), EMBED, input="x")
    assert status == 502
    assert "embeds" in line["error"]
