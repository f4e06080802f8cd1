"""AMD GPUs, as the kernel's amdgpu driver shows them under /sys. Source: kernel documentation, gpu/amdgpu."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quietmind.machine.datasheets import datasheet
from quietmind.machine.machine import Device, Link
from quietmind.machine.pcie import pcie_bandwidth, pcie_generation
from quietmind.machine.visible import visible

_AMD = "0x1002"  # PCI vendor
# A processor's own graphics carves a small window out of RAM (512 MiB by default); nothing worth placing fits it.
_LEAST_MEMORY = 2 << 30


@dataclass(frozen=True)
class RocmGpu:
    """One GPU. ``link_bytes_per_s``: the most that every bridge between it and the processor can do."""

    name: str
    memory_bytes: int
    free_bytes: int | None = None
    link_bytes_per_s: float | None = None


def read_gpus(root: Path = Path("/")) -> tuple[RocmGpu, ...]:
    """Return the GPUs in the order of their cards; none where there is no amdgpu. ``root`` is where / is."""
    cards = [card for card in root.glob("sys/class/drm/card*") if re.fullmatch(r"card\d+", card.name)]
    found = []
    for card in sorted(cards, key=lambda card: int(card.name[4:])):
        device = card / "device"
        total, used = _number(device / "mem_info_vram_total"), _number(device / "mem_info_vram_used")
        if _line(device / "vendor") != _AMD or total is None or total < _LEAST_MEMORY:
            continue
        name = _line(device / "product_name") or f"AMD GPU {_line(device / 'device') or 'of unknown model'}"
        found.append(RocmGpu(name, total, None if used is None else max(0, total - used), _link(device)))
    return tuple(found)


def _link(device: Path) -> float | None:
    """Return the narrowest of the links from the GPU up to the processor; the GPU's own is a bridge inside the card."""
    narrowest: float | None = None
    folder = device.resolve()
    while (folder / "max_link_speed").is_file():
        generation = pcie_generation(_line(folder / "max_link_speed") or "")
        bandwidth = pcie_bandwidth(generation, _number(folder / "max_link_width"))
        if bandwidth is not None:
            narrowest = bandwidth if narrowest is None else min(narrowest, bandwidth)
        folder = folder.parent
    return narrowest


def rocm_devices(gpus: tuple[RocmGpu, ...], allowed: str | None = None) -> tuple[tuple[Device, ...], tuple[Link, ...]]:
    """Return the devices ``rocm0``, ``rocm1``, ... and their links to the cpu. ``allowed``: HIP_VISIBLE_DEVICES."""
    devices, links = [], []
    for index, gpu in enumerate(gpus[chosen] for chosen in visible([None] * len(gpus), allowed)):
        sheet = datasheet(gpu.name)
        devices.append(
            Device(
                kind="rocm",
                name=gpu.name,
                memory_bytes=gpu.memory_bytes,
                free_bytes=gpu.free_bytes,
                bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s,
                flops=sheet.flops,
                key=f"rocm{index}",
            )
        )
        links.append(Link("cpu", f"rocm{index}", gpu.link_bytes_per_s))
    return tuple(devices), tuple(links)


def _line(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _number(file: Path) -> int | None:
    line = _line(file)
    return int(line) if line is not None and line.isdecimal() else None
