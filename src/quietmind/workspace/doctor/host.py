"""Memory, cores and the settings of the kernel, as far as they slow a model down."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from quietmind.base.units import format_bytes
from quietmind.machine.cgroup import CgroupLimits
from quietmind.machine.machine import Machine
from quietmind.workspace.doctor.finding import Finding, better, fine, hinders

# Of a memory, the share that other programs may take before it is worth a word.
_TAKEN = 0.25
_LEAST_FILES = 256
_LEAST_SWAPPED = 1 << 30  # bytes; less is what any system puts there

_RAISE_MEMORY = "raise the memory limit of the container (`--memory`), the unit (MemoryMax=) or the job"
_RAISE_CORES = "raise the processor limit of the container (`--cpus`), the unit (CPUQuota=) or the job"


def installed_memory() -> int:
    """Return the bytes of RAM, whatever limits there are."""
    return int(psutil.virtual_memory().total)


def memory(machine: Machine, limits: CgroupLimits, installed: int) -> list[Finding]:
    """Say what of the RAM a model can have."""
    total, free = machine.cpu.memory_bytes or 0, machine.cpu.free_bytes
    findings = [
        fine("memory", f"{format_bytes(total)}, {'unknown' if free is None else format_bytes(free)} of it free")
    ]
    if limits.memory_bytes is not None and limits.memory_bytes < installed:
        text = f"a control group allows {format_bytes(limits.memory_bytes)} of {format_bytes(installed)}"
        findings.append(better("memory", text, _RAISE_MEMORY))
    if free is not None and free < (1 - _TAKEN) * total:
        text = f"other programs hold {format_bytes(total - free)} of {format_bytes(total)}"
        findings.append(better("memory", text, "`ps aux --sort -rss | head` shows which; close some"))
    return findings


def accelerators(machine: Machine) -> list[Finding]:
    """Say what each accelerator is, and where others use its memory."""
    findings = []
    for device in machine.accelerators:
        total, free = device.memory_bytes, device.free_bytes
        findings.append(fine(device.key, f"{device.name}, {'unknown' if total is None else format_bytes(total)}"))
        if total is not None and free is not None and not device.unified and free < (1 - _TAKEN) * total:
            shows = "nvidia-smi" if device.kind == "cuda" else "rocm-smi --showpids"
            text = f"other programs hold {format_bytes(total - free)} of {format_bytes(total)}"
            findings.append(better(device.key, text, f"`{shows}` shows which; close some"))
    return findings


def cores(machine: Machine, limits: CgroupLimits, threads: int | None) -> list[Finding]:
    """Say how many threads run at once. ``threads`` is what the settings ask for."""
    usable, physical = machine.host.usable_cores, machine.host.physical_cores
    if usable is None:
        return []
    findings = [fine("cores", f"{usable} usable" + ("" if physical is None else f", {physical} physical"))]
    if physical is not None and usable < physical:
        quota = limits.cores is not None and limits.cores < physical
        fix = _RAISE_CORES if quota else "start it without `taskset`, or with more processors in its cpuset"
        findings.append(better("cores", f"{usable} of {physical} may be used", fix))
    if threads is not None and threads > usable:
        text = f"the settings ask for {threads:,} threads, and {usable} run at once: more wait for each other"
        findings.append(better("cores", text, f"set threads = {usable} in settings.toml, or leave it out"))
    return findings


def kernel(numa_nodes: int | None, root: Path = Path("/")) -> list[Finding]:
    """Say which settings of the Linux kernel slow a model down; on other systems nothing is there to read.

    With NUMA balancing the kernel unmaps pages to learn who uses them, and weights are used by every thread (llama.cpp
    warns of it too). Transparent huge pages spare address translation in buffers of gigabytes.
    """
    findings = []
    if (numa_nodes or 1) > 1 and _line(root / "proc/sys/kernel/numa_balancing") not in (None, "0"):
        text = f"NUMA balancing is on, with {numa_nodes} nodes"
        findings.append(better("kernel", text, "echo 0 | sudo tee /proc/sys/kernel/numa_balancing"))
    huge = "sys/kernel/mm/transparent_hugepage/enabled"
    if "[never]" in (_line(root / huge) or ""):
        findings.append(better("kernel", "transparent huge pages are off", f"echo madvise | sudo tee /{huge}"))
    return findings + _governor(root / "sys/devices/system/cpu/cpu0/cpufreq")


def _governor(folder: Path) -> list[Finding]:
    """Say where the clock is held down. Under the pstate drivers "powersave" is the governor that scales."""
    governor, driver = _line(folder / "scaling_governor"), _line(folder / "scaling_driver") or ""
    preference = _line(folder / "energy_performance_preference")
    scales = "pstate" in driver or "cppc" in driver
    if governor == "powersave" and not scales:
        return [better("kernel", "the clock is held at its lowest", "sudo cpupower frequency-set -g performance")]
    if scales and preference in ("power", "balance_power"):
        command = (
            "echo balance_performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/energy_performance_preference"
        )
        return [better("kernel", f"the clock prefers saving power ({preference})", command)]
    return []


def swap_used() -> int:
    """Return the bytes that are swapped out."""
    with suppress(OSError, RuntimeError):  # some containers and systems do not tell
        return int(psutil.swap_memory().used)
    return 0


def swap(used: int) -> list[Finding]:
    """Say where memory was too small already: a KV cache that is swapped out is read back for each token."""
    if used < _LEAST_SWAPPED:
        return []
    return [
        better("memory", f"{format_bytes(used)} are swapped out", "sudo sysctl vm.swappiness=10, and close programs")
    ]


def limits_of_process() -> dict[str, int | None]:
    """Return the limits of this process, soft ones, by the letters of `ulimit`; None: no limit. Empty on Windows."""
    if sys.platform == "win32":
        return {}
    import resource

    kinds = {
        "v": resource.RLIMIT_AS,
        "d": resource.RLIMIT_DATA,
        "n": resource.RLIMIT_NOFILE,
        "l": resource.RLIMIT_MEMLOCK,
    }
    soft = {letter: resource.getrlimit(kind)[0] for letter, kind in kinds.items()}
    return {letter: None if limit == resource.RLIM_INFINITY else limit for letter, limit in soft.items()}


def process_limits(limits: Mapping[str, int | None]) -> list[Finding]:
    """Say which limits of the shell stop a model from being mapped, held or served."""
    findings = []
    for letter, what in (("v", "address space"), ("d", "data")):
        limit = limits.get(letter)
        if limit is not None:
            text = f"`ulimit -{letter}` allows {format_bytes(limit)} of {what}, which ends a model that takes more"
            findings.append(hinders("limits", text, f"ulimit -{letter} unlimited"))
    files = limits.get("n")
    if files is not None and files < _LEAST_FILES:
        findings.append(hinders("limits", f"`ulimit -n` allows {files} open files", f"ulimit -n {4 * _LEAST_FILES}"))
    locked = limits.get("l")
    if locked is not None:  # nothing that we start locks memory; whoever adds --mlock to a launch file needs this
        findings.append(
            fine("limits", f"`ulimit -l` allows {format_bytes(locked)} to be locked, enough without --mlock")
        )
    return findings


def _line(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
