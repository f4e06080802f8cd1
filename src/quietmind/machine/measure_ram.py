"""How fast the processor reads memory.

The C library's memchr, called by ctypes, looks through buffers far larger than all caches for a byte that is not
there. It is vectorized everywhere, does nothing but read, and Python lets go of its lock meanwhile, so threads run at
once. benchmarks/machine_bandwidth.py holds it against a C program that sums.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import threading
import time
from pathlib import Path

from quietmind.base.progress import SILENT, Progress
from quietmind.base.units import GIB, MIB

_LEAST_BYTES = GIB
_TIMES_CACHE = 4  # a pass over four times the caches leaves nothing of its beginning in them
_LEAST_PER_THREAD = 16 * MIB
_SHARE_OF_FREE = 4
_WINDOW_SECONDS = 0.4
_WINDOWS = 3
_FILL, _ABSENT = 1, 0


def ram_read_rate(
    threads: int, free_bytes: int | None = None, numa_nodes: int = 1, progress: Progress = SILENT
) -> float | None:
    """Return the bytes a second that ``threads`` threads together read, the best of three windows of 0.4 s.

    Takes max(1 GiB, four times the last-level caches), but no more than a quarter of ``free_bytes``; None where that
    is too little to get past the caches. On several NUMA nodes each thread stays on a core of its own, so that it
    reads memory of its own node.
    """
    caches = last_level_cache_bytes()
    size = max(_LEAST_BYTES, _TIMES_CACHE * caches, threads * _LEAST_PER_THREAD)
    if free_bytes is not None:
        size = min(size, free_bytes // _SHARE_OF_FREE)
    if size < max(_LEAST_BYTES // 4, 2 * caches):
        return None
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") and numa_nodes > 1 else []
    reading = _Reading(threads, size // threads // mmap.PAGESIZE * mmap.PAGESIZE)
    workers = [
        threading.Thread(target=reading.work, args=(index, cores[index % len(cores)] if cores else None), daemon=True)
        for index in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive():
            worker.join(_WINDOW_SECONDS)
            progress.advance(0)
    return reading.best()


class _Reading:
    """Threads that each read a buffer of their own, all within the same windows of time."""

    def __init__(self, threads: int, bytes_each: int) -> None:
        self._bytes_each = bytes_each
        self._begin = threading.Barrier(threads)
        # [window][thread] -> bytes a second
        self._rates = [[0.0] * threads for _ in range(_WINDOWS)]
        library = ctypes.cdll.msvcrt if platform.system() == "Windows" else ctypes.CDLL(None)
        self._memchr, self._memset = library.memchr, library.memset
        for function in (self._memchr, self._memset):
            function.restype = ctypes.c_void_p
            function.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

    def work(self, index: int, core: int | None) -> None:
        """Fill the buffer of thread ``index`` and read it over and over; a thread that fails ends them all."""
        try:
            if core is not None:
                os.sched_setaffinity(threading.get_native_id(), {core})
            with mmap.mmap(-1, self._bytes_each) as buffer:
                if hasattr(mmap, "MADV_HUGEPAGE"):
                    buffer.madvise(mmap.MADV_HUGEPAGE)  # quicker to fill, and no page tables to walk
                view = ctypes.c_char.from_buffer(buffer)
                try:
                    self._read(index, ctypes.addressof(view))
                finally:
                    del view  # a mapping with a view on it cannot be closed
        except (OSError, ValueError):
            self._begin.abort()
        except threading.BrokenBarrierError:
            pass

    def _read(self, index: int, address: int) -> None:
        self._memset(address, _FILL, self._bytes_each)  # by the thread that reads it: pages are its node's
        for rates in self._rates:
            self._begin.wait()
            began, done, elapsed = time.perf_counter(), 0, 0.0
            while elapsed < _WINDOW_SECONDS:
                self._memchr(address, _ABSENT, self._bytes_each)
                done += self._bytes_each
                elapsed = time.perf_counter() - began
            rates[index] = done / elapsed

    def best(self) -> float | None:
        """Return the sum over threads in the best window; None when a thread failed."""
        complete = [sum(rates) for rates in self._rates if all(rates)]
        return max(complete) if len(complete) == len(self._rates) else None


def last_level_cache_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of the last-level caches together, as Linux tells them; elsewhere 0."""
    caches: dict[str, int] = {}
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cache/index3"):
        try:
            size = re.fullmatch(r"(\d+)([KM]?)", (folder / "size").read_text(encoding="ascii").strip())
            shared_by = (folder / "shared_cpu_list").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if size is not None:
            caches[shared_by] = int(size[1]) * {"": 1, "K": 1024, "M": MIB}[size[2]]
    return sum(caches.values())
