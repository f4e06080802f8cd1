"""How fast the processor reads memory.

The C library's memcmp, called by ctypes, compares the two equal halves of buffers far larger than all caches. It is
vectorized everywhere, does nothing but read, and Python lets go of its lock meanwhile, so threads run at once. With two
streams to fetch it gets 15.4 GB/s out of a core where memchr gets 13.0, and a C loop that sums 15.1 (a Xeon of 2023;
benchmarks/machine_bandwidth.py compares).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.progress import SILENT, Progress
from quietmind.base.units import GIB, MIB

_LEAST_BYTES = GIB
_TIMES_CACHE = 4  # a pass over four times the caches leaves nothing of its beginning in them
_LEAST_PER_THREAD = 16 * MIB
_SHARE_OF_FREE = 4
_WINDOW_SECONDS = 0.25  # many short ones: on a busy machine, one of them may be left alone
_WINDOWS = 8
_FILL = 1


@dataclass(frozen=True)
class RamRead:
    """Bytes a second of all threads together, and the share of the time in which they had the processor."""

    bytes_per_s: float
    cpu_share: float


def ram_read_rate(threads: int, free_bytes: int | None = None, numa_nodes: int = 1) -> float | None:
    """Return the bytes a second that ``threads`` threads together read; see :func:`read_ram`."""
    read = read_ram(threads, free_bytes, numa_nodes)
    return read.bytes_per_s if read is not None else None


def read_ram(
    threads: int, free_bytes: int | None = None, numa_nodes: int = 1, progress: Progress = SILENT
) -> RamRead | None:
    """Return the bytes a second that ``threads`` threads together read, the best of eight windows of 0.25 s.

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
        # [window][thread] -> bytes a second, seconds on the processor / seconds
        self._windows = [[(0.0, 0.0)] * threads for _ in range(_WINDOWS)]
        library = ctypes.cdll.msvcrt if platform.system() == "Windows" else ctypes.CDLL(None)
        self._memcmp, self._memset = library.memcmp, library.memset
        self._memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        self._memset.restype = ctypes.c_void_p
        self._memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

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
        half = self._bytes_each // 2
        for window in self._windows:
            self._begin.wait()
            began, began_running, done, elapsed = time.perf_counter(), time.thread_time(), 0, 0.0
            while elapsed < _WINDOW_SECONDS:
                self._memcmp(address, address + half, half)
                done += self._bytes_each
                elapsed = time.perf_counter() - began
            window[index] = (done / elapsed, (time.thread_time() - began_running) / elapsed)

    def best(self) -> RamRead | None:
        """Return the sum over threads in the best window; None when a thread failed."""
        if not all(rate for window in self._windows for rate, _ in window):
            return None
        best = max(self._windows, key=lambda window: sum(rate for rate, _ in window))
        rates, shares = zip(*best, strict=True)
        return RamRead(sum(rates), sum(shares) / len(shares))


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
