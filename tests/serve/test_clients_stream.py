"""A stream through the address, chunk by chunk, beside what llama.cpp's own server sends for the same request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Endpoint
from quietmind.model.locate import locate
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.workspace.supervise import Supervised

if TYPE_CHECKING:
    from tests.serve.conftest import Here

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Say hello."}]
SCHEMA = {"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"]}
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HELLO}),
    "usage": (CHAT, {"messages": HELLO, "stream_options": {"include_usage": True}}),
    "schema": (
        CHAT,
        {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    ),
    "tools": (CHAT, {"messages": HELLO, "tools": [TOOL]}),
    "completion": ("/v1/completions", {"prompt": "Once upon a time"}),
}
# What is another for every answer.
_OF_THE_MOMENT = ("id", "created", "timings")


class Once:
    """An attempt that hands out an engine that runs already."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, engine: LlamaCpp) -> None:
        self.start = lambda: engine

    def smaller(self, error: Exception) -> None:
        return None

    def decode_at_least(self, depth: int) -> float | None:
        return None


@pytest.fixture(scope="module")
def both(address: Callable[[Gateway], Any]) -> Iterator[tuple[str, Endpoint]]:
    """The address before the small real model, and where its own server is."""
    pytest.importorskip("xllamacpp", reason="the engine is not installed: pip install 'quietmind[llamacpp]'")
    try:
        model = locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
    engine = LlamaCpp.start(LlamaCppOptions(model, context=512))
    with Supervised(Once(engine)) as supervised:
        endpoint = engine.endpoint
        with address(Gateway([Lane(endpoint.model, supervised)], Guard())) as url:
            yield url, endpoint


def streamed(url: str, path: str, body: dict[str, Any], endpoint: Endpoint | None = None) -> httpx2.Response:
    """Return the answer of the address, or of the engine itself."""
    transport = httpx2.HTTPTransport(uds=str(endpoint.socket) if endpoint and endpoint.socket else None)
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint else {}
    with httpx2.Client(transport=transport, base_url=url, headers=headers, timeout=60) as client:
        return client.post(path, json={"stream": True, "temperature": 0, "seed": 1, "max_tokens": 12, **body})


def lasting(event: str) -> Any:
    """Return an event without what is another for every answer."""
    if not event.startswith("data: {"):
        return event
    return {key: value for key, value in json.loads(event[6:]).items() if key not in _OF_THE_MOMENT}


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_chunk_is_the_engines_own(both: tuple[str, Endpoint], kind: str) -> None:
    url, endpoint = both
    path, body = REQUESTS[kind]
    streamed(url, path, body)  # from now on the prompt is in the cache, for both alike
    ours, theirs = streamed(url, path, body), streamed(endpoint.url, path, body, endpoint)
    assert ours.status_code == theirs.status_code == 200
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    events = [each.text.split("\n\n") for each in (ours, theirs)]
    assert [lasting(event) for event in events[0]] == [lasting(event) for event in events[1]]
    assert events[0][-2:] == ["data: [DONE]", ""]
    assert len(events[0]) > 4


def test_the_archive_streams_chunks_of_the_same_shape(both: tuple[str, Endpoint], served: Here) -> None:
    body = {"messages": [{"role": "user", "content": "How does the hub pair?"}], **REQUESTS["usage"][1]}
    engine = [json.loads(event[6:]) for event in streamed(both[0], CHAT, body).text.split("\n\n")[:-2]]
    body["messages"][0]["content"] = "How does the hub pair with a sensor?"
    text = streamed(served.url, CHAT, {**body, "model": "archive", "max_tokens": 200}).text
    *events, done, rest = [event for event in text.split("\n\n") if not event.startswith(":")]
    archive = [json.loads(event.removeprefix("data: ")) for event in events]
    assert (done, rest) == ("data: [DONE]", "")
    for place in (0, 1, -2, -1):  # the role, a word, the end, what it took
        assert engine[place].keys() - {"system_fingerprint", "timings"} <= archive[place].keys(), place
        for theirs, ours in zip(engine[place]["choices"], archive[place]["choices"], strict=True):
            assert theirs.keys() <= ours.keys() | {"logprobs"}
            assert theirs["delta"].keys() <= ours["delta"].keys()
    assert engine[-1]["usage"].keys() <= archive[-1]["usage"].keys()
    assert archive[0]["choices"][0]["delta"]["role"] == "assistant"
    assert archive[-2]["choices"][0]["finish_reason"] == "stop"
    # The sources, and what clients of llama.cpp read of its timings, stand on the last chunk that has a choice.
    assert archive[-2]["citations"]
    assert archive[-2]["timings"].keys() <= engine[-1]["timings"].keys()
