"""A program that serves a model for us: started, watched, and never left behind."""

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

from quietmind.base.errors import EngineStartFailed
from quietmind.base.paths import shown_path
from quietmind.engine import sealed
from quietmind.engine.program import Program

# What everything gets to be gone once the lifeline is closed. It is ended at once; a large model's memory, on an
# accelerator above all, takes the kernel seconds to take back.
GRACE_SECONDS = 15.0

_KEEPER_SECONDS = 30.0  # a loaded machine; it takes some 50 ms
_LAST_LINES = 60

# What libraries and drivers say when there is no memory: C++, ggml, CUDA in llama.cpp's and PyTorch's words, Vulkan,
# Metal, ROCm, and what vLLM and SGLang make of a KV cache that finds no room.
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|failed to allocate|unable to allocate|cannot allocate memory|cudaMalloc failed|out of memory|"
    r"OutOfMemoryError|ErrorOutOf(?:Device|Host)Memory|CallbackErrorOutOfMemory|hipErrorOutOfMemory|"
    r"No available memory for the cache blocks|Not enough memory|ggml_gallocr_reserve_n\S*: failed",
    re.IGNORECASE,
)

_LOG_TAIL_BYTES = 64 << 10
# llama.cpp marks errors with a lone E after the time stamp; aborts and C++ exceptions come without a stamp.
_TROUBLE = re.compile(r"^[\d.]+ E (?:(?:\S+ +)?\S+: )?(?P<logged>.+)$|^.*(?:GGML_ASSERT|what\(\):|terminate called).*$")


