"""Locks between processes that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def try_hold(descriptor: int) -> bool:
    """Lock an open file for this process, until it is closed; say whether that was possible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def hold(file: Path) -> Iterator[None]:
    """Hold the lock of ``file``, which is made if need be, after whoever else holds it has let go. Raises OSError."""
    with file.open("ab") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield
