"""A generation that nobody wants any more ends at once, whatever the server does, and nothing is held against it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import Cancelled, EngineCrashed
from quietmind.engine.cancel import Cancel
from quietmind.engine.fake import FakeEngine, Slow
from quietmind.engine.llama_http import LlamaHttp
from quietmind.engine.openai_http import OpenAIHttp
from quietmind.engine.port import Delta, Endpoint, Engine, Request
from quietmind.engine.shared import Shared

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
Stream = Callable[[Cancel], Iterator[dict[str, Any]]]


class Silent:
    """A server that says ``says`` to the first request, and then nothing until its client leaves."""

    def __init__(self, says: bytes, at: Path | None = None) -> None:
        self.says = says
        self.reached, self.left = threading.Event(), threading.Event()
        self.listener = socket.socket(socket.AF_INET if at is None else socket.AF_UNIX)
        self.listener.bind(("127.0.0.1", 0) if at is None else str(at))
        self.listener.listen(4)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}" if at is None else "http://localhost"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while not self.reached.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed: nobody came
                return
            with connection:
                if not (head := connection.recv(65536)):
                    continue  # somebody has only looked whether anybody listens
                if b"\r\n\r\n{" not in head:
                    connection.recv(65536)
                connection.sendall(self.says)
                self.reached.set()
                while connection.recv(65536):
                    pass
                self.left.set()


@pytest.fixture(params=["nothing", "an event"])
def silent(request: pytest.FixtureRequest) -> Iterator[Silent]:
    server = Silent(b"" if request.param == "nothing" else EVENTS + b'data: {"content": "a", "choices": []}\n\n')
    with closing(server.listener):
        yield server
        server.listener.shutdown(socket.SHUT_RDWR)  # wakes who waits there


def never(error: Exception) -> Any:
    raise AssertionError(f"taken for a failure of the server: {error!r}")


def llama(server: Silent, at: Path | None = None) -> Stream:
    http = LlamaHttp(server.url, "key", silence=60, broken=never, at=at)
    return lambda cancel: http.stream("/completion", {}, cancel)


def openai(server: Silent) -> Stream:
    http = OpenAIHttp(Endpoint(server.url, "", "m"), "a server", broken=never)
    return lambda cancel: http.stream("/v1/completions", {}, cancel)


def cancelled(server: Silent, stream: Stream) -> BaseException | None:
    """Cancel ``stream`` once the server has said what it says; return what was raised."""
    cancel, raised = Cancel(), []

    def read() -> None:
        try:
            list(stream(cancel))
        except BaseException as error:
            raised.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert server.reached.wait(10)
    cancel.set()
    reader.join(10)
    assert not reader.is_alive(), "the reader was not woken"
    assert server.left.wait(10), "the server does not know"
    return raised[0] if raised else None


@pytest.mark.parametrize("http", [llama, openai])
def test_a_silent_server_is_hung_up_on(silent: Silent, http: Callable[[Silent], Stream]) -> None:
    assert isinstance(cancelled(silent, http(silent)), Cancelled)


def test_a_server_on_a_unix_socket_is_hung_up_on(tmp_path: Path) -> None:
    server = Silent(b"", tmp_path / "s")
    with closing(server.listener):
        assert isinstance(cancelled(server, llama(server, tmp_path / "s")), Cancelled)


def test_what_was_cancelled_before_it_began_is_never_answered() -> None:
    server = Silent(EVENTS)
    cancel = Cancel()
    cancel.set()
    with closing(server.listener), pytest.raises(Cancelled):
        next(llama(server)(cancel))


def test_a_failure_of_the_server_is_still_one_while_the_answer_is_wanted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    http = LlamaHttp(f"http://127.0.0.1:{port}", "key", silence=1, broken=lambda error: EngineCrashed(str(error)))
    with pytest.raises(EngineCrashed):
        next(http.stream("/completion", {}, Cancel()))


def test_each_that_listens_is_told_once_and_no_longer_than_it_listens() -> None:
    cancel, told = Cancel(), []
    with cancel.ending(lambda: told.append("first")):
        pass
    with cancel.ending(lambda: told.append("second")):
        cancel.set()
        cancel.set()
    with cancel.ending(lambda: told.append("late")):
        pass
    assert told == ["second", "late"]


def test_an_error_that_has_nothing_to_do_with_it_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), Cancel().ending(lambda: None):
        raise ValueError("mine")


def test_an_engine_that_is_shared_outlives_its_block_and_ends_its_answer() -> None:
    engine = FakeEngine([Slow("one two three", between=0.01), "again"])
    cancel = Cancel()
    with Shared(engine, cancel) as shared:
        events = shared.generate(Request("count", 8))
        assert next(events) == Delta("one")
        cancel.set()
        with pytest.raises(Cancelled):
            next(events)
    assert engine.healthy()
    assert next(engine.generate(Request("count", 8))) == Delta("again")
    with pytest.raises(Cancelled):
        shared.tokenize("anything")


def test_a_real_engine_that_reads_is_free_at_once(engine: Engine) -> None:
    cancel = Cancel()
    soon = threading.Timer(0.05, cancel.set)
    soon.start()
    with pytest.raises(Cancelled):
        list(engine.generate(Request("a long story " * 30, 64, cancel=cancel)))
    assert engine.healthy()
    assert isinstance(next(engine.generate(Request("A short one", 2))), Delta)
