"""Apple silicon: what ``sysctl`` says of the processor, and the GPU that shares its memory.

Nothing here starts a process but the one question that sysctl does not answer, the number of GPU cores.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import subprocess
from collections.abc import Mapping

from quietmind.base.units import GIB, MIB
from quietmind.machine.machine import Device

NUMBERS = ("hw.memsize", "hw.physicalcpu", "iogpu.wired_limit_mb")
TEXTS = ("machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features")
# sysctl's name -> the usual one.
_ARM_FEATURES = {
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
_X86_FEATURES = {"AVX1.0": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "AVX512F": "avx512f"}

# Memory bandwidth in GB/s, from the technical specifications of the Macs with each chip. Where a chip comes in two
# widths, the number of processor cores tells them apart.
_BANDWIDTH = {
    "Apple M1": 68.25, "Apple M1 Pro": 200, "Apple M1 Max": 400, "Apple M1 Ultra": 800,
    "Apple M2": 100, "Apple M2 Pro": 200, "Apple M2 Max": 400, "Apple M2 Ultra": 800,
    "Apple M3": 100, "Apple M3 Pro": 150, "Apple M3 Ultra": 819,
    "Apple M4": 120, "Apple M4 Pro": 273,
}  # fmt: skip
_BANDWIDTH_BY_CORES = {
    ("Apple M3 Max", 14): 300,
    ("Apple M3 Max", 16): 400,
    ("Apple M4 Max", 14): 410,
    ("Apple M4 Max", 16): 546,
}
# GPU clock in Hz by generation; 128 lanes a core, each a multiplication and an addition a cycle. Apple's own figures
# (2.6 TFLOPS of an 8-core M1, 3.6 of a 10-core M2) agree; later clocks are not published.
_GPU_CLOCK = {"Apple M1": 1.278e9, "Apple M2": 1.398e9}
_LANES = 128

# The driver's recommendedMaxWorkingSetSize: two thirds of the memory of small machines, three quarters of larger ones.
_SMALL_MACHINE = 32 * GIB

Values = Mapping[str, int | str]


def read_sysctl() -> dict[str, int | str]:
    """Return the values of NUMBERS, TEXTS and instruction sets that this system knows; on another system, none."""
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    if not hasattr(library, "sysctlbyname"):
        return {}
    values: dict[str, int | str] = {}
    for name in (*NUMBERS, *TEXTS, *_ARM_FEATURES):
        size = ctypes.c_size_t(1024)
        buffer = ctypes.create_string_buffer(size.value)
        if library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
            continue
        raw = buffer.raw[: size.value]
        is_text = name in TEXTS
        values[name] = raw.rstrip(b"\0").decode("utf-8", "replace") if is_text else int.from_bytes(raw, "little")
    return values


def read_gpu_cores() -> int | None:
    """Return the number of GPU cores by asking ``ioreg`` (tens of milliseconds)."""
    try:
        done = subprocess.run(
            ["ioreg", "-rc", "AGXAccelerator", "-d1"], capture_output=True, timeout=5, check=False, encoding="utf-8"
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return gpu_cores(done.stdout)


def gpu_cores(registry: str) -> int | None:
    """Return the number of GPU cores from what ``ioreg`` prints."""
    match = re.search(r'"gpu-core-count"\s*=\s*(\d+)', registry)
    return int(match[1]) if match else None


def instructions(values: Values) -> tuple[str, ...]:
    """Return the instruction sets by their usual names."""
    flags = f"{values.get('machdep.cpu.features', '')} {values.get('machdep.cpu.leaf7_features', '')}".split()
    arm = [usual for name, usual in _ARM_FEATURES.items() if values.get(name) == 1]
    return (*arm, *(usual for name, usual in _X86_FEATURES.items() if name in flags))


def memory_bandwidth(values: Values) -> float | None:
    """Return the theoretical bytes a second of the chip's memory, which processor and GPU share."""
    chip = str(values.get("machdep.cpu.brand_string", ""))
    cores = values.get("hw.physicalcpu")
    found = _BANDWIDTH.get(chip) or _BANDWIDTH_BY_CORES.get((chip, cores if isinstance(cores, int) else 0))
    return None if found is None else found * 1e9


def working_set_limit(values: Values) -> int | None:
    """Return how much of the memory the GPU may hold: iogpu.wired_limit_mb where set, else the driver's default."""
    memory, wired = values.get("hw.memsize"), values.get("iogpu.wired_limit_mb")
    if not isinstance(memory, int):
        return None
    if isinstance(wired, int) and wired > 0:
        return min(wired * MIB, memory)
    return memory * 2 // 3 if memory <= _SMALL_MACHINE else memory * 3 // 4


def metal_device(values: Values, cores: int | None, free_bytes: int | None) -> Device | None:
    """Return the GPU of Apple silicon; None on another processor. ``free_bytes`` is what the host has free."""
    chip = str(values.get("machdep.cpu.brand_string", ""))
    limit = working_set_limit(values)
    if not chip.startswith("Apple ") or limit is None:
        return None
    clock = _GPU_CLOCK.get(" ".join(chip.split()[:2]))
    return Device(
        kind="metal",
        name=chip if cores is None else f"{chip}, {cores}-core GPU",
        memory_bytes=limit,
        free_bytes=None if free_bytes is None else min(limit, free_bytes),
        bandwidth_bytes_per_s=memory_bandwidth(values),
        flops=None if clock is None or cores is None else cores * _LANES * 2 * clock,
        key="metal",
        unified=True,
    )
