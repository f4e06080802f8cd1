"""Where is listened, and who is let in: the address that others can reach, with its key and its certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from quietmind.base.errors import UsageError
from quietmind.serve import listen
from quietmind.serve.entrance import KEY, Entrance
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import APPS, Guard
from quietmind.serve.listen import Address, taken_address


def test_the_loopback_demands_no_key_and_warns_of_nothing(tmp_path: Path) -> None:
    settled = Entrance().settled(tmp_path)
    assert not settled.shared
    assert settled.key_file is None
    assert settled.warning is None


@pytest.mark.parametrize(
    "entrance",
    [Entrance("192.168.1.5"), Entrance("0.0.0.0"), Entrance("::"), Entrance("nas.lan"), Entrance(hosts=("a.example",))],
)
def test_what_others_can_reach_demands_a_key(tmp_path: Path, entrance: Entrance) -> None:
    settled = entrance.settled(tmp_path)
    assert settled.shared
    assert settled.key_file == tmp_path / KEY
    assert entrance.__class__(entrance.host, key_file=Path("mine")).settled(tmp_path).key_file == Path("mine")


def test_without_tls_it_is_said_that_others_can_read_along() -> None:
    warning = Entrance("192.168.1.5").warning
    assert warning is not None
    assert "without TLS everybody on the network" in warning
    assert "\n" not in warning
    assert Entrance("192.168.1.5", certificate=Path("c.pem")).warning is None
    assert Entrance(hosts=("a.example",)).warning is None  # a tunnel brings its own


@pytest.mark.parametrize(
    ("entrance", "words"),
    [
        (Entrance(""), "no host name"),
        (Entrance("http://x"), "no host name"),
        (Entrance(hosts=("a b",)), "no host name"),
        (Entrance(origins=("a.example",)), "no origin"),
        (Entrance("10.0.0.1", certificate_key=Path("k")), "--tls-cert"),
        (Entrance(certificate=Path("c")), "TLS is for an address that others can reach"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, entrance: Entrance, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        entrance.settled(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_guard_knows_the_names_that_were_given(tmp_path: Path) -> None:
    given = Entrance("192.168.1.5", hosts=("Notes.example.net",), origins=("https://chat.example.net/",))
    guard = given.settled(tmp_path).guard("k")
    assert guard == Guard(
        "k",
        hosts=frozenset({"192.168.1.5", "notes.example.net"}),
        origins=APPS | {"https://chat.example.net"},
    )
    assert Entrance("0.0.0.0").settled(tmp_path).guard("k").any_address


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.2, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.2", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run(made, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl, which makes the certificate, is not here")
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def serving(address: Address, guard: Guard) -> Iterator[None]:
    gateway = Gateway([], guard)
    server = listen._server(gateway, address)
    address.listener.listen(16)

    async def run() -> None:
        await server.serve(sockets=[address.listener])
        await gateway.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        while not server.started or (address.outside is not None and len(server.servers) < 2):
            assert thread.is_alive()
            time.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        thread.join()


# 127.0.0.2 stands in for the address of another network card: to the program it is one more address of this machine.
@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.2", 0))
        except OSError:
            pytest.skip("this system has one loopback address alone")
    for module in ("entrance", "listen", "guard"):
        monkeypatch.setattr(f"quietmind.serve.{module}.is_loopback", lambda host: host in ("127.0.0.1", "localhost"))
    return "127.0.0.2"


def test_programs_of_this_machine_ask_without_tls_and_others_with_it(
    elsewhere: str, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    entrance = Entrance(elsewhere, 0, certificate=certificate[0], certificate_key=certificate[1]).settled(tmp_path)
    trusted = ssl.create_default_context(cafile=str(certificate[0]))
    with taken_address(entrance) as address, serving(address, entrance.guard("k" * 40)):
        assert address.url.startswith("http://127.0.0.1:")
        assert address.outside_url is not None
        assert address.outside_url == f"https://127.0.0.2:{address.url.rpartition(':')[2]}"
        assert httpx2.get(f"{address.url}/health", trust_env=False).status_code == 200
        assert httpx2.get(f"{address.outside_url}/health", verify=trusted, trust_env=False).status_code == 200
        assert httpx2.get(f"{address.outside_url}/v1/models", verify=trusted, trust_env=False).status_code == 401
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(address.outside_url.replace("https", "http") + "/health", trust_env=False)


def test_without_a_certificate_others_ask_as_this_machine_does(elsewhere: str, tmp_path: Path) -> None:
    entrance = Entrance(elsewhere, 0).settled(tmp_path)
    with taken_address(entrance) as address, serving(address, entrance.guard("k" * 40)):
        for url in (address.url, address.outside_url):
            assert url is not None
            assert httpx2.get(f"{url}/health", trust_env=False).status_code == 200
            assert httpx2.get(f"{url}/v1/models", trust_env=False).status_code == 401


def test_every_address_at_once_is_one_listener_that_this_machine_asks_by_its_loopback(tmp_path: Path) -> None:
    entrance = Entrance("0.0.0.0", 0).settled(tmp_path)
    with taken_address(entrance) as address:
        assert address.outside is None
        assert address.url.startswith("http://127.0.0.1:")


def test_a_certificate_that_is_none_is_one_line(elsewhere: str, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    for file in (tmp_path / "cert.pem", tmp_path / "none.pem"):
        found = taken_address(Entrance(elsewhere, 0, certificate=file))
        with pytest.raises(UsageError, match=r"no certificate and key for TLS.*--tls-cert") as caught, found:
            pass
        assert "\n" not in str(caught.value)
