"""A process of ours that serves a model: started with a secret, watched while it starts, and never left behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

# What a child gets to leave by itself once its lifeline is closed. On Linux the kernel ends it at once.
GRACE_SECONDS = 2.0

_LOG_TAIL_BYTES = 64 << 10
# llama.cpp marks errors with a lone E after the time stamp; aborts and C++ exceptions come without a stamp.
_TROUBLE = re.compile(r"^[\d.]+ E (?:(?:\S+ +)?\S+: )?(?P<logged>.+)$|^.*(?:GGML_ASSERT|what\(\):|terminate called).*$")


class Child:
    """A running child process.

    Three pipes and files join it to us: its standard input, which carries one line and is then its *lifeline* (the
    child ends when our end of it closes, in whatever way we end); a pipe of its own for one line of report; and its
    log, which takes everything it prints.
    """

    def __init__(self, process: subprocess.Popen[bytes], report: int, log: IO[bytes]) -> None:
        self._process = process
        self._report = report
        self._log = log
        self._mark = 0
        # Runs once: from end(), when the last reference goes, or when the interpreter exits.
        self._finalizer = weakref.finalize(self, _put_down, process, report, log)

    @classmethod
    def spawn(cls, module: str, first_line: Mapping[str, Any], log_path: Path | None) -> Self:
        """Start ``python -m module FD`` and hand it ``first_line`` as JSON.

        ``log_path`` None means a file without a name that goes with the child; a log from the run before is kept
        beside it as ``.1``. Raises OSError.
        """
        log = _open_log(log_path)
        report, report_of_child = os.pipe()
        try:
            process = subprocess.Popen(
                # -P: without it, a json.py in the folder that the person happens to be in would be run.
                [sys.executable, "-P", "-m", module, str(report_of_child)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                pass_fds=(report_of_child,),
                start_new_session=True,  # Ctrl-C on the terminal is ours to act on
                env=_environment(),
            )
        except BaseException:
            os.close(report)
            log.close()
            raise
        finally:
            os.close(report_of_child)
        child = cls(process, report, log)
        with suppress(BrokenPipeError):  # it has ended already, which the report will show
            _lifeline(process).write(json.dumps(first_line).encode() + b"\n")
        return child

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def report(self, timeout: float) -> dict[str, Any] | None:
        """Return the child's one line of report, or None when it ended without any.

        Raises TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        readable = select.poll()
        readable.register(self._report, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            if not readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            piece = os.read(self._report, 4096)
            if not piece:
                return None
            line += piece
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else None

    def ending(self, patience: float = 0.0) -> str | None:
        """Say how the child ended (``by SIGKILL``, ``with exit status 1``), or None if it still lives.

        Waits up to ``patience`` seconds for it: a socket closes a moment before its process is gone.
        """
        try:
            status = self._process.wait(patience) if patience else self._process.poll()
        except subprocess.TimeoutExpired:
            return None
        if status is None:
            return None
        if status >= 0:
            return f"with exit status {status}"
        named = {each.value: each.name for each in signal.Signals}
        return f"by {named.get(-status, f'signal {-status}')}"

    def mark_log(self) -> None:
        """Have :meth:`trouble` look only at what is logged from now on."""
        with suppress(ValueError):  # closed
            self._mark = os.fstat(self._log.fileno()).st_size

    def trouble(self) -> str:
        """Return the first error in the log since the mark, where the cause stands; empty when there is none.

        llama.cpp reports a failure from the inside out: the later lines only say that loading failed.
        """
        try:
            size = os.fstat(self._log.fileno()).st_size
            start = max(self._mark, size - _LOG_TAIL_BYTES)
            text = os.pread(self._log.fileno(), _LOG_TAIL_BYTES, start).decode("utf-8", "replace")
        except (OSError, ValueError):  # ended already: the log is closed
            return ""
        found = next(filter(None, map(_TROUBLE.match, text.splitlines())), None)
        return (found["logged"] or found[0]).strip() if found else ""

    def end(self) -> None:
        """End the child and wait until it is gone. Calling it again does nothing."""
        self._finalizer()


def _environment() -> dict[str, str]:
    """Return the environment of a child.

    Threads of llama.cpp that wait for each other spin for as long as libgomp lets them. Bounded, they cost nothing on
    an idle machine, and beside other busy programs the model is some 20 times faster (benchmarks/busy_cores.py).
    """
    return {"GOMP_SPINCOUNT": "1000"} | os.environ | {"GGML_NO_BACKTRACE": "1"}  # a crash must not wait for a debugger


def _put_down(process: subprocess.Popen[bytes], report: int, log: IO[bytes]) -> None:
    # In a fork that inherited this object nothing happens to the child: its lifeline is still open in the parent, and
    # a process that is not one's own child counts as waited for.
    with suppress(OSError):
        _lifeline(process).close()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        os.close(report)
        log.close()


def _lifeline(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None  # Popen was given a pipe
    return process.stdin


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile()
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + ".1"))
    return path.open("w+b", buffering=0)
