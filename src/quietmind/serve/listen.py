"""The address that is served, from the moment it is taken until the program ends."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quietmind.base.errors import AddressInUse, EngineMissing, UsageError
from quietmind.base.paths import shown_path
from quietmind.serve.discreet import discretion
from quietmind.serve.entrance import HOST, PORT, Entrance, is_unspecified
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import is_loopback
from quietmind.serve.notify import READY, STOPPING, notify

if TYPE_CHECKING:
    import uvicorn

# What an answer in progress gets once the end has been announced to it.
_GRACE_SECONDS = 2
_LOOK_EVERY = 0.1
_BACKLOG = 128


@dataclass(frozen=True)
class Address:
    """An address that is taken: ``listener`` is where programs of this machine ask, and ``outside`` others, by ``tls``.

    Others ask at ``listener`` too where there is no ``outside``.
    """

    listener: socket.socket
    outside: socket.socket | None = None
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Where programs of this machine ask."""
        return url_of(self.listener)

    @property
    def outside_url(self) -> str | None:
        """Where others ask, if that is elsewhere."""
        return None if self.outside is None else url_of(self.outside, "http" if self.tls is None else "https")


@contextmanager
def taken_address(entrance: Entrance) -> Iterator[Address]:
    """Yield the address of ``entrance``, of which nothing listens yet.

    What is for others has an own listener, so that programs of this machine need neither certificate nor detour.
    Raises UsageError for an address that is none, and for a certificate that cannot be used, AddressInUse.
    """
    port = PORT if entrance.port is None else entrance.port
    tls = None if entrance.certificate is None else _tls(entrance.certificate, entrance.certificate_key)
    with ExitStack() as sockets:
        first = sockets.enter_context(bind(entrance.host, port))
        if is_loopback(entrance.host) and not is_loopback(first.getsockname()[0]):
            raise UsageError(f"{entrance.host} leads out of this machine here; write --host {HOST}")
        if is_loopback(entrance.host) or (entrance.everywhere and tls is None):
            yield Address(first)
        else:
            inside = HOST if first.family == socket.AF_INET else "::1"
            same = 0 if entrance.everywhere else first.getsockname()[1]
            yield Address(sockets.enter_context(bind(inside, same)), first, tls)


def bind(host: str = HOST, port: int = PORT) -> socket.socket:
    """Take an address and return its socket, which does not listen yet. ``port`` 0 is any free one.

    Raises UsageError for an address that is not this machine's, AddressInUse.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address of this machine; name one with --host, such as {HOST}") from error
    # The protocol is named, as asyncio wants it before it turns Nagle's delay off: 40 ms for every small piece else.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Connections of a run that has just ended linger, and must not keep the next one from the address.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        if port and _answers(host, port):
            raise OSError(errno.EADDRINUSE, "in use")
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise taken(host, port) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"{host}: is no address of this machine; name one with --host, such as {HOST}") from error
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


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return the address of ``listener`` as clients of this machine write it."""
    host, port = listener.getsockname()[:2]
    if is_unspecified(host):
        host = "::1" if ":" in host else HOST
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def serve(gateway: Gateway, where: socket.socket | Address, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; then every request in progress is told, and this returns within seconds.

    The signal is raised again at the end, for whoever handled it before. ``ready`` is called once the address answers.
    Raises EngineMissing where the package for serving is not installed, AddressInUse.
    """
    address = where if isinstance(where, Address) else Address(where)
    server = _server(gateway, address)
    for listener in filter(None, (address.listener, address.outside)):
        try:
            listener.listen(_BACKLOG)
        except OSError as error:
            host, port = listener.getsockname()[:2]
            raise taken(host, port) from error
    with discretion():
        asyncio.run(_serve(server, gateway, address.listener, ready))


def _server(gateway: Gateway, address: Address | None = None) -> uvicorn.Server:
    try:
        import uvicorn

        from quietmind.serve.protocol import Server, connections
    except ModuleNotFoundError as error:
        raise EngineMissing(f"serving takes one more package ({error}): pip install 'quietmind[serve]'") from error
    config = uvicorn.Config(
        gateway,
        http=connections(gateway.limits),
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,  # what is asked is nobody's business
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=gateway.limits.head,
        timeout_keep_alive=gateway.limits.idle,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return Server(config, *((address.outside, address.tls) if address is not None else (None, None)))


async def _serve(server: uvicorn.Server, gateway: Gateway, listener: socket.socket, ready: Callable[[], None]) -> None:
    await gateway.warm()
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    announced = False
    while not serving.done() and not server.should_exit:
        if server.started and not announced:
            announced = True
            notify(READY)
            ready()
        await asyncio.wait({serving}, timeout=_LOOK_EVERY)
    notify(STOPPING)
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


def _tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # rather than ask for it on the terminal
    except (OSError, ValueError) as error:
        files = " and ".join(shown_path(file) for file in (certificate, key) if file is not None)
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(
            f"{files}: no certificate and key for TLS can be read there ({said}); give --tls-cert and --tls-key as PEM"
        ) from error
    return context
