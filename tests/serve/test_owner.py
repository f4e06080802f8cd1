"""Whose the other end of a connection is, and that another user of the machine is not answered without a key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest

from quietmind.serve.owner import is_foreign, owner_of

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose a socket is")
NOBODY = 65534


@LINUX
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_of_this_user_is_known_as_his(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"{host} is not here")
        listener.listen()
        with closing(socket.create_connection(listener.getsockname()[:2])):
            accepted, peer = listener.accept()
            with accepted:
                assert owner_of(peer[:2], accepted.getsockname()[:2]) == os.geteuid()


def test_of_what_is_gone_or_elsewhere_nothing_is_known() -> None:
    assert owner_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert owner_of(("192.0.2.1", 40000), ("192.0.2.2", 80)) is None
    assert owner_of(("not an address", 1), ("127.0.0.1", 2)) is None
    assert owner_of(("127.0.0.1", 1 << 20), ("127.0.0.1", 2)) is None


def test_the_same_user_and_root_are_not_foreign_and_who_is_not_known_is_let_in() -> None:
    assert not is_foreign(os.geteuid())
    assert not is_foreign(0)
    assert not is_foreign(None)
    assert is_foreign(NOBODY if os.geteuid() != NOBODY else 1)


@LINUX
def test_another_user_of_the_machine_gets_nothing_without_a_key(served: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can ask as another user")
    port = served.url.rpartition(":")[2]
    for path, expected in (("/v1/models", "403"), ("/page/status", "403"), ("/health", "200")):
        request = f"GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n"
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; cat <&3"
        for user, status in ((NOBODY, expected), (0, "200")):
            asked = subprocess.run(
                ["bash", "-c", script],
                user=user,
                group=user,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
            assert asked.stdout.split(" ")[1] == status, asked.stdout
            assert status == "200" or '"code": "user"' in asked.stdout