class Child:
    """A running program, with the keeper that runs it (see ``engine.keeper``).

    Three pipes and files join it to us: the keeper's standard input, which carries one line and is then its *lifeline*
    (everything ends when our end of it closes, in whatever way we end); a pipe for its lines of report; and the log,
    which takes everything that is printed.
    """

    def __init__(self, process: subprocess.Popen[bytes], report: int, log: IO[bytes]) -> None:
        self._process = process
        self._report = report
        self._said = b""
        self._log = log
        self._mark = 0
        self._pid = process.pid
        self._rooms: Mapping[str, Any] = {}
        self._ended: Mapping[str, Any] | None = None
        # Runs once: from end(), when the last reference goes, or when the interpreter exits.
        self._finalizer = weakref.finalize(self, _put_down, process, report, log)

    @classmethod
    def run(cls, program: Program, log_path: Path | None) -> Self:
        """Start ``program``; it runs when this returns.

        ``log_path`` None means a file without a name that goes with the child; a log from the run before is kept
        beside it as ``.1``. Raises EngineStartFailed when the program cannot be run at all.
        """
        name = shown_path(program.words[0])
        wanted = {
            "words": program.words,
            "environment": _environment(program),
            "sealed": program.sealed,
            "socket": None if program.socket is None else str(program.socket),
            "port": program.port,
            "memory_limit": program.memory_limit,
            "stdin": program.stdin,
        }
        try:
            child = cls._keep(wanted, log_path)
        except OSError as error:
            raise EngineStartFailed(f"{name}: could not be started ({error}); see the folder of its log") from error
        try:
            told = child._told(_KEEPER_SECONDS)
        except TimeoutError:
            told = {"failed": f"no word of it within {_KEEPER_SECONDS:.0f} s"}
        except BaseException:  # KeyboardInterrupt too: nothing may be left behind
            child.end()
            raise
        if told is None or "pid" not in told:
            reason = told.get("failed") if told else child.log_tail(1)
            child.end()
            raise EngineStartFailed(
                f"{name}: could not be started ({reason}); check that the program is there and runs"
            )
        child._pid, child._rooms = int(told["pid"]), told
        return child

    @classmethod
    def _keep(cls, wanted: Mapping[str, Any], log_path: Path | None) -> Self:
        """Start a keeper and hand it ``wanted``. Raises OSError."""
        log = _open_log(log_path)
        report, report_of_keeper = os.pipe()
        try:
            process = subprocess.Popen(
                # -P: without it, a json.py in the folder that the person happens to be in would be run.
                [sys.executable, "-P", "-m", "quietmind.engine.keeper", str(report_of_keeper)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                pass_fds=(report_of_keeper,),
                start_new_session=True,  # Ctrl-C on the terminal is ours to act on
            )
        except BaseException:
            os.close(report)
            log.close()
            raise
        finally:
            os.close(report_of_keeper)
        child = cls(process, report, log)
        with suppress(BrokenPipeError):  # it has ended already, which the report will show
            _lifeline(process).write(json.dumps(wanted).encode() + b"\n")
        return child

    @property
    def pid(self) -> int:
        """Process id of the program."""
        return self._pid

    @property
    def sealed(self) -> bool:
        """Whether the program has a network of its own, in which nobody is."""
        return bool(self._rooms.get("network"))

    @property
    def memory_held(self) -> str | None:
        """What holds the program to its memory limit: ``cgroup``, ``rlimit`` (each process by itself), or None."""
        held = self._rooms.get("memory")
        return None if held is None else str(held)

    def _told(self, timeout: float) -> dict[str, Any] | None:
        """Return the next line of the keeper's report, or None when it ended without any.

        Raises TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        readable = select.poll()
        readable.register(self._report, select.POLLIN)
        while b"\n" not in self._said:
            if not readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            piece = os.read(self._report, 4096)
            if not piece:
                return None
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
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

    def out_of_memory(self) -> bool:
        """Say whether the program, which has ended, did so because memory ran out: the machine's or an accelerator's.

        The kernel's count of what it has ended for that is asked first, then what the program has logged last. After
        :meth:`end` both are gone: ask before.
        """
        if self._ended is None and not self._log.closed:
            try:
                self._ended = self._told(0) or {}
            except TimeoutError:
                return False  # it lives
            if _OUT_OF_MEMORY.search("\n".join(self.log_tail(_LAST_LINES))):
                self._ended = {"out_of_memory": True}
        return bool(self._ended and self._ended.get("out_of_memory"))

    def mark_log(self) -> None:
        """Have :meth:`trouble` look only at what is logged from now on."""
        with suppress(ValueError):  # closed
            self._mark = os.fstat(self._log.fileno()).st_size

    def trouble(self) -> str:
        """Return the first error in the log since the mark, where the cause stands; empty when there is none.

        llama.cpp reports a failure from the inside out: the later lines only say that loading failed.
        """
        found = next(filter(None, map(_TROUBLE.match, self._logged(self._mark))), None)
        return (found["logged"] or found[0]).strip() if found else ""

    def log_tail(self, lines: int) -> list[str]:
        """Return the last ``lines`` lines of the log that are not blank, fewer when there are fewer."""
        return [line for line in self._logged(0) if line.strip()][-lines:]

    def _logged(self, since: int) -> list[str]:
        """Return the lines of the log's last 64 KiB, as far as they come after byte ``since``."""
        try:
            size = os.fstat(self._log.fileno()).st_size
            start = max(since, size - _LOG_TAIL_BYTES)
            return os.pread(self._log.fileno(), _LOG_TAIL_BYTES, start).decode("utf-8", "replace").splitlines()
        except (OSError, ValueError):  # ended already: the log is closed
            return []

    def end(self) -> None:
        """End the child and wait until it is gone. Calling it again does nothing."""
        self._finalizer()


def _environment(program: Program) -> dict[str, str]:
    """Return the environment of ``program``.

    Threads of llama.cpp that wait for each other spin for as long as libgomp lets them. Bounded, they cost nothing on
    an idle machine, and beside other busy programs the model is some 20 times faster (benchmarks/busy_cores.py).
    """
    # What the person has set for a server of his own (LLAMA_ARG_CTX_SIZE) would change what was planned.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}
    ours = {"GOMP_SPINCOUNT": "1000"} | ours | {"GGML_NO_BACKTRACE": "1"}  # a crash must not wait for a debugger
    return (sealed.environment(ours) if program.sealed else ours) | dict(program.environment)


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
