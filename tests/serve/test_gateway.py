"""What passes through the gateway, over real HTTP, and what a client hears when something does not.

The engine is a small HTTP server: what it does stands in the request.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quietmind.base.errors import EngineCrashed, EngineError, EngineMissing
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Endpoint, Engine
from quietmind.serve import listen
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.serve.patience import Patience
from quietmind.serve.relay import PASSED_ON
from quietmind.workspace.supervise import Attempt, Pause, Supervised


@dataclass(frozen=True)
class Seen:
    """A request as the stub engine got it."""

    head: str
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        return None


@dataclass
class StubEngine:
    """Speaks HTTP as an engine would. What it does stands in the request: ``{"do": "...", ...}``.

    ``answer`` gives one JSON; ``stream`` the ``tokens`` given, one each ``pause`` seconds, and [DONE]; ``die`` breaks
    off within an event after the first token; ``refuse`` answers 400; ``silence`` says nothing until the client goes.
    """

    socket_path: Path | None = None
    requests: list[Seen] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    left: list[float] = field(default_factory=list)  # when clients went away before their answer's end
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next(int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-len"))
        seen = Seen(head, await reader.readexactly(length))
        self.requests.append(seen)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        work = asyncio.ensure_future(self.answer(json.loads(seen.body), writer))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.left.append(time.monotonic())
        self.busy -= 1
        for task in (work, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await task
        writer.close()

    async def answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        do = asked.get("do", "answer")
        if do == "silence":
            await asyncio.sleep(60)
        elif do in ("answer", "refuse"):
            content = b'{"answer":  [1, 2.50], "odd": "\\u00e9"}'
            if do == "refuse":
                content = json.dumps({"error": asked.get("error", {"message": "no"})}).encode()
            head = f"HTTP/1.1 {200 if do == 'answer' else 400} X\r\nContent-Type: application/json\r\nServer: stub\r\n"
            head += f"Access-Control-Allow-Origin: *\r\nX-Engine: kept\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(head.encode() + content)
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nAccess-Control-Allow-Origin: x\r\n\r\n"
            )
            for token in asked.get("tokens", ["a", "b"]):
                writer.write(b'data: {"token": "%s"}\n\n' % token.encode())
                await writer.drain()
                await asyncio.sleep(asked.get("pause", 0.0))
                if do == "die":
                    writer.write(b'data: {"tok')
                    await writer.drain()
                    writer.transport.abort()
                    return
            writer.write(b"data: [DONE]\n\n")
        await writer.drain()


@contextmanager
def in_loop(begin: Callable[[], Any]) -> Iterator[Any]:
    """Run a coroutine of a server in a loop of its own thread; cancelled at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    finally:

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def stub_engine(socket_path: Path | None = None) -> Iterator[StubEngine]:
    """Start a stub engine on a port, or on a Unix socket."""
    stub = StubEngine(socket_path)

    async def begin() -> asyncio.Server:
        if socket_path is not None:
            return await asyncio.start_unix_server(stub.handle, socket_path)
        return await asyncio.start_server(stub.handle, "127.0.0.1", 0)

    with in_loop(begin) as server:
        stub.url = "http://engine" if socket_path else f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield stub
        server.close()


class EngineOfStub(FakeEngine):
    """An engine whose HTTP is a stub's, and which can be declared dead."""

    def __init__(self, stub: StubEngine, model: str = "stub") -> None:
        super().__init__((), model=model)
        self.endpoint = Endpoint(stub.url, "engine-key", model, stub.socket_path)
        self.dead: EngineError | None = None

    def die(self) -> None:
        self.dead = EngineCrashed(f"{self.model}: llama.cpp was ended by SIGKILL; start it again")

    def healthy(self) -> bool:
        return self.dead is None

    def tokenize(self, text: str) -> list[int]:
        if self.dead is not None:
            raise self.dead
        return super().tokenize(text)


