"""A machine as text for people, and as JSON for programs."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from quietmind.base.units import format_bytes
from quietmind.machine.machine import Device, Machine

UNKNOWN = "unknown"


def render(machine: Machine) -> str:
    """Return the machine as a plain-text table: a row a device, then its host, links and disk.

    Sizes are binary units (GiB); bandwidths decimal ones (GB/s), as in datasheets.
    """
    rows = [("device", "memory", "free", "bandwidth", "compute", "name")]
    rows += [_device_row(device) for device in machine.devices]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join((row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 5)), row[5])).rstrip()
        for row in rows
    ]
    host = machine.host
    facts = [
        f"system        {host.system}",
        f"cores         {_cores(machine)}",
        f"instructions  {' '.join(host.instructions) or UNKNOWN}",
    ]
    facts += _shown_links(machine)
    if machine.disk is not None:
        facts.append(
            f"disk          {machine.disk.path}: {_size(machine.disk.free_bytes)} free, "
            f"read {rate(machine.disk.read_bytes_per_s)}{', assumed' if machine.disk.assumed else ''}"
        )
    facts += [f"{'' if number else 'source':<14}{said}" for number, said in enumerate(_sources(machine))]
    if machine.cpu.bandwidth_bytes_per_s is None:
        facts.append("the bandwidth of its memory is unknown: `quietmind machine --measure` finds out")
    return "\n".join([machine.name, "", *lines, "", *facts])


def to_json(machine: Machine) -> dict[str, Any]:
    """Return the machine as JSON-ready values, the fields of its records."""
    return asdict(machine)


def rate(bytes_per_s: float | None) -> str:
    """Return a bandwidth for a person: ``1,792 GB/s``, ``89.6 GB/s``, ``0.24 GB/s``."""
    if bytes_per_s is None:
        return UNKNOWN
    shown = bytes_per_s / 1e9
    return f"{shown:,.0f} GB/s" if shown >= 100 else f"{shown:.1f} GB/s" if shown >= 1 else f"{shown:.2f} GB/s"


def _device_row(device: Device) -> tuple[str, str, str, str, str, str]:
    notes = [device.name]
    if device.unified:
        notes.append("its memory is part of the cpu's")
    if device.measured:
        notes.append("bandwidth measured")
    flops = UNKNOWN if device.flops is None else f"{device.flops / 1e12:,.1f} TFLOPS"
    memory, free = _size(device.memory_bytes), _size(device.free_bytes)
    return device.key, memory, free, rate(device.bandwidth_bytes_per_s), flops, "; ".join(notes)


def _cores(machine: Machine) -> str:
    host = machine.host
    counts = (
        (host.usable_cores, "usable"),
        (host.physical_cores, "physical"),
        (host.logical_cores, "logical"),
    )
    shown = [f"{count} {word}" for count, word in counts if count is not None]
    if host.numa_nodes is not None:
        shown.append(f"{host.numa_nodes} NUMA node{'s' if host.numa_nodes > 1 else ''}")
    return ", ".join(shown) or UNKNOWN


def _shown_links(machine: Machine) -> list[str]:
    """Return a line for each bandwidth between each two kinds of devices: eight equal links are one line."""
    groups: dict[tuple[str, str, float | None, bool], list[str]] = {}
    for link in machine.links:
        kinds = (link.source.rstrip("0123456789"), link.target.rstrip("0123456789"))
        groups.setdefault((*kinds, link.bandwidth_bytes_per_s, link.measured), []).append(
            f"{link.source}-{link.target}"
        )
    return [
        f"link          {pairs[0]}{f' and {len(pairs) - 1} more' if len(pairs) > 1 else ''}: {rate(bandwidth)} one way"
        + (", measured" if measured else "")
        for (_, _, bandwidth, measured), pairs in groups.items()
    ]


def _sources(machine: Machine) -> list[str]:
    """Return where the numbers are from, one document a line; what stands in brackets stays together."""
    return [said.strip() for said in re.split(r";(?![^(]*\))", machine.source) if said.strip()]


def _size(count: int | None) -> str:
    return UNKNOWN if count is None else format_bytes(count)
