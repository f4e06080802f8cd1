"""The loopback address that is served, from the moment it is taken until the program ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from quietmind.base.errors import AddressInUse, EngineMissing, UsageError
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import is_loopback

if TYPE_CHECKING:
    import uvicorn

HOST = "127.0.0.1"
PORT = 4874  # "hush" on the keys of a telephone

# What an answer in progress gets once the end has been announced to it.
_GRACE_SECONDS = 2
_LOOK_EVERY = 0.1


def require_loopback(host: str) -> None:
    """Raise UsageError for an address that others can reach, or that is none."""
    if not is_loopback(host):
        raise UsageError(f"{host}: only a loopback address can be served, such as {HOST}; nothing is to leave here")


def bind(host: str = HOST, port: int = PORT) -> socket.socket:
    """Take the address and return its socket, which does not listen yet. ``port`` 0 is any free one.

    Raises UsageError for an address that is not this machine's loopback, AddressInUse.
    """
    require_loopback(host)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections of a run that has just ended linger, and must not keep the next one from the address.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        if port and _answers(host, port):
            raise OSError(errno.EADDRINUSE, "in use")
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise taken(host, port) from error
        raise UsageError(f"{host}:{port}: cannot be listened on ({error.strerror}); choose another --port") from error
    return listener


def taken(host: str, port: int) -> AddressInUse:
    """Return the error for an address that some other program listens on, named where the system tells."""
    who = _listening(port) or "another program"
    return AddressInUse(f"{host}:{port}: {who} listens there; choose another with --port, or 0 for any")


def _listening(port: int) -> str | None:
    """Return who listens on ``port``; None where that is another user's program, or the system does not tell."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                ours = "quietmind" in " ".join(process.cmdline())
                return f"{'another quietmind' if ours else process.name()} (process {connection.pid})"
    return None


def url_of(listener: socket.socket) -> str:
    """Return the address of ``listener`` as clients write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(gateway: Gateway, listener: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; then every request in progress is told, and this returns within seconds.

    The signal is raised again at the end, for whoever handled it before. ``ready`` is called once the address answers.
    Raises EngineMissing where the package for serving is not installed, AddressInUse.
    """
    server = _server(gateway)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every client that goes away in a burst of tokens
    try:
        listener.listen(128)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise taken(host, port) from error
    asyncio.run(_serve(server, gateway, listener, ready))


def _server(gateway: Gateway) -> uvicorn.Server:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise EngineMissing(f"serving takes one more package ({error}): pip install 'quietmind[serve]'") from error
    return uvicorn.Server(
        uvicorn.Config(
            gateway,
            http="h11",
            ws="none",
            lifespan="on",
            interface="asgi3",
            access_log=False,  # what is asked is nobody's business
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


async def _serve(server: uvicorn.Server, gateway: Gateway, listener: socket.socket, ready: Callable[[], None]) -> None:
    await gateway.warm()
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    announced = False
    while not serving.done() and not server.should_exit:
        if server.started and not announced:
            announced = True
            ready()
        await asyncio.wait({serving}, timeout=_LOOK_EVERY)
    gateway.close()
    try:
        await serving
    finally:
        await gateway.aclose()


def _answers(host: str, port: int) -> bool:
    """Say whether something answers there: macOS lets an address be taken beside a wildcard that has the same port."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
