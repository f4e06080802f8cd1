"""The body of ``launch.py``: a module like any other here, and, with other settings, the file that a person runs.

It therefore imports nothing of quietmind.
"""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

# --- What is started ---
MODEL = ""
PORT = 0
PROGRAM: list[str] = []
WORDS: list[str] = []
ENVIRONMENT: dict[str, str] = {}
KEY_VARIABLE: str | None = None
KEY_CONFIG = False

# --- How it is started ---
START_SECONDS = 3600.0  # hundreds of gigabytes come from a disk
GRACE_SECONDS = 15.0  # for the engine to leave by itself

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_end_asked: list[int] = []  # the signals that came


def main() -> int:
    """Start the engine, say where it answers, and stay until it or this program is ended. Return the exit code."""
    given = os.environ.get("PORT") or str(PORT)
    if not given.isdecimal() or not 0 < int(given) < 65536:
        return failed(f"PORT={given}: is no port; give a number from 1024 to 65535")
    port = int(given)
    model = os.environ.get("MODEL") or MODEL
    if not Path(model).exists():
        return failed(f"{model}: there is no such model here; set MODEL to its path")
    if not free(port):
        return failed(f"port {port} is in use; end what listens there, or set PORT to another")
    try:
        key_file = kept_key()
    except (OSError, ValueError) as error:
        return failed(str(error))
    key = key_file.read_text(encoding="ascii").strip()
    places = {"model": model, "host": "127.0.0.1", "port": str(port), "key_file": str(key_file), "key_config": ""}
    if KEY_CONFIG:
        places["key_config"] = str(key_file.with_suffix(".yaml"))
        write_private(Path(places["key_config"]), f'api-key: "{key}"\n')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would keep on the disk what the model has read
    environment = dict(os.environ, **ENVIRONMENT)
    if KEY_VARIABLE:
        environment[KEY_VARIABLE] = key
    words = [*PROGRAM, *(word.format(**places) for word in WORDS)]
    for number in _ENDING:
        signal.signal(number, lambda number, _: _end_asked.append(number))  # and no exception anywhere
    try:
        engine = subprocess.Popen(
            words,
            env=environment,
            start_new_session=True,
            preexec_fn=_bound,  # noqa: PLW1509  (there are no threads yet)
        )
    except OSError as error:
        return failed(f"{words[0]}: cannot be started ({error.strerror}); install the engine")
    try:
        return serve(engine, f"http://127.0.0.1:{port}", key_file)
    finally:
        end(engine)


def serve(engine: subprocess.Popen[bytes], address: str, key_file: Path) -> int:
    """Wait until the engine answers, say where, and wait for the end. Return the exit code."""
    deadline = time.monotonic() + START_SECONDS
    while not healthy(address):
        if _end_asked:
            return 0
        if engine.poll() is not None:
            return failed(f"the engine ended with {engine.poll()} before it was ready; its own words stand above")
        if time.monotonic() > deadline:
            return failed(f"the engine was not ready after {START_SECONDS:.0f} s")
        time.sleep(0.1)
    say(f"{address}/v1, key in {key_file}")
    while not _end_asked:
        if engine.poll() is not None:
            return failed(f"the engine ended with {engine.poll()}; its own words stand above")
        time.sleep(0.2)
    return 0


def kept_key() -> Path:
    """Return the file that holds the key, made at the first start. Raises ValueError if others may read it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(state) / "quietmind" / "launch.key"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists() or not file.stat().st_size:
        write_private(file, secrets.token_hex(32))
    if file.stat().st_mode & 0o077:
        raise ValueError(f"{file}: others may read this key; make it yours alone with chmod 600")
    return file


def write_private(file: Path, text: str) -> None:
    """Write ``text`` to ``file``, whole or not at all, for its owner alone."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
        stream.write(text)
    new.replace(file)


def free(port: int) -> bool:
    """Say whether nothing listens on ``port`` of the loopback."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def healthy(address: str) -> bool:
    """Say whether an engine answers there and has loaded its model."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business here
    try:
        with direct.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # it does not listen yet, or is still loading
        return False


def end(engine: subprocess.Popen[bytes]) -> None:
    """End the engine and whatever it has started."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(engine.pid, signal.SIGTERM)
        engine.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(engine.pid, signal.SIGKILL)  # its group outlives it where it has left processes behind
    engine.wait()


def _bound() -> None:
    """Have the kernel end the engine when this program is ended by force. Linux only (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def say(line: str) -> None:
    """Print ``line`` at once, whoever reads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def failed(reason: str) -> int:
    """Print ``reason`` where errors go, and return the exit code for it."""
    sys.stderr.write(f"launch.py: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
