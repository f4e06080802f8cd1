"""Passing a Unix socket on to a port of the loopback, for programs that cannot listen on a socket themselves."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

_PIECE = 1 << 16
_POLL_SECONDS = 0.05


def forward(path: str, port: int) -> None:
    """Listen at ``path`` once something listens on ``port`` of 127.0.0.1, and join connections to both, for ever.

    Until then there is nothing at ``path``, as it would be with a program that listened there itself. Raises OSError.
    """
    while (probe := _connected(port)) is None:
        time.sleep(_POLL_SECONDS)
    probe.close()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        while True:
            near, _ = listener.accept()
            if (far := _connected(port)) is None:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pour, args=(source, sink), daemon=True).start()


def _connected(port: int) -> socket.socket | None:
    try:
        connection = socket.create_connection(("127.0.0.1", port))
    except OSError:
        return None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """Copy until ``source`` ends. The sockets close by themselves once both directions have let go of them."""
    try:
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # broken on one side: break the other, which is how a server learns that nobody listens any more
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