class Scripted:
    """An attempt that hands out engines, and waits for ``may_start`` first."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.make = make
        self.may_start = threading.Event()
        self.may_start.set()

    def start(self) -> Engine:
        self.may_start.wait(20)
        return self.make()

    def smaller(self, error: EngineError) -> tuple[Attempt, str] | None:
        return None

    def decode_at_least(self, depth: int) -> float | None:
        return None


@dataclass
class Served:
    """A model behind a gateway, with everything of it in reach."""

    lane: Lane
    attempt: Scripted
    engines: list[EngineOfStub]


@contextmanager
def served(
    stub: StubEngine, name: str = "stub", *, called: str = "", width: int = 1, patience: Patience | None = None
) -> Iterator[Served]:
    """Supervise an engine of ``stub``, as `quietmind up` does."""
    engines: list[EngineOfStub] = []

    def make() -> Engine:
        engines.append(EngineOfStub(stub, name))
        return engines[-1]

    attempt = Scripted(make)
    lines: list[str] = []
    with Supervised(attempt, lines.append, Pause(back_off=(0.05,), watch_every=0.02)) as supervised:
        yield Served(Lane(name, supervised, called=called, width=width, patience=patience), attempt, engines)
        attempt.may_start.set()


@contextmanager
def gateway(*lanes: Lane, guard: Guard | None = None, largest_body: int = 1 << 20) -> Iterator[str]:
    """Serve the lanes as `quietmind up` does; yields the address."""
    pytest.importorskip("uvicorn", reason="serving takes uvicorn: pip install 'quietmind[serve]'")
    listener = listen.bind(port=0)
    url = listen.url_of(listener)
    listener.listen(128)

    async def run(application: Gateway) -> None:
        await application_server.serve(sockets=[listener])
        await application.aclose()

    application = Gateway(lanes, guard or Guard(), largest_body=largest_body)
    application_server = listen._server(application)
    thread = threading.Thread(target=lambda: asyncio.run(run(application)))
    thread.start()
    try:
        while not application_server.started:
            time.sleep(0.005)
        yield url
    finally:
        application.close()
        application_server.should_exit = True
        thread.join()
        listener.close()


def raw_request(url: str, request: bytes) -> bytes:
    """Send bytes to an address and return all that comes back."""
    host, port = url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=10)) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


CHAT = "/v1/chat/completions"


@pytest.fixture
def stub() -> Iterator[StubEngine]:
    with stub_engine() as stub:
        yield stub


def post(url: str, body: dict[str, Any] | bytes, path: str = CHAT, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(url + path, content=content, headers=headers, timeout=20, trust_env=False)


def events(text: str) -> list[Any]:
    """Return the JSON of each event; comments are passed over, as clients do."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


