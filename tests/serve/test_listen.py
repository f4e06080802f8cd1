"""Taking an address."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import cast

import pytest

from quietmind.base.errors import AddressInUse, UsageError
from quietmind.serve import discreet
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.listen import bind, serve, url_of


def test_any_port_is_a_free_one() -> None:
    with bind(port=0) as listener:
        assert url_of(listener).startswith("http://127.0.0.1:")
        assert not url_of(listener).endswith(":0")


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid", "not a name", "[::1]"])
def test_an_address_that_is_not_of_this_machine_is_one_line(host: str) -> None:
    with pytest.raises(UsageError, match="no address of this machine"):
        bind(host)


def test_an_address_in_use_says_by_whom() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(AddressInUse, match=r"--port") as caught:
            bind(port=other.getsockname()[1])
        assert f"(process {os.getpid()})" in str(caught.value)


def test_a_port_that_may_not_be_taken_is_one_line() -> None:
    if os.geteuid() == 0:
        pytest.skip("root may listen on every port")
    with pytest.raises(UsageError, match="choose another --port"):
        bind(port=1)


def test_small_pieces_are_sent_at_once() -> None:
    async def nagle_is_off() -> bool:
        made: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted = transport.get_extra_info("socket")
                made.set_result(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
                cast(asyncio.Transport, transport).close()

        with bind(port=0) as listener:
            server = await asyncio.get_running_loop().create_server(Accepted, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            off = await made
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
        return off

    assert asyncio.run(nagle_is_off())


def test_a_second_signal_ends_it_as_the_first_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn", reason="serving takes uvicorn: pip install 'quietmind[serve]'")
    monkeypatch.setattr(discreet, "_QUIETER", {})  # what uvicorn would say of it is to be heard

    def interrupted_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with bind(port=0) as listener, pytest.raises(KeyboardInterrupt):
        serve(Gateway([], Guard()), listener, interrupted_twice)
    assert capsys.readouterr().err == ""
