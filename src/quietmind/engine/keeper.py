"""Runs a program for as long as our process lives: ``python -m quietmind.engine.keeper REPORT_FD``.

Three processes in a row, of which only the last runs anybody else's code:

- the *keeper* reads one JSON line on standard input (the fields of a Program and the whole environment). The pipe is
  then its lifeline: at its end, in whatever way the parent went, it ends everything;
- the *first* process, number 1 inside namespaces of its own where the kernel allows them: when it ends, the kernel
  ends all that the program has started, however deep and in whatever session;
- the *program*, in a session of its own, under the memory limit.

The keeper writes two JSON lines to the descriptor REPORT_FD: ``{"pid": ..., "network": ..., "processes": ...}`` or
``{"failed": ...}`` when the program has been started or not, and ``{"out_of_memory": ...}`` when it has ended. Its own
end is then the program's: the same exit status, or the same signal.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from quietmind.engine import memory_limit, sealed
from quietmind.engine.forward import forward

_LIFELINE = 0  # standard input
_SCM_CREDENTIALS = 2  # <sys/socket.h>; Python names it on some systems only
_SO_PASSCRED = 16


@dataclass(frozen=True)
class _Started:
    """``first`` and ``program`` are process ids as the keeper sees them; ``status`` gives the program's wait status."""

    first: int
    program: int
    status: int
    failed: str


class _Pipes:
    """What joins the keeper and the first process.

    ``go`` tells the first process that it may start the program; ``hello`` brings the program's greeting, ``status``
    its end.
    """

    def __init__(self) -> None:
        self.go_of_first, self.go = os.pipe()
        self.status, self.status_of_first = os.pipe()
        self.hello, self.hello_of_first = socket.socketpair()
        if sys.platform == "linux":
            self.hello.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)

    def close_ours(self) -> None:
        """In the first process: let go of the keeper's ends."""
        os.close(self.go)
        os.close(self.status)
        self.hello.close()

    def may_go(self) -> bool:
        """In the first process: wait for the keeper's word; False if the keeper is gone, with or without it."""
        said = os.read(self.go_of_first, 1)
        gone = select.poll()
        gone.register(self.go_of_first, select.POLLIN)
        return bool(said) and not gone.poll(0)

    def close_theirs(self) -> None:
        """In the keeper: let go of the first process's ends."""
        os.close(self.go_of_first)
        os.close(self.status_of_first)
        self.hello_of_first.close()


def main(report: int) -> None:
    """Run the program and end as it does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would leave the notes' text on disk
    os.set_inheritable(report, False)
    line = read_line(_LIFELINE)
    if not line.endswith(b"\n"):  # whoever started us has ended already
        os._exit(1)
    wanted = json.loads(line)
    wake_at_end_of(_LIFELINE)
    limit = wanted["memory_limit"]
    group = memory_limit.MemoryGroup.make(limit) if limit else None
    killed_before = memory_limit.kills_anywhere()
    flags = sealed.allowed(network=wanted["sealed"])
    try:
        sealed.enter(flags)
        started = _start(wanted, flags, group)
    except OSError as error:
        _say(report, {"failed": str(error)})
        os._exit(1)
    if started.failed:
        _say(report, {"failed": started.failed})
    else:
        held = None if not limit else "cgroup" if group else "rlimit"
        network, processes = (bool(flags & each) for each in (sealed.NEWNET, sealed.PROCESSES))
        _say(report, {"pid": started.program, "network": network, "processes": processes, "memory": held})
    status = _wait(started)
    _end_all(started.first, whole=bool(flags & sealed.PROCESSES))
    kills = group.kills() if group else 0
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if group:
        group.remove()
    _say(report, {"out_of_memory": kills > 0 or (killed and memory_limit.kills_anywhere() > killed_before)})
    _end_as(status)


def read_line(descriptor: int) -> bytes:
    """Read one line, after which nothing more is written; what there is, if the input ends before."""
    line = bytearray()
    while not line.endswith(b"\n") and (piece := os.read(descriptor, 1 << 16)):
        line += piece
    return bytes(line)


def wake_at_end_of(lifeline: int) -> None:
    """Have this process continue, should it be stopped, when the last write end of the pipe ``lifeline`` is closed.

    Closing the write end raises the signal set by F_SETSIG (fcntl(2)), and a process that sleeps in poll(2) sees the
    end by itself. macOS has no F_SETSIG; its SIGIO is ignored.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGCONT)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _start(wanted: dict[str, Any], flags: int, group: memory_limit.MemoryGroup | None) -> _Started:
    """Start the first process and, from it, the program. Raises OSError."""
    sealed.adopt_orphans()
    pipes = _Pipes()
    first = os.fork()
    if first == 0:
        pipes.close_ours()
        _first(wanted, flags, None if group else wanted["memory_limit"], pipes)
    pipes.close_theirs()
    if group is not None:
        group.add(first)
    os.write(pipes.go, b"\n")
    program, failed = _greeted(pipes.hello)
    return _Started(first, program, pipes.status, failed)


