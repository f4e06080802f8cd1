"""Finds out what this computer is, from one source a file. What cannot be found out stays None."""

from __future__ import annotations

import os
import platform

import psutil

from quietmind.base.paths import models_folder
from quietmind.machine import apple, cpu, nvidia, rocm
from quietmind.machine.cgroup import cgroup_limits
from quietmind.machine.disk import disk_of
from quietmind.machine.machine import Device, Host, Link, Machine
from quietmind.machine.remember import remembered


def probe() -> Machine:
    """Return this computer, with the bandwidths that ``quietmind machine --measure`` once found on it.

    A few milliseconds, plus what a GPU's driver takes to answer.
    """
    return remembered(hardware())


def hardware() -> Machine:
    """Return this computer as its system describes it; bandwidths are those of datasheets, or unknown.

    Memory is lowered by cgroup limits, cores by affinity and CPU quota, GPUs by the variables that hide them.
    """
    limits = cgroup_limits()
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if limits.memory_bytes is not None:
        total = min(total, limits.memory_bytes)
    if limits.free_bytes is not None:
        free = min(free, limits.free_bytes)
    free = min(free, total)
    fields = cpu.read_cpuinfo()
    values = apple.read_sysctl() if platform.system() == "Darwin" else {}
    name = str(values.get("machdep.cpu.brand_string") or cpu.cpu_name(fields))
    cores = cpu.usable_cores(limits.cores)
    host = Host(
        system=f"{platform.system()} {platform.machine()}",
        cpu=name,
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(logical=True),
        usable_cores=cores,
        numa_nodes=cpu.numa_nodes(),
        instructions=apple.instructions(values) if values else cpu.instructions(fields),
    )
    processor = Device(
        kind="cpu",
        name=name,
        memory_bytes=total,
        free_bytes=free,
        bandwidth_bytes_per_s=apple.memory_bandwidth(values),
        flops=cpu.vector_flops(fields, cores, cpu.base_clock(fields)),
    )
    accelerators, links = _accelerators(values, free)
    return Machine(
        name=platform.node() or "this computer",
        devices=(processor, *accelerators),
        links=links,
        host=host,
        disk=disk_of(models_folder()),
    )


def _accelerators(values: apple.Values, free: int) -> tuple[tuple[Device, ...], tuple[Link, ...]]:
    """Return the GPUs of every maker, and their links to the processor."""
    if values:
        metal = apple.metal_device(values, apple.read_gpu_cores(), free)
        return ((metal,), ()) if metal is not None else ((), ())
    cuda, cuda_links = nvidia.nvidia_devices(nvidia.read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    amd, amd_links = rocm.rocm_devices(rocm.read_gpus(), os.environ.get("HIP_VISIBLE_DEVICES"))
    return (*cuda, *amd), (*cuda_links, *amd_links)
