"""Measures what a model's speed hangs on: memory, disk and PCI Express, in a few seconds."""

from __future__ import annotations

import os
import subprocess
import sys

from quietmind.base.progress import SILENT, Progress
from quietmind.machine.machine import Link, Machine
from quietmind.machine.measure_disk import disk_read_rate
from quietmind.machine.measure_ram import read_ram
from quietmind.machine.remember import Measured

_COPY_SECONDS = 60  # a CUDA context can take ten seconds on a machine with many GPUs


def measure(machine: Machine, progress: Progress = SILENT) -> Measured:
    """Return what this computer reaches now, busy or idle as it is. ``machine`` is what the probe says of it.

    Memory is read by as many threads as may run; a file of up to 1 GiB is written beside the models, read and
    removed; and 256 MiB are copied to each CUDA device. What cannot be measured is None or left out.
    """
    progress.begin("reading memory", None)
    ram = read_ram(machine.host.usable_cores or 1, machine.cpu.free_bytes, machine.host.numa_nodes or 1, progress)
    disk = disk_read_rate(machine.disk.path, progress) if machine.disk is not None else None
    gpus = [device for device in machine.accelerators if device.kind == "cuda" and not device.unified]
    progress.begin("copying to GPUs", len(gpus))
    links = []
    for device in gpus:
        rate = _copy_rate(device.key.removeprefix("cuda"))
        if rate is not None:
            links.append(Link("cpu", device.key, rate, measured=True))
        progress.advance()
    return Measured(
        ram_bytes_per_s=ram.bytes_per_s if ram is not None else None,
        disk_bytes_per_s=disk,
        links=tuple(links),
        cpu_share=ram.cpu_share if ram is not None else None,
    )


def _copy_rate(index: str) -> float | None:
    """Return bytes a second to the GPU. In a child: a driver that crashes or hangs takes nothing with it."""
    command = [sys.executable, "-m", "quietmind.machine.cuda_copy", index]
    environment = os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as NVML numbers them, and so the probe
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_COPY_SECONDS, check=False, env=environment, encoding="ascii"
        )
        return float(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