def _first(wanted: dict[str, Any], flags: int, own_limit: int | None, pipes: _Pipes) -> NoReturn:
    """Be the first process: start the program, collect every orphan, and hand on how the program ended."""
    try:
        os.close(_LIFELINE)
        os.open(os.devnull, os.O_RDONLY)  # becomes standard input
        os.setsid()  # what is sent to the keeper's group is not meant for us
        sealed.settle(flags)
        sealed.adopt_orphans()
        sealed.die_with_parent(signal.SIGKILL)
        if not pipes.may_go():  # the keeper ended before the line above
            os._exit(1)
        forwarder = _forwarder(wanted["socket"], wanted["port"])
        program = os.fork()
        if program == 0:
            _become(wanted, pipes.hello_of_first, own_limit)
        pipes.hello_of_first.close()
        ended, how = 0, 0
        while ended != program:
            ended, how = os.wait()
        os.write(pipes.status_of_first, b"%d\n" % how)
        if forwarder:
            os.kill(forwarder, signal.SIGKILL)
    except BaseException as error:  # whatever it is, the keeper has to hear of it
        with suppress(OSError):
            pipes.hello_of_first.sendall(f"{os.getpid()}\n{error}".encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _forwarder(path: str | None, port: int | None) -> int | None:
    """Start the process that passes ``path`` on to ``port``, where both are given, and return its id."""
    if path is None or port is None:
        return None
    process = os.fork()
    if process == 0:
        try:
            sealed.die_with_parent(signal.SIGKILL)
            os.closerange(_LIFELINE + 3, 256)  # the keeper waits for the end of some of them
            forward(path, port)
        finally:
            os._exit(1)
    return process


def _become(wanted: dict[str, Any], hello: socket.socket, own_limit: int | None) -> NoReturn:
    """Become the program. It greets the keeper first, with its id, and says what failed if it cannot be run."""
    try:
        os.setsid()
        sealed.die_with_parent(signal.SIGKILL)
        hello.sendall(b"%d\n" % os.getpid())
        for each in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGIO):  # Python has set them otherwise
            signal.signal(each, signal.SIG_DFL)
        memory_limit.go_first()
        if own_limit:
            memory_limit.hold_to(own_limit)
        _hand_over(wanted["stdin"].encode())
        os.execvpe(wanted["words"][0], wanted["words"], wanted["environment"])  # noqa: S606
    except BaseException as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        with suppress(OSError):
            hello.sendall(said.encode("utf-8", "replace"))
    os._exit(127)


def _hand_over(text: bytes) -> None:
    """Make ``text`` the standard input: from a pipe, and so never on a disk. Raises OSError if it is too long."""
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    if text and os.write(sink, text) < len(text):
        raise OSError(f"{len(text)} bytes of standard input are more than a pipe takes")
    os.close(sink)
    os.dup2(source, _LIFELINE)


def _greeted(hello: socket.socket) -> tuple[int, str]:
    """Return the program's process id as it is out here, and what kept it from running ("" for nothing).

    Credentials that come over a Unix socket are translated by the kernel between namespaces (unix(7)).
    """
    greeting, ancillary, _, _ = hello.recvmsg(4096, socket.CMSG_SPACE(12))
    said = bytearray(greeting)
    while piece := hello.recv(4096):
        said += piece
    hello.close()
    number, _, failed = said.decode("utf-8", "replace").partition("\n")
    process = int(number) if number.isdecimal() else 0
    for level, kind, credentials in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SCM_CREDENTIALS):
            process = struct.unpack("3i", credentials)[0]
    if not number:
        failed = "the process that was to start it has ended"
    return process, failed


def _wait(started: _Started) -> int:
    """Wait for the end of the program or of the lifeline and return the program's wait status; SIGKILL if unknown."""
    waiting = select.poll()
    waiting.register(_LIFELINE, select.POLLIN)
    waiting.register(started.status, select.POLLIN)
    ready = {descriptor for descriptor, _ in waiting.poll()}
    said = os.read(started.status, 16).strip() if started.status in ready else b""
    return int(said) if said else int(signal.SIGKILL)


def _end_all(first: int, *, whole: bool) -> None:
    """End the first process and all that came from it. ``whole``: it is number 1 of processes of its own.

    Then its end is theirs, and it is not collected before the last of them is gone (pid_namespaces(7)).
    """
    if not whole:
        _end_tree()
    with suppress(OSError):
        os.kill(first, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(first, 0)


def _end_tree() -> None:
    """End every process below this one. Those whose parents ended have become our own children, where Linux runs."""
    import psutil

    while below := psutil.Process().children(recursive=True):
        for process in below:
            with suppress(psutil.Error):
                process.suspend()  # what is stopped starts no more
        for process in below:
            with suppress(psutil.Error):
                process.kill()
        with suppress(ChildProcessError):
            while True:
                os.wait()


def _end_as(status: int) -> NoReturn:
    """End this process the way the wait status ``status`` says."""
    if os.WIFSIGNALED(status):
        ending = os.WTERMSIG(status)
        with suppress(OSError, ValueError):  # SIGKILL needs no default
            signal.signal(ending, signal.SIG_DFL)
        os.kill(os.getpid(), ending)
    os._exit(os.WEXITSTATUS(status))


def _say(report: int, what: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody listens any more
        os.write(report, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
