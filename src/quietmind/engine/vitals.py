"""What a running engine's processes hold and read: whether the model stays in memory or comes from the disk again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Vitals:
    """Counters of some processes, in bytes. ``read`` is what came from disks since each began, page-ins included.

    It is None where the system does not count it (macOS).
    """

    resident: int
    read: int | None


def processes_of(pid: int) -> tuple[psutil.Process, ...]:
    """Return a process and all its descendants; none when it is gone."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return (process, *process.children(recursive=True))
    return ()


def vitals(processes: Sequence[psutil.Process]) -> Vitals:
    """Return the counters of ``processes``; those that have ended count for nothing."""
    resident, read = 0, 0 if processes and hasattr(processes[0], "io_counters") else None
    for process in processes:
        with suppress(psutil.Error):
            resident += process.memory_info().rss
            if read is not None:
                read += process.io_counters().read_bytes
    return Vitals(resident, read)
