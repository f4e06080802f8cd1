"""Addresses that somebody else serves: what may be sent there at all, and servers that answer anything."""

from __future__ import annotations

import importlib.util
import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import (
    ContextOverflow,
    EngineError,
    EngineHung,
    EngineRefused,
    EngineUnreachable,
    UsageError,
)
from quietmind.engine.chat_only import ChatOnly, fewest_tokens
from quietmind.engine.endpoint import EndpointOptions, checked, connect, key_from_environment, key_from_file
from quietmind.engine.openai_engine import OpenAIEngine
from quietmind.engine.openai_http import Patience
from quietmind.engine.port import Delta, Finished, Message, Request


def _load() -> Any:
    file = Path(__file__).with_name("stub_openai.py")
    spec = importlib.util.spec_from_file_location("stub_openai", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stub_openai = _load()
QUICK = Patience(prefill=0.5, decode=0.5, call=0.5)
HELLO = [Message("user", "Say hello to the neighbours.")]


@contextmanager
def serving(flavour: str = "vllm", **more: object) -> Iterator[tuple[Any, OpenAIEngine]]:
    with (
        stub_openai.Stub(("127.0.0.1", 0), flavour=flavour, key="secret", **more) as stub,
        connect(EndpointOptions(stub.url, key="secret")) as engine,
    ):
        yield stub, engine


@contextmanager
def saying(answer: bytes, *, forever: bytes = b"") -> Iterator[str]:
    """A server that answers every connection with these bytes, and with ``forever`` again and again after them."""
    listening = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(answer)
                    while forever and not done.is_set():
                        connection.sendall(forever)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        done.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def http(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode() + body


def run(engine: OpenAIEngine, request: Request) -> tuple[str, Finished]:
    *deltas, last = list(engine.generate(request))
    assert isinstance(last, Finished)
    return "".join(each.text for each in deltas if isinstance(each, Delta)), last


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434",
        "http://127.0.0.1:11434/v1",
        "http://localhost:1234/v1/",
        "http://[::1]:8000",
        "http://127.9.9.9",
    ],
)
def test_the_loopback_needs_no_consent(url: str) -> None:
    address = checked(url, ())
    assert not address.remote
    assert not address.base.endswith(("/", "/v1"))


@pytest.mark.parametrize(
    "url",
    [
        "https://gpu.lan",
        "https://192.168.1.7:8000",
        "https://127.0.0.1.gpu.lan",
        "https://localhost.gpu.lan",
        "http://0.0.0.0:8000",
        "https://[fe80::1]",
        "https://2130706433",
        "https://127.1",
        "https://GPU.LAN",
    ],
)
@pytest.mark.parametrize("consent", [(), ("*",), ("*.lan",), ("lan",), ("other.lan",), ("gpu",), ("",)])
def test_any_other_host_needs_consent_that_names_it(url: str, consent: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="not this machine"):
        checked(url, consent)


def test_consent_is_for_one_host_and_for_tls_unless_it_says_http() -> None:
    assert checked("https://GPU.lan:8443/v1", ("gpu.lan",)).remote
    with pytest.raises(UsageError, match="without TLS"):
        checked("http://gpu.lan", ("gpu.lan",))
    assert checked("http://gpu.lan", ("http://gpu.lan",)).base == "http://gpu.lan"


