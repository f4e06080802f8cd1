"""Which `quietmind up` runs in a workspace: written down where the next one, and `quietmind down`, find it.

``up.lock`` is locked by whoever runs, and the kernel lets go of it in whatever way that process ends: the lock is the
truth. ``up.json`` beside it says what runs there. A file without a lock is what a killed run left, and means nothing.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quietmind.base.errors import WorkspaceError
from quietmind.base.files import write_whole
from quietmind.base.paths import shown_path
from quietmind.plan.ask import Ask

State = Literal["starting", "serving"]

LOCK, RECORD = "up.lock", "up.json"

_LOOPBACK = "127.0.0.1"
_LOOK_EVERY = 0.05
# Whoever only looks at the lock holds it for an instant.
_GLANCE_SECONDS = 0.2
# A lock is held for a moment before its record stands.
_RECORD_SECONDS = 2.0


@dataclass(frozen=True)
class Running:
    """A `quietmind up`. ``began`` tells its process from a later one with the same ``pid``.

    ``asked`` is what each model was asked for, in an order of its own: runs with equal ones are the same. ``url`` is
    empty and ``models`` none until that much is known; it is of this machine, where others ask at ``host``.
    """

    pid: int
    began: str
    url: str
    state: State
    models: tuple[str, ...]
    asked: tuple[Mapping[str, Any], ...]
    key_file: str | None = None
    host: str = _LOOPBACK


class AlreadyRunning(WorkspaceError):
    """Another `quietmind up` runs in this workspace. Carries its record; None where it has not written one yet."""

    def __init__(self, message: str, running: Running | None) -> None:
        super().__init__(message)
        self.running = running


class Registration:
    """The record of the one `quietmind up` of a workspace, for as long as ``hold`` holds its lock."""

    def __init__(self, folder: Path, asked: Sequence[Mapping[str, Any]], key_file: Path | None, host: str) -> None:
        self._record = folder / RECORD
        self._running = Running(
            pid=os.getpid(),
            began=process_began(os.getpid()) or "",
            url="",
            state="starting",
            models=(),
            asked=tuple(asked),
            key_file=None if key_file is None else str(key_file),
            host=host,
        )
        self._write()

    def say(self, state: State, url: str, models: Sequence[str]) -> None:
        """Say what is being started or served, and where. Raises WorkspaceError."""
        self._running = replace(self._running, state=state, url=url, models=tuple(models))
        self._write()

    def _write(self) -> None:
        try:
            write_whole(self._record, json.dumps(asdict(self._running), indent=2).encode())
        except OSError as error:
            raise _unusable(self._record, error) from error


@contextmanager
def hold(
    folder: Path, asked: Sequence[Mapping[str, Any]], key_file: Path | None = None, host: str = _LOOPBACK
) -> Iterator[Registration]:
    """Be the one that runs in ``folder``. Raises AlreadyRunning with what does, WorkspaceError."""
    import fcntl

    lock = folder / LOCK
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the notes' index may come to stand beside us
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(lock, error) from error
    try:
        deadline = time.monotonic() + _GLANCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _already(folder) from None
                time.sleep(_LOOK_EVERY)
            except OSError as error:
                raise _unusable(lock, error) from error
        try:
            yield Registration(folder, asked, key_file, host)
        finally:
            with suppress(OSError):
                (folder / RECORD).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _already(folder: Path) -> AlreadyRunning:
    running = find(folder)
    if running is None:
        return AlreadyRunning(f"{shown_path(folder)}: another `quietmind up` has just ended here; try again", None)
    what = f"runs {', '.join(running.models)} at {running.url}" if running.models else "is being started"
    return AlreadyRunning(
        f"another `quietmind up` {what}, not what is asked for now; end it with `quietmind down` first", running
    )


def find(folder: Path) -> Running | None:
    """Return what runs in ``folder``; None where nothing does. Raises WorkspaceError for a record without sense."""
    deadline = time.monotonic() + _RECORD_SECONDS
    while _held(folder):
        running = _read(folder / RECORD)
        if running is not None and process_began(running.pid) == running.began:
            return running
        if time.monotonic() > deadline:
            raise WorkspaceError(
                f"{shown_path(folder / RECORD)}: does not say who holds {LOCK}; end the `quietmind up` that runs"
            )
        time.sleep(_LOOK_EVERY)
    return None


def serving(folder: Path, weights: Path) -> Running | None:
    """Return what serves the model of this file in ``folder`` now; None where nothing does."""
    running = find(folder)
    if running is None or running.state != "serving":
        return None
    return running if _asked_for(running, weights) is not None else None


def serves(running: Running, weights: Path, ask: Ask) -> bool:
    """Say whether what ``running`` makes of this file is what ``ask`` asks for: a larger context serves as well."""
    asked = _asked_for(running, weights)
    if asked is None or asked.get("kv_type") != ask.kv_type or asked.get("experts_used") != ask.experts_used:
        return False
    enough = ask.context is None or ask.context <= (asked.get("context") or 0)
    return enough and ask.threads in (None, asked.get("threads"))


def _asked_for(running: Running, weights: Path) -> Mapping[str, Any] | None:
    return next((asked for asked in running.asked if asked.get("model") == str(weights.absolute())), None)


def end(folder: Path, running: Running, patience: float = 20.0) -> bool:
    """End ``running`` and wait until nothing of it is left; say whether it went by itself within ``patience`` seconds.

    After that it is killed, and its engines go with it. Raises WorkspaceError for a process of another user.
    """
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, patience)):
        if process_began(running.pid) == running.began:
            try:
                os.kill(running.pid, number)
            except ProcessLookupError:
                pass
            except PermissionError as error:
                raise WorkspaceError(f"process {running.pid} belongs to another user, who has to end it") from error
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not _held(folder):
                return number == signal.SIGTERM
            time.sleep(_LOOK_EVERY)
    raise WorkspaceError(f"process {running.pid} does not end; see what the system says of it")


def process_began(pid: int) -> str | None:
    """Return when a process began, in words that no other process of this computer shares; None if there is none.

    On Linux in ticks since the boot, which stay the same when the clock is set (proc(5), field 22), and the boot.
    """
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None if fields[0] == "Z" else f"{boot} {fields[19]}"
    if Path("/proc/self/stat").exists():
        return None
    import psutil

    with suppress(psutil.Error):
        return f"{psutil.Process(pid).create_time():.2f}"
    return None


def _held(folder: Path) -> bool:
    """Say whether a process holds the lock."""
    import fcntl

    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(folder / LOCK, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(file: Path) -> Running | None:
    try:
        said = json.loads(file.read_bytes())
        return Running(
            pid=int(said["pid"]),
            began=str(said["began"]),
            url=str(said["url"]),
            state="serving" if said["state"] == "serving" else "starting",
            models=tuple(str(name) for name in said["models"]),
            asked=tuple(dict(each) for each in said["asked"]),
            key_file=None if said.get("key_file") is None else str(said["key_file"]),
            host=str(said.get("host", _LOOPBACK)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unusable(file: Path, error: OSError) -> WorkspaceError:
    return WorkspaceError(
        f"{shown_path(file)}: cannot be used ({error.strerror}); choose another folder with --workspace"
    )
