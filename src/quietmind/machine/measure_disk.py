"""How fast the disk gives a large file, as an engine reads weights: from front to back, by one thread, through the
system's cache, of which the file is not yet a part.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from quietmind.base.progress import SILENT, Progress
from quietmind.base.units import GIB, MIB
from quietmind.machine.disk import disk_of

_MOST_BYTES = GIB
_LEAST_BYTES = 64 * MIB  # less says more about the disk's own cache
_SECONDS = 3.0  # for writing, and again for reading
_BLOCK = 8 * MIB
_F_NOCACHE = 48  # fcntl of macOS: what is read or written here stays out of the cache
_CACHE_CAN_BE_AVOIDED = hasattr(os, "posix_fadvise") or sys.platform == "darwin"


def disk_read_rate(folder: str, progress: Progress = SILENT) -> float | None:
    """Return bytes a second of a sequential read, from a temporary file of up to 1 GiB in ``folder``.

    The file's pages are dropped from this system's cache first. A cache below the system (a controller's, a virtual
    machine's host's) cannot be, and then this is its speed. None where the folder cannot be written to, has too
    little free space, or the cache cannot be avoided (Windows).
    """
    free = disk_of(Path(folder)).free_bytes
    if not _CACHE_CAN_BE_AVOIDED or free is None or free < 2 * _MOST_BYTES:
        return None
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".quietmind-", buffering=0) as file:
            progress.begin("writing a file to read", _MOST_BYTES, bytes_=True)
            size = _write(file, progress)
            if size < _LEAST_BYTES:
                return None
            progress.begin("reading the disk", size, bytes_=True)
            return _read(file, size, progress)
    except OSError:
        return None


def _write(file: IO[bytes], progress: Progress) -> int:
    """Write random blocks until the file is full size or the time is up; return its bytes, all on the disk."""
    block = os.urandom(_BLOCK)  # nothing that a filesystem could compress
    _avoid_cache(file)
    began, written = time.perf_counter(), 0
    while written < _MOST_BYTES and time.perf_counter() - began < _SECONDS:
        written += file.write(block)
        progress.advance(_BLOCK)
        if written % (16 * _BLOCK) == 0:
            os.fsync(file.fileno())  # or the time would be up in the cache, long before the disk
    os.fsync(file.fileno())
    return written


def _read(file: IO[bytes], size: int, progress: Progress) -> float:
    buffer = bytearray(_BLOCK)
    _avoid_cache(file)
    file.seek(0)
    began, done, elapsed = time.perf_counter(), 0, 0.0
    while done < size and elapsed < _SECONDS:
        done += file.readinto(buffer)  # type: ignore[attr-defined]
        elapsed = time.perf_counter() - began
        progress.advance(_BLOCK)
    return done / elapsed


def _avoid_cache(file: IO[bytes]) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    elif sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(file.fileno(), _F_NOCACHE, 1)