@pytest.mark.parametrize(
    "url", ["", "gpu.lan", "ftp://127.0.0.1", "http://", "http://[::1", "http://127.0.0.1:x", "file:///etc"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        checked(url, ())


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        checked("https://me:hunter2@gpu.lan", ("gpu.lan",))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(UsageError):
        checked("https://127.0.0.1@gpu.lan", ("127.0.0.1",))


def test_the_first_line_says_that_notes_will_leave_this_machine() -> None:
    import httpx2

    said: list[str] = []
    options = EndpointOptions("http://gpu.lan", allow_remote=("http://gpu.lan",))
    with pytest.raises(EngineError):
        connect(options, said.append, httpx2.MockTransport(lambda _: httpx2.Response(500)))
    assert said == ["notes will leave this machine: every prompt is sent to http://gpu.lan, unencrypted"]


def test_nothing_is_sent_without_consent() -> None:
    import httpx2

    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(500)

    with pytest.raises(UsageError):
        connect(EndpointOptions("https://gpu.lan"), transport=httpx2.MockTransport(answer))
    assert not sent


def test_a_key_file_that_others_may_read_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    file = tmp_path / "my key"
    file.write_text("abc123\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match=f"chmod 600 '{file}'"):
        key_from_file(file)
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert key_from_file(file) == "abc123"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a\nb", b"k\xff", b"x" * 5000])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UsageError, match="no key"):
        key_from_file(file)


def test_a_key_that_is_not_there_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError):
            key_from_file(file)
    monkeypatch.setenv("SOME_KEY", "abc")
    assert key_from_environment("SOME_KEY") == "abc"
    with pytest.raises(UsageError, match="OTHER_KEY"):
        key_from_environment("OTHER_KEY")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http(b"<html>It works!</html>", kind="text/html"), EngineUnreachable),
        (http(b"<html>Bad gateway</html>", "502 Bad Gateway", "text/html"), EngineUnreachable),
        (http(b"{}"), EngineUnreachable),
        (http(b"[]"), EngineUnreachable),
        (http(b"null"), EngineUnreachable),
        (http(b'{"data": 5}'), EngineUnreachable),
        (http(b'{"data": [{"name": "x"}]}'), EngineUnreachable),
        (http(b'{"data": []}'), EngineRefused),
        (http(b'{"error": "Unauthorized"}', "401 Unauthorized"), EngineRefused),
        (http(b"", "403 Forbidden", "text/plain"), EngineRefused),
        (http(b'{"error": {"message": "broken"}}', "500 Internal Server Error"), EngineRefused),
        (http(b"[" * 100_000), EngineUnreachable),
        (b"SSH-2.0-OpenSSH_9.9\r\n", EngineUnreachable),
        (b"", EngineUnreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", EngineUnreachable),
    ],
)
def test_a_server_that_answers_nonsense_gives_one_line(answer: bytes, error: type[EngineError]) -> None:
    with saying(answer) as url, pytest.raises(error) as caught:
        connect(EndpointOptions(url))
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_gives_one_line() -> None:
    with saying(b"") as url:
        pass
    with pytest.raises(EngineUnreachable, match="cannot be reached"):
        connect(EndpointOptions(url))


def test_a_redirect_is_never_followed() -> None:
    with saying(http(b'{"data": [{"id": "trap", "max_model_len": 9}]}')) as trap:
        to_it = http(b"", "302 Found", more=f"Location: {trap}/v1/models\r\n")
        with saying(to_it) as url, pytest.raises(EngineUnreachable, match="not followed") as caught:
            connect(EndpointOptions(url, key="secret"))
        assert trap in str(caught.value)


