"""A sealed program has no way out but the socket that we gave it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.engine import sealed
from quietmind.engine.child import Child
from quietmind.engine.program import Program

REFUSED = sealed.possible()
NEEDS_NAMESPACES = pytest.mark.skipif(REFUSED is not None, reason=f"no network of its own here: {REFUSED}")

# Connects to the address in its arguments and says how that went.
CALLER = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)
    print("connected")
except OSError as error:
    print("refused:", error)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def said_by(program: Program) -> str:
    child = Child.run(program, None)
    assert child.ending(10) is not None
    said = "\n".join(child.log_tail(500))
    child.end()
    return said


def call(host: str, port: int) -> tuple[str, ...]:
    return (sys.executable, "-c", CALLER, host, str(port))


@NEEDS_NAMESPACES
@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "8.8.8.8"])
def test_a_sealed_program_reaches_nobody(listener: socket.socket, host: str) -> None:
    port = listener.getsockname()[1]
    assert said_by(Program(call(host, port))).startswith("refused")


def test_an_unsealed_program_reaches_what_the_sealed_one_did_not(listener: socket.socket) -> None:
    assert said_by(Program(call(*listener.getsockname()), sealed=False)) == "connected"


@NEEDS_NAMESPACES
def test_its_own_loopback_is_up() -> None:
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname()); print('up')"
    )
    assert said_by(Program((sys.executable, "-c", script))) == "up"


@NEEDS_NAMESPACES
def test_it_sees_its_own_processes_alone() -> None:
    script = "import os; print(*sorted(int(n) for n in os.listdir('/proc') if n.isdecimal()), os.getpid())"
    first, *_, last = said_by(Program((sys.executable, "-c", script))).split()
    assert (first, last) == ("1", "2")


@NEEDS_NAMESPACES
def test_it_takes_no_privileges(listener: socket.socket) -> None:
    """A person who is not root is sealed by a user namespace, and stays who he is."""
    unshare = shutil.which("unshare")
    asked = [str(unshare), "--user", "--map-user=1000", "--map-group=1000"]
    if unshare is None or subprocess.run([*asked, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this unshare cannot make somebody else of us")
    script = (
        "import sys; from quietmind.engine.child import Child; from quietmind.engine.program import Program;"
        "child = Child.run(Program(tuple(sys.argv[1:])), None); print(child.sealed, child.ending(5));"
        "print(*child.log_tail(5), sep='\\n')"
    )
    port = listener.getsockname()[1]
    words = ["sh", "-c", 'id -u; exec "$@"', "sh", *call("127.0.0.1", port)]
    ran = subprocess.run([*asked, sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    how, user, outcome = ran.stdout.splitlines()
    assert (how, user) == ("True with exit status 0", "1000")
    assert outcome.startswith("refused")


def test_the_environment_has_every_switch_off_and_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy", "HF_TOKEN", "HF_ENDPOINT", "LLAMA_ARG_CTX_SIZE"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    inside = said_by(Program(("env",)))
    names = dict(line.split("=", 1) for line in inside.splitlines() if "=" in line)
    assert not {name.upper() for name in names} & {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "HF_ENDPOINT"}
    assert "LLAMA_ARG_CTX_SIZE" not in names
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS"):
        assert names[name] == "1"


def test_no_key_or_token_of_the_person_reaches_a_sealed_program(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (
        "QUIETMIND_ENDPOINT_KEY",
        "OPENAI_API_KEY",
        "HUGGING_FACE_HUB_TOKEN",
        "aws_secret_access_key",
        "A_PASSWORD",
    )
    for name in secret:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    inside = said_by(Program(("env",), environment={"VLLM_API_KEY": "its own"}))
    assert "s3cret" not in inside
    assert "TOKENIZERS_PARALLELISM=false" in inside
    assert "VLLM_API_KEY=its own" in inside


def test_what_the_person_has_set_stays_in_a_program_that_is_not_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:3128")
    assert "HTTPS_PROXY=http://192.0.2.1:3128" in said_by(Program(("env",), sealed=False))


def test_asking_whether_it_is_possible_gives_a_reason_or_none() -> None:
    assert REFUSED is None or "\n" not in REFUSED
    assert Path("/proc/self/ns/net").exists() or REFUSED is not None
