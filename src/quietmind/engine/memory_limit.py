"""Holding a program and all that it starts to an amount of memory, and telling whether it was ended for it.

A control group counts the whole tree and lets the page cache of the model's file go before anything is ended. Where
none can be made, RLIMIT_DATA holds each process to the same amount of memory of its own: unlike RLIMIT_AS it leaves
out mapped files and the address space that accelerators reserve.
"""

from __future__ import annotations

import os
import resource
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "quietmind-"

# oom_score_adj(5): where memory runs out the model goes, which can be started again, and not the person's windows.
_SCORE = 500

Means = Literal["cgroup", "rlimit", "none"]


class MemoryGroup:
    """A control group of ours below the one that this process is in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def make(cls, limit: int) -> Self | None:
        """Make a group that holds its processes to ``limit`` bytes; None where that is not allowed."""
        for parent in _own_groups():
            _sweep(parent)
            folder = parent / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
            group = cls(folder)
            with suppress(OSError):
                folder.mkdir()
                if group._limited(limit):
                    return group
            group.remove()
        return None

    def add(self, process: int) -> None:
        """Put ``process`` into the group, and with it all that it will start. Raises OSError."""
        (self._folder / "cgroup.procs").write_text(str(process), encoding="ascii")

    def kills(self) -> int:
        """How many of its processes the kernel has ended for lack of memory."""
        for name in ("memory.events", "memory.oom_control"):  # versions 2 and 1
            if (found := _counter(self._folder / name)) is not None:
                return found
        return 0

    def remove(self) -> None:
        """Take the group away, once it is empty."""
        with suppress(OSError):
            self._folder.rmdir()

    def _limited(self, limit: int) -> bool:
        for name, swap, no_swap in (
            ("memory.max", "memory.swap.max", 0),
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", limit),
        ):
            if (self._folder / name).exists():
                (self._folder / name).write_text(str(limit), encoding="ascii")
                with suppress(OSError):  # a kernel that does not count swap
                    (self._folder / swap).write_text(str(no_swap), encoding="ascii")
                return True
        return False


def hold_to(limit: int) -> None:
    """Hold this process, and each that it starts by itself, to ``limit`` bytes of memory of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def go_first() -> None:
    """Make this process, and what it starts, what the kernel ends first when memory runs out."""
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_SCORE), encoding="ascii")


def kills_anywhere() -> int:
    """How many processes the kernel has ended for lack of memory since it started; 0 where it does not say."""
    return _counter(Path("/proc/vmstat")) or 0


def _own_groups() -> Iterator[Path]:
    """Yield the folders of the memory control groups that this process is in."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield _ROOT / path.lstrip("/")
            elif "memory" in controllers.split(","):
                yield _ROOT / "memory" / path.lstrip("/")


def _sweep(parent: Path) -> None:
    """Remove the groups of keepers that were killed before they could do it."""
    with suppress(OSError):
        for folder in parent.glob(f"{_PREFIX}*-*"):
            owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdecimal() and not Path("/proc", owner).exists():
                MemoryGroup(folder).remove()  # the kernel refuses while it has processes


def _counter(file: Path) -> int | None:
    with suppress(OSError, UnicodeDecodeError, ValueError):
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