def test_an_answer_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quietmind.engine.openai_http.LARGEST_ANSWER_BYTES", 1 << 20)
    endless = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n["
    with saying(endless, forever=b"0," * 4096) as url, pytest.raises(EngineUnreachable, match="without an end"):
        connect(EndpointOptions(url))


def test_an_answer_that_drips_is_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    with (
        saying(head, forever=b" ") as url,
        pytest.raises(EngineHung),
    ):
        connect(EndpointOptions(url, patience=QUICK))


def test_a_silent_server_is_hung() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(EngineHung, match="silent"):
        connect(EndpointOptions(f"http://127.0.0.1:{listening.getsockname()[1]}", patience=QUICK))


def test_the_model_must_be_named_where_there_are_several() -> None:
    answer = http(json.dumps({"data": [{"id": "a", "max_model_len": 5}, {"id": "b"}]}).encode())
    with saying(answer) as url:
        with pytest.raises(UsageError, match=r"several models \(a, b\)"):
            connect(EndpointOptions(url))
        with pytest.raises(UsageError, match="serves a, b"):
            connect(EndpointOptions(url, model="c"))


def test_a_context_that_nobody_says_must_be_said() -> None:
    with saying(http(b'{"data": [{"id": "a"}]}')) as url:
        with pytest.raises(UsageError, match="--context"):
            connect(EndpointOptions(url))
        assert connect(EndpointOptions(url, context=4096)).context == 4096


def test_the_context_asked_for_cannot_exceed_the_servers() -> None:
    with stub_openai.Stub(("127.0.0.1", 0)) as stub:
        assert connect(EndpointOptions(stub.url, context=100_000)).context == 512
        assert connect(EndpointOptions(stub.url, context=100)).context == 100


def test_ollama_is_found_by_its_own_words() -> None:
    said: list[str] = []
    with stub_openai.Stub(("127.0.0.1", 0), flavour="ollama", context=2048) as stub:
        engine = connect(EndpointOptions(stub.url, model="stub"), said.append)
        assert (engine.model, engine.context, engine.counts_estimated) == ("stub:latest", 2048, True)
        assert "estimates" in said[0]
        prompt = engine.render([Message("system", "Be brief."), Message("user", "Почему?")])
        text, finished = run(engine, Request(prompt, max_tokens=4))
        assert text == "one two three four "
        assert (finished.reason, finished.timings.predicted) == ("length", 4)
        assert [each["role"] for each in stub.requests[0]["messages"]] == ["system", "user"]


def test_a_llama_server_elsewhere_counts_exactly_and_keeps_notes_inert() -> None:
    with stub_openai.Stub(("127.0.0.1", 0), flavour="llama-server", key="secret", model="/models/some.gguf") as stub:
        engine = connect(EndpointOptions(stub.url, key="secret"))
        assert (engine.model, engine.context, engine.counts_estimated) == ("some", 512, False)
        tokens = engine.tokenize(engine.render([Message("user", "say <|im_end|>")]))
        assert [each for each in tokens if each < stub_openai.FIRST_BYTE] == [2, 0, 1, 0]
        assert run(engine, Request("text", max_tokens=3))[1].timings.predicted == 3
        assert json.loads(run(engine, Request("text", max_tokens=9, schema={"type": "object"}))[0]) == {"answer": 7}
        with pytest.raises(EngineRefused, match="refuses the key"):
            connect(EndpointOptions(stub.url, key="other"))


def test_a_prompt_that_the_server_has_cut_is_not_answered() -> None:
    with stub_openai.Stub(("127.0.0.1", 0), flavour="ollama", context=100_000) as stub:
        stub.read_at_most = 64
        engine = connect(EndpointOptions(stub.url))
        with pytest.raises(EngineRefused, match="has cut it"):
            run(engine, Request(engine.render([Message("user", "word " * 600)]), max_tokens=4))


@pytest.mark.parametrize("text", ["One or two words.", "Два слова", "f(x)=1", "", "   ", "漢字"])
def test_an_estimate_is_not_below_the_words(text: str) -> None:
    assert len(ChatOnly().plain(text)) >= fewest_tokens(text)


def test_an_overflow_told_without_numbers_has_numbers() -> None:
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "a", "max_model_len": 99}]})
        if request.url.path == "/v1/chat/completions":
            return httpx2.Response(400, json={"error": "the input length exceeds the context length"})
        return httpx2.Response(404, json={})

    engine = connect(EndpointOptions("http://127.0.0.1:1"), transport=httpx2.MockTransport(answer))
    with pytest.raises(ContextOverflow) as caught:
        next(engine.generate(Request("word " * 200, max_tokens=8)))
    assert (caught.value.needed, caught.value.context) == (208, 99)


def test_the_engine_goes_on_after_a_request_that_failed() -> None:
    with serving() as (_, engine):
        with pytest.raises(ContextOverflow):
            next(engine.generate(Request("x" * 600, max_tokens=8)))
        assert run(engine, Request("x", max_tokens=2))[0] == "one two "
        assert engine.healthy()


def test_stopping_leaves_the_server_alone() -> None:
    with serving() as (stub, engine):
        engine.stop()
        assert not engine.healthy()
        with pytest.raises(EngineRefused, match="has been stopped"):
            engine.tokenize("text")
        assert connect(EndpointOptions(stub.url, key="secret")).healthy()
