"""The host's processor: its name, its instruction sets, its cores and memory nodes, and its arithmetic peak."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

# The kernel's flag -> the usual name, of the instruction sets that inference engines have kernels for.
_X86 = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
_FLAGS = {flag: flag for flag in _X86} | {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}


def read_cpuinfo(root: Path = Path("/")) -> dict[str, str]:
    """Return the fields of /proc/cpuinfo, each where it stands first; on another system, none."""
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return cpuinfo(lines)
    except OSError:
        return {}


def cpuinfo(lines: Iterable[str]) -> dict[str, str]:
    """Return each field where it stands first. On x86 the first processor says it all, and hundreds may follow."""
    fields: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
        elif "model name" in fields:
            break
    return fields


def cpu_name(fields: dict[str, str]) -> str:
    """Return the processor's name from /proc/cpuinfo, or else what the system says."""
    for key in ("model name", "Hardware", "Model"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine() or "unknown CPU"


def instructions(fields: dict[str, str]) -> tuple[str, ...]:
    """Return the instruction sets by their usual names, from the flags of /proc/cpuinfo."""
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return tuple(usual for flag, usual in _FLAGS.items() if flag in flags)


def numa_nodes(root: Path = Path("/")) -> int | None:
    """Return how many NUMA nodes hold processors or memory; None where the kernel does not say."""
    folder = root / "sys/devices/system/node"
    try:
        count = sum(re.fullmatch(r"node\d+", entry.name) is not None for entry in folder.iterdir())
    except OSError:
        return None
    return count or None


def usable_cores(quota: float | None) -> int | None:
    """Return how many threads can really run at once: physical cores, less what affinity and quota withhold."""
    known = [psutil.cpu_count(logical=False) or psutil.cpu_count(logical=True)]
    if hasattr(os, "sched_getaffinity"):
        known.append(len(os.sched_getaffinity(0)))
    if quota is not None:
        known.append(max(1, math.floor(quota)))
    return min((count for count in known if count), default=None)


def base_clock(fields: dict[str, str], root: Path = Path("/")) -> float | None:
    """Return the base clock in Hz; None where only the clock of this moment, or of a boost, can be had."""
    cpu = root / "sys/devices/system/cpu/cpu0"
    for file, unit in ((cpu / "cpufreq/base_frequency", 1e3), (cpu / "acpi_cppc/nominal_freq", 1e6)):
        try:
            return int(file.read_text(encoding="ascii")) * unit or None
        except (OSError, ValueError):
            continue
    if (cpu / "cpufreq").is_dir():
        return None  # the clock moves, and /proc/cpuinfo says where it is now
    try:
        return float(fields.get("cpu MHz", "")) * 1e6 or None
    except ValueError:
        return None


def vector_flops(fields: dict[str, str], cores: int | None, clock: float | None) -> float | None:
    """Return the f32 multiplications and additions a second of the vector units at ``clock`` Hz: a ceiling.

    Two fused multiply-add units of 512 bits (32 lanes, 64 operations a cycle) in Xeons with AVX-512 and in Zen 5, which
    AVX-VNNI tells from Zen 4; else two of 256 bits, or one of 512. Sources: Intel's optimization manual; AMD's
    optimization guides for families 19h and 1Ah. Others are unknown; matrix units (AMX) are not counted.
    """
    has = set(instructions(fields))
    if cores is None or clock is None or not {"avx2", "fma"} <= has:
        return None
    intel, amd = (fields.get("vendor_id") == vendor for vendor in ("GenuineIntel", "AuthenticAMD"))
    wide = "avx512f" in has and ((intel and "Xeon" in cpu_name(fields)) or (amd and "avx_vnni" in has))
    return cores * clock * (64 if wide else 32)
