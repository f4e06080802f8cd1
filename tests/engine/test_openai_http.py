"""OpenAI's HTTP against what servers say: overflows in every wording, errors in every shape, any library's failure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import ContextOverflow, EngineError, EngineRefused, EngineUnreachable
from quietmind.engine.markers import Markers, markers_of
from quietmind.engine.openai_http import OpenAIHttp, Patience, data_lines, overflow, refusal
from quietmind.engine.port import Endpoint

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


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> OpenAIHttp:
    endpoint = Endpoint("http://127.0.0.1:1", "key", "model")
    return OpenAIHttp(endpoint, "a server", patience=Patience(1, 1, 1), transport=httpx2.MockTransport(answer))


def events(*contents: Any, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(each, ensure_ascii=False).encode() + b"\n\n" for each in contents) + end


def streaming(body: bytes, **headers: str) -> OpenAIHttp:
    return client(lambda _: httpx2.Response(200, headers=headers or EVENT_STREAM, content=body))


def test_the_walk_below_sees_the_whole_tree() -> None:
    names = {kind.__name__ for kind in ALL_EXCEPTIONS}
    assert {"ReadTimeout", "RemoteProtocolError", "InvalidURL", "StreamClosed", "CookieConflict"} <= names


@pytest.mark.parametrize("kind", ALL_EXCEPTIONS)
def test_no_exception_of_the_library_escapes(kind: type[Exception]) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise instance(kind)

    class Breaking(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield events({"choices": []}, end=b"")
            raise instance(kind)

    http = client(answer)
    assert not http.answers("/health")
    broken = client(lambda _: httpx2.Response(200, headers=EVENT_STREAM, stream=Breaking()))
    calls: tuple[Callable[[], object], ...] = (
        lambda: http.get("/v1/models"),
        lambda: http.post("/tokenize", {}),
        lambda: next(http.stream("/v1/completions", {})),
        lambda: list(broken.stream("/v1/completions", {})),
    )
    for call in calls:
        with pytest.raises(EngineError):
            call()


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        (  # vLLM, a prompt that alone is too long
            "This model's maximum context length is 4096 tokens. However, your prompt contains at least 5001 input "
            "tokens, which exceeds this limit even without any output tokens. (parameter=input_tokens, value=5001)",
            (5001, 4096),
        ),
        (  # the same, when its answer makes it too long
            "This model's maximum context length is 4096 tokens. However, your prompt contains 4001 input tokens, "
            "which exceeds this limit even without any output tokens.",
            (4001, 4096),
        ),
        (  # vLLM of earlier years, together with its answer
            "This model's maximum context length is 4096 tokens. However, you requested 1000 output tokens and your "
            "prompt contains 4001 input tokens, for a total of 5001 tokens. Please reduce the length",
            (5001, 4096),
        ),
        ("Input length (5001) exceeds model's maximum context length (4096).", (5001, 4096)),
        (  # OpenAI, and vLLM of earlier years
            "This model's maximum context length is 4096 tokens. However, you requested 5001 tokens (4001 in the "
            "messages, 1000 in the completion). Please reduce the length of the messages or completion.",
            (5001, 4096),
        ),
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            (9000, 8192),
        ),
        ("The input (5001 tokens) is longer than the model's context length (4096 tokens).", (5001, 4096)),  # SGLang
        (
            "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of "
            "5001 tokens: 4001 tokens from the input messages and 1000 tokens for the completion.",
            (5001, 4096),
        ),
        ("the request exceeds the available context size. try increasing it", (0, 0)),  # llama-server of earlier years
        ("request (5001 tokens) exceeds the available context size (4096 tokens), try increasing it", (5001, 4096)),
        ("the input length exceeds the context length", (0, 0)),  # Ollama
        ("prompt too long; exceeded max context length by 905 tokens", (0, 0)),
        (  # LM Studio
            "Trying to keep the first 5143 tokens when context the overflows. However, the model is loaded with "
            "context length of only 4096 tokens, which is not enough.",
            (5143, 4096),
        ),
    ],
)
def test_an_overflow_is_known_by_the_words_of_every_server(said: str, numbers: tuple[int, int]) -> None:
    assert overflow(said) == numbers
    error = refusal("a server", 400, said)
    assert isinstance(error, ContextOverflow)
    assert (error.needed, error.context) == numbers


@pytest.mark.parametrize("said", ["model not found", "the context is empty", "max_tokens must be positive", ""])
def test_other_refusals_are_no_overflow(said: str) -> None:
    assert overflow(said) is None
    assert type(refusal("a server", 400, said)) is EngineRefused


@given(st.text(max_size=300))
def test_whatever_a_server_says_becomes_one_line(said: str) -> None:
    for status in (400, 401, 500):
        assert len(str(refusal("a server", status, said)).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"error": {"message": "no", "type": "BadRequestError", "code": 400}},  # OpenAI, vLLM
        {"error": "no"},  # Ollama
        {"object": "error", "message": "no", "code": 400},  # SGLang
        {"detail": "no"},  # FastAPI
        {"error": {"no": 1}},
    ],
)
def test_an_error_is_read_in_every_shape(content: dict[str, Any]) -> None:
    http = client(lambda _: httpx2.Response(400, json=content))
    for call in (lambda: http.post("/v1/completions", {}), lambda: next(http.stream("/v1/completions", {}))):
        with pytest.raises(EngineRefused, match="no"):
            call()


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"null", b'{"error": null}', b'{"error": {}}', b"[" * 9999])
@pytest.mark.parametrize("status", [400, 500])
def test_an_error_answer_of_any_shape_is_an_engine_error(status: int, body: bytes) -> None:
    http = client(lambda _: httpx2.Response(status, content=body))
    for call in (lambda: http.post("/v1/completions", {}), lambda: next(http.stream("/v1/completions", {}))):
        with pytest.raises(EngineError):
            call()


def test_an_error_in_the_middle_of_a_stream_is_raised_there() -> None:
    stream = streaming(events({"choices": []}, {"error": {"message": "out of blocks"}})).stream("/v1/completions", {})
    assert next(stream) == {"choices": []}
    with pytest.raises(EngineRefused, match="out of blocks"):
        next(stream)


@pytest.mark.parametrize("end", [b"", b"data: {", b"data: no\n\n", b": comment\n\n"])
def test_a_stream_that_ends_early_is_no_answer(end: bytes) -> None:
    stream = streaming(events({"choices": []}, end=end)).stream("/v1/completions", {})
    next(stream)
    with pytest.raises(EngineUnreachable):
        list(stream)


def test_an_answer_that_is_no_stream_is_refused() -> None:
    with pytest.raises(EngineUnreachable, match="instead of events"):
        list(streaming(b"{}", **{"Content-Type": "application/json"}).stream("/v1/completions", {}))


@given(st.text(max_size=40), st.integers(1, 7))
def test_events_arrive_whole_however_they_are_cut(text: str, size: int) -> None:
    body = b": hello\r\n\r\n" + events({"text": text})
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    first, done = data_lines(pieces)
    assert json.loads(first) == {"text": text}
    assert done == b"[DONE]"


def test_a_line_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quietmind.engine.openai_http.LARGEST_EVENT_BYTES", 1000)
    with pytest.raises(EngineUnreachable, match="without an end"):
        list(data_lines(b"data: xxxxx" for _ in range(1000)))


def test_a_lone_surrogate_is_sent_as_something() -> None:
    sent: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        return httpx2.Response(200, json={"tokens": []})

    client(answer).post("/tokenize", {"prompt": "a\udcff"})
    assert b'"a?"' in sent[0]


MARKERS = ["<|im_start|>", "<|im_end|>", "<s>", "[INST]", "aba"]


@given(
    st.lists(
        st.sampled_from([*MARKERS, "<", "|", "a", "ab", "b", "im_end", ">", "слово ", "\n", "[", "]"]), max_size=12
    )
)
def test_no_piece_holds_a_marker_and_nothing_is_lost(parts: list[str]) -> None:
    text = "".join(parts)
    pieces = list(Markers(MARKERS).cut(text))
    assert "".join(pieces) == text
    assert not [each for each in pieces if any(marker in each for marker in MARKERS)]
    unknown = list(Markers(None).cut(text))
    assert "".join(unknown) == text
    assert not [each for each in unknown if any(marker in each for marker in MARKERS[:4])]


def test_the_markers_of_a_model_are_read_from_its_tokenizer(tmp_path: Any) -> None:
    assert list(markers_of(tmp_path).cut("<x>y")) == ["<", "x>y"]  # none to be read: all that looks like one
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 1, "content": "<s>"}]}))
    assert list(markers_of(tmp_path).cut("<x><s>")) == ["<x><", "s>"]
    for damaged in ("", "[]", '{"added_tokens": [5]}', "[" * 99999):
        (tmp_path / "tokenizer.json").write_text(damaged)
        assert list(markers_of(tmp_path).cut("<x>y")) == ["<", "x>y"]
