"""The HTTP of llama.cpp's server against answers that a real one gives rarely: errors, breaks, odd characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from quietmind.base.errors import ContextOverflow, EngineCrashed, EngineError, EngineRefused
from quietmind.engine.llama_http import LlamaHttp

EVENT_STREAM = {"Content-Type": "text/event-stream"}


def all_exceptions(root: type[Exception]) -> set[type[Exception]]:
    return {root}.union(*(all_exceptions(child) for child in root.__subclasses__()))


ALL_EXCEPTIONS = sorted(
    {
        kind
        for name in dir(httpx2)
        if isinstance(root := getattr(httpx2, name), type) and issubclass(root, Exception)
        for kind in all_exceptions(root)
        if not issubclass(kind, Warning)
    },
    key=lambda kind: kind.__name__,
)


def instance(kind: type[Exception]) -> Exception:
    request = httpx2.Request("POST", "http://127.0.0.1/")
    attempts: tuple[Callable[[], Exception], ...] = (
        lambda: kind("said by a test"),
        lambda: kind("said by a test", request=request, response=httpx2.Response(500, request=request)),  # type: ignore[call-arg]
        kind,
    )
    for attempt in attempts:
        try:
            return attempt()
        except TypeError:
            continue
    raise AssertionError(f"no way known to make a {kind.__name__}")


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> LlamaHttp:
    return LlamaHttp(
        "http://127.0.0.1:1",
        "key",
        silence=1,
        broken=lambda error: EngineCrashed(type(error).__name__),
        transport=httpx2.MockTransport(answer),
    )


def events(*contents: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(each, ensure_ascii=False).encode() + b"\n\n" for each in contents)


def test_the_walk_below_sees_the_whole_tree() -> None:
    names = {kind.__name__ for kind in ALL_EXCEPTIONS}
    assert {"ReadTimeout", "RemoteProtocolError", "InvalidURL", "StreamClosed", "CookieConflict", "SSEError"} <= names
    assert len(names) >= 29


@pytest.mark.parametrize("kind", ALL_EXCEPTIONS)
def test_no_exception_of_the_library_escapes_a_request(kind: type[Exception]) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise instance(kind)

    http = client(answer)
    assert not http.healthy()
    calls: tuple[Callable[[], object], ...] = (
        lambda: http.get("/props"),
        lambda: http.post("/tokenize", {}),
        lambda: next(http.stream("/completion", {})),
    )
    for call in calls:
        with pytest.raises(EngineCrashed, match=kind.__name__):
            call()


@pytest.mark.parametrize("kind", ALL_EXCEPTIONS)
def test_no_exception_of_the_library_escapes_a_stream(kind: type[Exception]) -> None:
    class Breaking(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield events({"content": "one"})
            raise instance(kind)

    http = client(lambda _: httpx2.Response(200, headers=EVENT_STREAM, stream=Breaking()))
    stream = http.stream("/completion", {})
    assert next(stream) == {"content": "one"}
    with pytest.raises(EngineCrashed, match=kind.__name__):
        next(stream)


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"null", b'{"error": null}', b'{"error": {"type": "exceed_context_size_error"}}'],
)
@pytest.mark.parametrize("status", [400, 500])
def test_an_error_answer_of_any_shape_is_an_engine_error(status: int, body: bytes) -> None:
    http = client(lambda _: httpx2.Response(status, content=body))
    for call in (lambda: http.post("/completion", {}), lambda: next(http.stream("/completion", {}))):
        with pytest.raises(EngineError):
            call()


def test_an_overflow_told_by_the_server_keeps_its_numbers() -> None:
    error = {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 5001, "n_ctx": 4096}
    http = client(lambda _: httpx2.Response(400, json={"error": error}))
    with pytest.raises(ContextOverflow) as caught:
        next(http.stream("/completion", {}))
    assert (caught.value.needed, caught.value.context) == (5001, 4096)


def test_an_error_in_the_middle_of_a_stream_is_raised_there() -> None:
    content = events({"content": "one"}, {"error": {"message": "compute error", "type": "server_error"}})
    stream = client(lambda _: httpx2.Response(200, headers=EVENT_STREAM, content=content)).stream("/completion", {})
    assert next(stream)["content"] == "one"
    with pytest.raises(EngineRefused, match="compute error"):
        next(stream)


@pytest.mark.parametrize(
    "tail",
    [b"", b"data: {\n\n", b"data: 3\n\n", b"data: [DONE]\n\n", b'data: {"content": "cut off'],
)
def test_a_stream_that_ends_early_or_in_nonsense_is_no_finished_generation(tail: bytes) -> None:
    content = events({"content": "one"}) + tail
    stream = client(lambda _: httpx2.Response(200, headers=EVENT_STREAM, content=content)).stream("/completion", {})
    next(stream)
    with pytest.raises(EngineCrashed):
        list(stream)


def test_pings_and_line_separators_inside_the_text_do_not_break_events() -> None:
    text = "a\u2028b\u2029c\x85d\x0be ёж 🦔"
    content = b": ping\n\n" + events({"content": text}) + b":\n\n" + events({"content": "", "stop": True})

    class Dribble(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for at in range(len(content)):
                yield content[at : at + 1]

    http = client(lambda _: httpx2.Response(200, headers=EVENT_STREAM, stream=Dribble()))
    assert [event["content"] for event in http.stream("/completion", {})] == [text, ""]


def test_text_that_has_no_encoding_is_sent_all_the_same() -> None:
    http = client(lambda request: httpx2.Response(200, json=json.loads(request.content)))
    assert http.post("/tokenize", {"content": "a\ud800b"}) == {"content": "a?b"}


def test_a_stream_asks_for_a_connection_of_its_own() -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["Connection"])
        return httpx2.Response(200, headers=EVENT_STREAM, content=events({"stop": True}))

    list(client(answer).stream("/completion", {}))
    assert seen == ["close"]


def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    http = LlamaHttp("http://127.0.0.1:1", "key", silence=1, broken=lambda error: EngineCrashed(str(error)))
    assert not http._client._mounts
    http.close()
