"""What one client may take of the address: sizes, times, connections. Real sockets, with limits of a test's own."""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psutil
import pytest

from quietmind.serve.exchange import Receive, Scope, Send
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.limits import Limits

pytest.importorskip("uvicorn", reason="serving takes uvicorn: pip install 'quietmind[serve]'")

Address = Callable[[Gateway], Any]
MIB = 1 << 20
HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


class Inside:
    """An application that reads the whole body, and answers with its size; or takes its time, as the path says."""

    def __init__(self) -> None:
        self.cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if scope["path"] == "/slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if scope["path"] in ("/fail", "/late"):
            raise (ValueError if scope["path"] == "/fail" else TimeoutError)("the note says that it is 40 degrees")
        stream = scope["path"] in ("/stream", "/much")
        kind = b"text/event-stream" if stream else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b'data: {"a', "more_body": True})
            await asyncio.sleep(30)
        for _ in range(64 if scope["path"] == "/much" else 0):
            await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True})
        await send({"type": "http.response.body", "body": json.dumps({"size": size}).encode()})


@contextmanager
def limited(address: Address, inside: Inside | None = None, guard: Guard | None = None, **limits: Any) -> Iterator[int]:
    """Serve with limits of a test's own; yields the port."""
    body = limits.pop("body", MIB)
    gateway = Gateway([], guard or Guard(), limits=Limits(**limits), largest_body=body)
    gateway._app = inside or Inside()  # type: ignore[assignment]  # what answers is of no matter here
    with address(gateway) as url:
        yield int(url.rpartition(":")[2])


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the connection is closed."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def asked(port: int, request: bytes) -> bytes:
    with closing(connected(port)) as connection:
        connection.sendall(request)
        return everything(connection)


