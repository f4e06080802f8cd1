"""Reading hostile files in a process of its own, which may crash, hang or run out of memory in our place.

The process is started by the first such file and kept for the next ones; it ends with ours.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from quietmind.base.errors import NotesError, ReaderAway
from quietmind.base.units import MIB
from quietmind.notes.formats import child, wire
from quietmind.notes.formats.rendered import Rendered

# A processor that others use as well may give a file its share late; past this the process waits for nothing good.
PATIENCE_SECONDS = 20 * child.SECONDS
_LARGEST_ANSWER = 256 * MIB
_LONGEST_REASON = 300  # characters


class Apart:
    """A process that reads files for us."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0
        self._lock = threading.Lock()

    def render(self, data: bytes, ending: str) -> Rendered:
        """Return the document in ``data``. Raises NotesError when there is none, or reading it takes too much, and
        ReaderAway when that may be otherwise another time.
        """
        with self._lock:
            served = self._served
            try:
                return self._ask(data, ending)
            except _Ended as end:
                # What earlier files left behind in that process is not the fault of this one.
                if not served or end.slow:
                    raise end.told() from end
            try:
                return self._ask(data, ending)
            except _Ended as end:
                raise end.told() from end

    def close(self) -> None:
        """End the process; the next file starts another."""
        process, self._process, self._served = self._process, None, 0
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()

    def _ask(self, data: bytes, ending: str) -> Rendered:
        """Return what the process answers. Raises NotesError, and _Ended when it could not answer any more."""
        process = self._running()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._patience, end)
        timer.start()
        try:
            word, answer = _exchange(process, data, ending)
            rendered = wire.unpack(answer) if word == "ok" else None
        except (OSError, ValueError, EOFError) as error:
            process.kill()
            raise _Ended(process.wait(), late=late.is_set(), silent=isinstance(error, EOFError)) from error
        finally:
            timer.cancel()
            if process.poll() is not None:
                self.close()
        self._served += 1
        if rendered is None:
            raise NotesError(answer.decode("utf-8", "replace")[:_LONGEST_REASON])
        return rendered

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", child.__name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                raise ReaderAway(f"the process that reads such files does not start ({error.strerror})") from error
        return self._process


class _Ended(Exception):
    """The process ended, with ``status`` as of Popen, before it had answered; ``silent``: without our doing."""

    def __init__(self, status: int, *, late: bool, silent: bool) -> None:
        super().__init__(status)
        self.slow = late or status == -getattr(signal, "SIGXCPU", 0)
        self._killed = silent and status == -getattr(signal, "SIGKILL", 0)

    def told(self) -> NotesError:
        """Return what is said of the file."""
        if self.slow:
            return NotesError(f"takes more than {child.SECONDS} s to read; save it as text")
        if self._killed:  # by a system without memory, or by a person
            return ReaderAway("the process that read it was killed; index again")
        return NotesError("is damaged, or hostile: the parser broke down on it; save it as text")


def _exchange(process: subprocess.Popen[bytes], data: bytes, ending: str) -> tuple[str, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{ending} {len(data)}\n".encode("ascii"))
    process.stdin.write(data)
    process.stdin.flush()
    header = process.stdout.readline(64)
    if not header.endswith(b"\n"):
        raise EOFError
    word, size = header.decode("ascii").split()
    if int(size) > _LARGEST_ANSWER:
        raise ValueError(f"{size} bytes are no document")
    answer = process.stdout.read(int(size))
    if len(answer) != int(size):
        raise EOFError
    return word, answer


_shared: dict[int, Apart] = {}


def render_apart(data: bytes, ending: str) -> Rendered:
    """Return the document in ``data``, read by the process that this one keeps for that. Raises NotesError.

    A copy of this process (fork) starts its own: two cannot share the pipes of one.
    """
    if os.getpid() not in _shared:
        _shared.clear()
        shared = _shared[os.getpid()] = Apart()
        atexit.register(shared.close)
    return _shared[os.getpid()].render(data, ending)
