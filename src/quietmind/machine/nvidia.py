"""NVIDIA GPUs, asked through the driver's own management library (NVML), which comes with every driver.

The few functions needed are called by ctypes, so nothing has to be installed. Source: NVIDIA's NVML API reference.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quietmind.machine.datasheets import datasheet
from quietmind.machine.machine import Device, Link
from quietmind.machine.pcie import pcie_bandwidth
from quietmind.machine.visible import visible

LIBRARY = "nvml.dll" if platform.system() == "Windows" else "libnvidia-ml.so.1"
_NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE


@dataclass(frozen=True)
class NvidiaGpu:
    """What the driver says of one GPU. ``pcie_*``: the most that the card and its slot can do together."""

    name: str
    uuid: str | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None
    pcie_generation: int | None = None
    pcie_lanes: int | None = None


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def read_gpus(library: str = LIBRARY) -> tuple[NvidiaGpu, ...]:
    """Return the driver's GPUs in PCI order; none where there is no driver, or one that does not answer."""
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2() != 0:
            return ()
    except (OSError, AttributeError):
        return ()
    try:
        count = _unsigned(nvml, "nvmlDeviceGetCount_v2")
        return tuple(gpu for index in range(count or 0) if (gpu := _gpu(nvml, index)) is not None)
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> NvidiaGpu | None:
    """Return one GPU, or None when it has fallen off its bus."""
    handle = ctypes.c_void_p()
    if not _called(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle)):
        return None
    memory = _Memory()
    has_memory = _called(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    return NvidiaGpu(
        name=_text(nvml, "nvmlDeviceGetName", handle) or "NVIDIA GPU",
        uuid=_text(nvml, "nvmlDeviceGetUUID", handle),
        memory_bytes=memory.total if has_memory else None,
        free_bytes=memory.free if has_memory else None,
        pcie_generation=_unsigned(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_lanes=_unsigned(nvml, "nvmlDeviceGetMaxPcieLinkWidth", handle),
    )


def _called(nvml: Any, function: str, *arguments: object) -> bool:
    """Call a function that returns an nvmlReturn_t; False for an error, and for a driver that lacks it."""
    try:
        return int(getattr(nvml, function)(*arguments)) == 0
    except AttributeError:
        return False


def _unsigned(nvml: Any, function: str, *handle: object) -> int | None:
    value = ctypes.c_uint()
    return value.value if _called(nvml, function, *handle, ctypes.byref(value)) else None


def _text(nvml: Any, function: str, handle: object) -> str | None:
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    if not _called(nvml, function, handle, buffer, ctypes.c_uint(_NAME_BYTES)):
        return None
    return buffer.value.decode("utf-8", "replace").strip() or None


def nvidia_devices(
    gpus: Sequence[NvidiaGpu], allowed: str | None = None
) -> tuple[tuple[Device, ...], tuple[Link, ...]]:
    """Return the devices ``cuda0``, ``cuda1``, ... and their links to the cpu.

    ``allowed`` is the value of CUDA_VISIBLE_DEVICES, None when unset. A GPU that has no memory of its own to report
    (GB10, Jetson) shares the host's. CUDA numbers GPUs of different models fastest first unless CUDA_DEVICE_ORDER
    says PCI_BUS_ID; the keys here follow the bus.
    """
    chosen = [gpus[index] for index in visible([gpu.uuid for gpu in gpus], allowed)]
    devices, links = [], []
    for index, gpu in enumerate(chosen):
        sheet = datasheet(gpu.name)
        devices.append(
            Device(
                kind="cuda",
                name=gpu.name,
                memory_bytes=gpu.memory_bytes,
                free_bytes=gpu.free_bytes,
                bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s,
                flops=sheet.flops,
                key=f"cuda{index}",
                unified=gpu.memory_bytes is None,
            )
        )
        links.append(Link("cpu", f"cuda{index}", pcie_bandwidth(gpu.pcie_generation, gpu.pcie_lanes)))
    return tuple(devices), tuple(links)
