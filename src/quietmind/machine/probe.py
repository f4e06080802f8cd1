"""Finds out what this computer is. What cannot be found out stays None. Takes a few milliseconds."""

from __future__ import annotations

import importlib
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from quietmind.machine.machine import Device, Host, Machine

_UNLIMITED = 1 << 60  # cgroup v1 says "no limit" by a number near 2**63


@dataclass(frozen=True)
class CgroupLimits:
    """What the control groups of this process leave it. None: no limit."""

    memory_bytes: int | None = None
    free_bytes: int | None = None
    cores: float | None = None


def probe() -> Machine:
    """Return this computer: memory lowered by cgroup limits, cores by affinity and CPU quota, NVIDIA GPUs if known.

    GPUs are asked through NVML when ``pynvml`` is installed, and are otherwise left out.
    """
    limits = cgroup_limits()
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if limits.memory_bytes is not None:
        total = min(total, limits.memory_bytes)
    if limits.free_bytes is not None:
        free = min(free, limits.free_bytes)
    host = Host(
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_name(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(logical=True),
        usable_cores=_usable_cores(limits.cores),
    )
    cpu = Device(kind="cpu", name=host.cpu, memory_bytes=total, free_bytes=min(free, total))
    return Machine(name=platform.node() or "this computer", devices=(cpu, *_nvidia()), links=(), host=host)


def _usable_cores(quota: float | None) -> int | None:
    """Return how many threads can really run at once: physical cores, less what affinity and quota withhold."""
    known = [psutil.cpu_count(logical=False) or psutil.cpu_count(logical=True)]
    if hasattr(os, "sched_getaffinity"):
        known.append(len(os.sched_getaffinity(0)))
    if quota is not None:
        known.append(max(1, math.floor(quota)))
    return min((count for count in known if count), default=None)


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Hardware", "Model"):
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown CPU"


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return the limits of the cgroups that this process is in; versions 1 and 2. ``root`` is where / is."""
    try:
        membership = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return CgroupLimits()
    found: list[CgroupLimits] = []
    for line in membership.splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if controllers == "":
            found += [_limits_v2(folder) for folder in _ancestry(base, path)]
        for controller in controllers.split(","):
            if controller in ("memory", "cpu"):
                found += [_limits_v1(folder) for folder in _ancestry(base / controller, path)]
    return CgroupLimits(
        memory_bytes=min((limits.memory_bytes for limits in found if limits.memory_bytes is not None), default=None),
        free_bytes=min((limits.free_bytes for limits in found if limits.free_bytes is not None), default=None),
        cores=min((limits.cores for limits in found if limits.cores is not None), default=None),
    )


def _ancestry(base: Path, path: str) -> list[Path]:
    """Return the folders from ``base`` down to the group ``path``: a limit on any of them holds.

    Inside a container the path may be the host's and not exist; then the container's own group is ``base``.
    """
    folders = [base]
    for name in Path(path).parts:
        if name not in ("/", ".", ".."):
            folders.append(folders[-1] / name)
    return [folder for folder in folders if folder.is_dir()]


def _limits_v2(folder: Path) -> CgroupLimits:
    limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
    quota = _words(folder / "cpu.max")
    cores = None
    if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal() and int(quota[1]):
        cores = int(quota[0]) / int(quota[1])
    return CgroupLimits(limit, _free(limit, used, folder), cores)


def _limits_v1(folder: Path) -> CgroupLimits:
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return CgroupLimits(limit, _free(limit, used, folder), quota / period if quota and period else None)


def _free(limit: int | None, used: int | None, folder: Path) -> int | None:
    """Return what is left of ``limit``; the page cache of files counts as left, the kernel drops it on demand."""
    if limit is None or used is None:
        return limit
    words = _words(folder / "memory.stat")
    statistics = dict(zip(words[::2], words[1::2], strict=False))
    cache = sum(int(statistics.get(key, "0")) for key in ("active_file", "inactive_file"))
    return max(0, limit - max(0, used - cache))


def _number(path: Path) -> int | None:
    """Return the number in a control file; None for "max", -1, a missing file and v1's huge "no limit"."""
    words = _words(path)
    if len(words) != 1 or not words[0].isdecimal() or int(words[0]) >= _UNLIMITED:
        return None
    return int(words[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def _nvidia() -> tuple[Device, ...]:
    try:
        nvml: Any = importlib.import_module("pynvml")  # optional
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return ()
    try:
        return tuple(_nvidia_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _nvidia_device(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return Device(kind="cuda", name=text, memory_bytes=int(memory.total), free_bytes=int(memory.free))