def one_answer(connection: socket.socket) -> bytes:
    """Return an answer with a stated length, of a connection that stays."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer[9:12])


def code(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


def post(path: bytes, headers: bytes, body: bytes = b"") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


@pytest.mark.parametrize("framing", ["stated", "chunked"])
def test_a_gigabyte_is_refused_after_the_limit_and_never_held(address: Address, framing: str) -> None:
    said = b"Content-Length: 1073741824\r\n" if framing == "stated" else b"Transfer-Encoding: chunked\r\n"
    piece = b"x" * MIB if framing == "stated" else b"100000\r\n" + b"x" * MIB + b"\r\n"
    before = psutil.Process().memory_info().rss
    with limited(address) as port, closing(connected(port)) as connection:
        connection.sendall(post(b"/v1/chat/completions", said))
        sent, largest, answer = 0, 0, b""
        connection.setblocking(False)
        deadline = time.monotonic() + 30
        left = memoryview(piece)
        while sent < 1 << 30 and not answer and time.monotonic() < deadline:
            with suppress(BlockingIOError):
                answer = connection.recv(65536)
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                went = connection.send(left)
                sent += went
                left = left[went:] or memoryview(piece)
            largest = max(largest, psutil.Process().memory_info().rss - before)
        connection.setblocking(True)
        connection.settimeout(10)
        answer += everything(connection)
    assert status(answer) == 413
    assert code(answer) == "too_large"
    assert sent < 32 * MIB  # what lies in the buffers of both sides, and the limit
    assert largest < 64 * MIB


def test_all_bodies_together_have_a_limit(address: Address) -> None:
    with limited(address, bodies=2 * MIB, body=MIB) as port:
        waiting = [connected(port) for _ in range(4)]
        for connection in waiting[:3]:  # each holds most of a body there
            connection.sendall(post(b"/", b"Content-Length: 900000\r\n", b"x" * 800_000))
        refused = [connection for connection in waiting[:3] if _answers_soon(connection)]
        assert len(refused) == 1
        answer = everything(refused[0])
        assert (status(answer), code(answer)) == (503, "busy")
        for connection in waiting[:3]:
            connection.close()
        body = b"x" * MIB
        _until(
            lambda: status(asked(port, post(b"/", b"Connection: close\r\nContent-Length: 1048576\r\n", body))) == 200
        )
        waiting[3].close()


def _answers_soon(connection: socket.socket) -> bool:
    connection.settimeout(0.5)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        connection.settimeout(10)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: a\r\n" % n for n in range(200)),
        b"X-Long: " + b"a" * 40_000 + b"\r\n",
        b"X-Long: " + b"a" * 200_000 + b"\r\n",
    ],
    ids=["many", "long", "longer than is read at once"],
)
def test_too_many_or_too_large_headers_are_refused(address: Address, headers: bytes) -> None:
    with limited(address) as port:
        answer = asked(port, b"GET /x HTTP/1.1\r\n" + HOST + headers + b"Connection: close\r\n\r\n")
        assert status(answer) == 431
        assert status(asked(port, b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")) == 200


def test_what_is_no_http_is_refused_and_closed(address: Address) -> None:
    with limited(address) as port:
        for said in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
            answer = asked(port, said)
            assert (status(answer), code(answer)) == (400, "http")


def test_a_head_that_comes_a_byte_at_a_time_is_ended_and_others_are_answered_meanwhile(address: Address) -> None:
    with limited(address, head_seconds=0.6, connections=20) as port:
        slow = [connected(port) for _ in range(20)]
        for connection in slow:
            connection.sendall(b"GET /x HTTP/1.1\r\nX: ")
        for _ in range(3):  # more than may be connected at once: the quietest gives way to who asks
            assert status(asked(port, b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")) == 200
        assert any(_is_ended(connection) for connection in slow), "those that were left were told"
        for connection in slow:
            connection.close()


def _is_ended(connection: socket.socket) -> bool:
    """Go on sending a byte at a time until that is refused; False where the connection had to give way before."""
    with suppress(OSError):
        for _ in range(100):
            connection.sendall(b"a")
            if _answers_now(connection):
                return True
    return False


def _answers_now(connection: socket.socket) -> bool:
    connection.settimeout(0.02)
    try:
        answer = connection.recv(65536)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(10)
    assert not answer or (status(answer), code(answer)) == (408, "too_slow")
    return True


def test_a_connection_that_says_nothing_is_closed(address: Address) -> None:
    with limited(address, head_seconds=0.3) as port, closing(connected(port)) as connection:
        assert everything(connection) == b""


def test_a_connection_that_was_answered_is_closed_when_it_says_nothing_more(address: Address) -> None:
    with limited(address, idle=1) as port, closing(connected(port)) as connection:
        for _ in range(2):
            connection.sendall(b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n")
            assert status(one_answer_chunked(connection)) == 200
        assert everything(connection) == b""


def one_answer_chunked(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        answer += connection.recv(65536)
    return answer


def test_a_body_that_comes_too_slowly_is_ended_and_one_that_only_takes_long_is_not(address: Address) -> None:
    with limited(address, body_grace=0.5, body_rate=1000) as port:
        with closing(connected(port)) as connection:
            connection.sendall(post(b"/", b"Content-Length: 100000\r\n"))
            with suppress(OSError):
                for _ in range(200):
                    connection.sendall(b"a")
                    if _answers_now(connection):
                        break
                else:
                    pytest.fail("it went on for longer than it may")
        with closing(connected(port)) as connection:
            connection.sendall(post(b"/", b"Connection: close\r\nContent-Length: 10000\r\n"))
            for _ in range(10):
                connection.sendall(b"a" * 1000)
                time.sleep(0.1)  # a second in all, of which half is grace
            assert status(everything(connection)) == 200


def test_an_answer_that_nobody_reads_is_broken_off(address: Address) -> None:
    with limited(address, unread=0.3) as port, closing(connected(port)) as connection:
        connection.sendall(b"GET /much HTTP/1.1\r\n" + HOST + b"\r\n")
        time.sleep(1.0)
        received = everything(connection)
        assert status(received) == 200
        assert not received.endswith(b"0\r\n\r\n")


def test_an_answer_that_takes_too_long_is_ended_with_an_error(address: Address) -> None:
    inside = Inside()
    with limited(address, inside, answer=0.2) as port:
        answer = asked(port, b"GET /slow HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        assert (status(answer), code(answer)) == (504, "time_limit")
        assert inside.cancelled
        broken = asked(port, b"GET /stream HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        assert status(broken) == 200
        assert b'data: {"a\r\n' in broken
        assert b'\ndata: {"error": {"message": "the answer took longer than 0.2 s' in broken


@pytest.mark.parametrize("path", [b"/fail", b"/late"])
def test_what_fails_inside_is_an_error_that_quotes_nothing(
    address: Address, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    with limited(address) as port:
        answer = asked(port, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert (status(answer), code(answer)) == (500, "internal")
    assert b"degrees" not in answer
    assert "a request failed inside" in caplog.text


def test_a_websocket_is_refused_and_other_upgrades_are_passed_over(address: Address) -> None:
    with limited(address) as port:
        upgrade = b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: upgrade, close\r\nUpgrade: %s\r\n\r\n"
        answer = asked(port, upgrade % b"websocket")
        assert (status(answer), code(answer)) == (400, "websocket")
        assert status(asked(port, upgrade % b"h2c")) == 200


def test_fewer_connections_are_held_where_few_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((256, 128), (1024, 400), (1 << 20, 400), (resource.RLIM_INFINITY, 400)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert Limits().connections == most


def test_one_after_the_other_may_ask_on_one_connection(address: Address) -> None:
    with limited(address) as port, closing(connected(port)) as connection:
        request = post(b"/x", b"Content-Length: 3\r\n", b"abc")
        connection.sendall(request * 3)  # at once: they are answered in order
        answers = b""
        while answers.count(b'{"size": 3}') < 3:
            answers += connection.recv(65536)


@pytest.mark.parametrize("keeping", ["keep-alive", "close"])
def test_who_sends_all_of_a_body_that_is_refused_reads_why(address: Address, keeping: str) -> None:
    with limited(address) as port:
        for _ in range(5):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with closing(connection):
                connection.request("POST", "/", b"x" * (16 * MIB), {"Connection": keeping})
                assert connection.getresponse().status == 413


async def _unread(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


def test_a_connection_whose_small_body_came_after_its_answer_is_used_again(address: Address) -> None:
    with limited(address, _unread) as port, closing(connected(port)) as connection:  # type: ignore[arg-type]
        for _ in range(3):
            connection.sendall(post(b"/", b"Content-Length: 4\r\n"))
            assert status(one_answer(connection)) == 404
            connection.sendall(b"late")


def test_who_was_answered_and_never_ends_its_body_is_closed_without_a_second_answer(address: Address) -> None:
    with limited(address, _unread, body_grace=0.3, head_seconds=0.3) as port:  # type: ignore[arg-type]
        with closing(connected(port)) as connection:
            connection.sendall(post(b"/", b"Content-Length: 4\r\n") + b"l")
            said = b""
            with suppress(ConnectionResetError):
                said = everything(connection)
        assert said.count(b"HTTP/1.1") <= 1
        assert b"408" not in said