class Stream:
    """A client that reads a stream line by line and can go away."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        self.connection.request("POST", CHAT, json.dumps({"stream": True, **body}))
        self.response = self.connection.getresponse()

    def line(self) -> str:
        return next(line for line in iter(self.response.readline, None) if line.strip()).decode().strip()

    def rest(self) -> str:
        return self.response.read().decode()

    def leave(self) -> None:
        self.response.close()
        self.connection.close()


@pytest.mark.parametrize("path", PASSED_ON)
def test_a_request_and_its_answer_pass_untouched(stub: StubEngine, path: str) -> None:
    body = b'{"model": "stub",  "tools": [{"x": 1.50}], "unknown": "\\u00e9", "tools": []}'
    with served(stub) as model, gateway(model.lane) as url:
        answer = post(url, body, f"{path}?a=1", **{"Content-Type": "application/json"})
    assert stub.requests[0].body == body
    assert stub.requests[0].head.startswith(f"POST {path}?a=1 HTTP/1.1")
    assert answer.content == b'{"answer":  [1, 2.50], "odd": "\\u00e9"}'
    assert answer.headers["x-engine"] == "kept"
    assert answer.headers["x-queue-position"] == "0"
    assert "server" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


def test_an_engine_on_a_unix_socket_is_reached(tmp_path: Path) -> None:
    with stub_engine(tmp_path / "engine.sock") as stub, served(stub) as model, gateway(model.lane) as url:
        assert post(url, {"model": "stub"}).status_code == 200


def test_the_engine_gets_its_own_key_and_never_the_clients(stub: StubEngine) -> None:
    key = "k" * 32
    with served(stub) as model, gateway(model.lane, guard=Guard(key)) as url:
        assert post(url, {"model": "stub"}, Authorization=f"Bearer {key}", Cookie="a=b").status_code == 200
        refused = post(url, {"model": "stub"}, Authorization="Bearer wrong")
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
    (seen,) = stub.requests
    assert seen.header("authorization") == "Bearer engine-key"
    assert key not in seen.head
    assert seen.header("cookie") is None


def test_the_name_that_was_typed_is_translated_and_all_else_kept(stub: StubEngine) -> None:
    with served(stub, called="tiny") as model, gateway(model.lane) as url:
        assert post(url, {"model": "tiny", "big": 12345678901234567890, "text": "й"}).status_code == 200
        assert post(url, {"text": "no model, and only one runs"}).status_code == 200
    assert json.loads(stub.requests[0].body) == {"model": "stub", "big": 12345678901234567890, "text": "й"}
    assert json.loads(stub.requests[1].body)["model"] == "stub"


def test_models_are_named_and_an_unknown_one_lists_them(stub: StubEngine) -> None:
    with served(stub) as one, served(stub, "other") as two, gateway(one.lane, two.lane) as url:
        listed = httpx2.get(f"{url}/v1/models").json()["data"]
        assert [(each["id"], each["max_model_len"], each["state"]) for each in listed] == [
            ("stub", 4096, "ready"),
            ("other", 4096, "ready"),
        ]
        assert httpx2.get(f"{url}/v1/models/other").json()["id"] == "other"
        for answer, status in (
            (post(url, {"model": "third"}), 404),
            (httpx2.get(f"{url}/v1/models/third"), 404),
            (post(url, {}), 400),
        ):
            assert answer.status_code == status
            assert "stub, other" in answer.json()["error"]["message"]
    assert stub.requests == []


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", CHAT, 400),
        (b"[]", CHAT, 400),
        (b"[" * 100_000, CHAT, 400),
        (b"\xff", CHAT, 400),
        (b'{"model": 3}', CHAT, 400),
        (b"{}", "/v1/nothing", 404),
        (b"x" * 2000, CHAT, 413),
    ],
)
def test_nonsense_gets_one_error_in_the_shape_of_openai(stub: StubEngine, body: bytes, path: str, status: int) -> None:
    with served(stub) as model, gateway(model.lane, largest_body=200_000 if body[:1] == b"[" else 1000) as url:
        answer = post(url, body, path)
    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert "\n" not in answer.json()["error"]["message"]
    assert stub.requests == []


def test_a_body_of_unstated_size_is_refused_at_the_limit(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane, largest_body=1000) as url:
        host = url.removeprefix("http://")
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        assert b" 413 " in raw_request(url, head + b"1000\r\n" + b"x" * 0x1000 + b"\r\n")


def test_an_error_of_the_engine_comes_through_as_it_is(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        for stream in (False, True):
            answer = post(url, {"do": "refuse", "stream": stream})
            assert (answer.status_code, answer.json()) == (400, {"error": {"message": "no"}})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512},
        {"code": 400, "message": "This model's maximum context length is 512 tokens, you requested 900 tokens"},
    ],
)
def test_a_prompt_that_is_too_long_is_told_in_openais_words_with_both_numbers(
    stub: StubEngine, error: dict[str, Any], stream: bool
) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        answer = post(url, {"do": "refuse", "error": error, "stream": stream})
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert (told["code"], told["needed"], told["context"]) == ("context_length_exceeded", 900, 512)


def test_a_stream_arrives_while_it_is_made(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        stream = Stream(url, {"do": "stream", "tokens": ["a", "b", "c"], "pause": 0.3})
        assert stream.line() == 'data: {"token": "a"}'
        assert stub.busy == 1  # the engine is still at it
        assert [each if each == "[DONE]" else each["token"] for each in events(stream.rest())] == ["b", "c", "[DONE]"]
        stream.leave()


def test_requests_take_turns_and_learn_their_places(stub: StubEngine) -> None:
    slow = {"do": "stream", "tokens": ["a", "b"], "pause": 0.2}
    with served(stub) as model, gateway(model.lane) as url:
        first = Stream(url, slow)
        assert first.response.headers["x-queue-position"] == "0"
        second = Stream(url, slow)
        third = Stream(url, slow)
        assert [each.response.headers["x-queue-position"] for each in (second, third)] == ["1", "2"]
        assert second.line() == ": queue position 1"
        assert third.line() == ": queue position 2"
        assert third.line() == ": queue position 1"
        for stream in (first, second, third):
            assert events(stream.rest())[-1] == "[DONE]"
            stream.leave()
    assert stub.most_busy == 1


def test_an_engine_that_takes_several_gets_several(stub: StubEngine) -> None:
    with served(stub, width=2) as model, gateway(model.lane) as url:
        streams = [Stream(url, {"do": "stream", "pause": 0.2}) for _ in range(3)]
        assert [stream.response.headers["x-queue-position"] for stream in streams] == ["0", "0", "1"]
        for stream in streams:
            stream.rest()
            stream.leave()
    assert stub.most_busy == 2


def test_who_waits_in_line_may_leave_it(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        first = Stream(url, {"do": "stream", "pause": 0.3})
        second = Stream(url, {"do": "stream"})
        third = Stream(url, {"do": "stream", "mark": "third"})
        second.leave()
        assert third.line() == ": queue position 2"
        assert third.line() == ": queue position 1"
        assert events(third.rest())[-1] == "[DONE]"
        first.leave()
        third.leave()
    assert len(stub.requests) == 2


@pytest.mark.parametrize("do", ["stream", "silence"])
def test_a_client_that_goes_away_cancels_its_generation(stub: StubEngine, do: str) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        body = json.dumps({"do": do, "stream": True, "tokens": ["a"] * 1000, "pause": 0.01}).encode()
        host, port = url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)))) as client:
            client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            client.sendall(body)
            until(lambda: stub.busy)
        until(lambda: stub.left)
        assert post(url, {"model": "stub"}).status_code == 200  # its turn was given back


def test_of_an_engine_that_listens_elsewhere_two_requests_share_one_client(stub: StubEngine) -> None:
    async def asked(lane: Lane) -> None:
        before, now = (Endpoint(f"http://127.0.0.1:{port}", "", "stub") for port in (1, 2))
        earlier = await lane.client(before)
        first, second = await asyncio.gather(lane.client(now), lane.client(now))
        assert first is second
        assert not first.is_closed
        await asyncio.sleep(0.01)
        assert earlier.is_closed
        await lane.close()

    with served(stub) as one:
        asyncio.run(asked(one.lane))


def test_an_engine_that_died_is_named_and_comes_back(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        model.attempt.may_start.clear()
        model.engines[0].die()
        until(lambda: model.lane.supervised.state == "starting")
        answer = post(url, {"model": "stub"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "started again" in answer.json()["error"]["message"]
        assert httpx2.get(f"{url}/health").json() == {"status": "degraded"}
        assert httpx2.get(f"{url}/v1/models").json()["data"][0]["state"] == "starting"
        model.attempt.may_start.set()
        until(lambda: model.lane.supervised.state == "ready")
        assert post(url, {"model": "stub"}).status_code == 200


def test_an_engine_that_was_given_up_is_named_once_with_the_reason(stub: StubEngine) -> None:
    def removed() -> Engine:
        raise EngineMissing("stub: its program is gone; install it")

    with served(stub) as model, gateway(model.lane) as url:
        model.attempt.make = removed
        model.engines[0].die()
        until(lambda: model.lane.supervised.state == "given up")
        error = post(url, {"model": "stub"}).json()["error"]
        assert error["message"] == "stub: its program is gone; install it"
        assert error["code"] == "engine_given_up"


def test_a_stream_that_breaks_off_ends_with_an_error_event(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        engine = model.engines[0]
        model.attempt.may_start.clear()
        stream = Stream(url, {"do": "die", "pause": 0.2})
        assert stream.line() == 'data: {"token": "a"}'
        engine.dead = EngineCrashed("stub: llama.cpp was ended by SIGKILL; start it again")
        (error,) = events(stream.rest())  # and no half of an event before it
        stream.leave()
        assert error["error"]["message"] == "stub: llama.cpp was ended by SIGKILL; it is being started again"
        assert error["error"]["code"] == "engine_starting"


@pytest.mark.parametrize("body", [{"do": "silence", "stream": True}, {"do": "silence"}])
def test_an_engine_that_is_silent_for_too_long_is_ended_though_its_health_is_fine(
    stub: StubEngine, body: dict[str, Any]
) -> None:
    with served(stub, patience=Patience(0.2, 0.2, 0.2)) as model, gateway(model.lane) as url:
        answer = post(url, body)
        assert "silent for too long" in answer.text
        assert "it is being started again" in answer.text
        until(lambda: len(model.engines) == 2 and model.lane.supervised.state == "ready")
        until(lambda: post(url, {"model": "stub"}).status_code == 200)


def test_an_engine_that_falls_silent_within_a_stream_is_ended(stub: StubEngine) -> None:
    with served(stub, patience=Patience(None, 0.2, None)) as model, gateway(model.lane) as url:
        token, error = events(post(url, {"do": "stream", "stream": True, "pause": 30.0}).text)
        assert token == {"token": "a"}
        assert error["error"]["code"] == "engine_starting"
        until(lambda: len(model.engines) == 2)


def test_a_call_of_a_tool_may_come_in_one_piece(stub: StubEngine) -> None:
    with served(stub, patience=Patience(0.05, 0.05, None)) as model, gateway(model.lane) as url:
        body = {"do": "stream", "stream": True, "pause": 0.3, "tools": [{"type": "function"}]}
        assert events(post(url, body).text)[-1] == "[DONE]"
        assert len(model.engines) == 1


def test_an_engine_that_lives_and_hangs_up_is_told_apart(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        (token, error) = events(post(url, {"do": "die", "stream": True}).text)
        assert token == {"token": "a"}
        assert error["error"]["code"] == "engine_broke_off"
        assert post(url, {"model": "stub"}).status_code == 200


def test_an_address_where_nothing_listens_is_an_error_not_silence(stub: StubEngine) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        model.engines[0].endpoint = Endpoint("http://127.0.0.1:1", "", "stub")
        assert post(url, {"model": "stub"}).status_code == 502


def test_the_end_of_the_program_is_told_to_those_who_wait(stub: StubEngine) -> None:
    with served(stub) as model:
        with gateway(model.lane) as url:
            first = Stream(url, {"do": "stream", "tokens": ["a"] * 1000, "pause": 0.05})
            second = Stream(url, {"do": "stream"})
            first.line()
        for stream in (first, second):
            assert events(stream.rest())[-1]["error"]["code"] == "ending"
            stream.leave()


@pytest.mark.parametrize(
    "header", ["Host: evil.example", "Host: 127.0.0.1.evil.example", "Origin: http://evil.example", "Origin: null"]
)
def test_requests_of_foreign_pages_are_refused(stub: StubEngine, header: str) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        host = "" if header.startswith("Host") else "Host: localhost:1\r\n"
        for path in ("/v1/models", "/health", "/nothing"):
            answer = raw_request(url, f"GET {path} HTTP/1.1\r\n{host}{header}\r\nConnection: close\r\n\r\n".encode())
            assert b" 403 " in answer.split(b"\r\n")[0]


def test_no_content_is_logged(stub: StubEngine, capfd: pytest.CaptureFixture[str]) -> None:
    with served(stub) as model, gateway(model.lane) as url:
        post(url, {"model": "stub", "text": "the secret of the lighthouse"})
        post(url, b"{the secret of the lighthouse")
        post(url, {"do": "die", "stream": True, "text": "the secret of the lighthouse"})
    shown = capfd.readouterr()
    assert "lighthouse" not in shown.out + shown.err
