"""What the control groups of this process leave it: memory and processor time. Versions 1 and 2, Linux only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # version 1 says "no limit" by a number near 2**63


@dataclass(frozen=True)
class CgroupLimits:
    """None: no limit. ``cores`` is how many whole processors the CPU quota amounts to."""

    memory_bytes: int | None = None
    free_bytes: int | None = None
    cores: float | None = None


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
