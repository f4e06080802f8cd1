"""What was measured on a machine, kept as a small JSON file and merged into what the probe finds there again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quietmind.base.errors import UsageError
from quietmind.base.files import write_whole
from quietmind.base.paths import measured_machines_file, shown_path
from quietmind.base.units import GIB
from quietmind.machine.machine import Device, Link, Machine

_VERSION = 1
UNDISTURBED = 0.9  # the share of the processor below which a measurement says more of other programs
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What was measured, in bytes a second. None: it could not be. ``links`` are from the cpu to a device.

    ``cpu_share`` is the share of the time in which the reading threads had the processor: well below 1, other programs
    were busy, and memory is faster than it seemed. It is not remembered.
    """

    ram_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None
    links: tuple[Link, ...] = ()
    cpu_share: float | None = None


def fingerprint(machine: Machine) -> str:
    """Return what a measurement holds for: the same processor, cores, amount of memory and GPUs.

    The name is left out: containers are given a new one at every start, and folders are shared between machines.
    """
    cpu, host = machine.cpu, machine.host
    parts = [
        host.system,
        host.cpu,
        host.logical_cores,
        host.usable_cores,
        host.numa_nodes,
        round((cpu.memory_bytes or 0) / GIB),  # the kernel's own share changes with its version
        [(device.key, device.name) for device in machine.accelerators],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def remember(machine: Machine, measured: Measured, file: Path | None = None) -> None:
    """Keep ``measured`` for ``machine``; what was not measured this time stays as it was.

    What was measured beside busy programs does not replace a better value: it is a lower bound, no more.

    Raises UsageError when the file cannot be written.
    """
    file = file or measured_machines_file()
    entries = _entries(file)
    entry: dict[str, Any] = dict(entries.get(fingerprint(machine), {}))
    entry["cpu"] = machine.cpu.name  # for the person who opens the file
    entry["measured_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    disturbed = measured.cpu_share is not None and measured.cpu_share < UNDISTURBED
    if measured.ram_bytes_per_s is not None:
        before = _numbers(entry).get("ram_bytes_per_s", 0.0) if disturbed else 0.0
        entry["ram_bytes_per_s"] = round(max(before, measured.ram_bytes_per_s))
    if measured.disk_bytes_per_s is not None and machine.disk is not None:
        disks = _numbers(entry.get("disks_bytes_per_s"))
        mount = _mount(machine.disk.path)
        before = disks.get(mount, 0.0) if disturbed else 0.0
        entry["disks_bytes_per_s"] = disks | {mount: round(max(before, measured.disk_bytes_per_s))}
    if measured.links:
        links = {link.target: round(link.bandwidth_bytes_per_s or 0) for link in measured.links}
        entry["links_bytes_per_s"] = _numbers(entry.get("links_bytes_per_s")) | links
    entries[fingerprint(machine)] = entry
    content = json.dumps({"version": _VERSION, "machines": entries}, ensure_ascii=False, indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content.encode())
    except OSError as error:
        raise UsageError(
            f"{shown_path(file)}: cannot be written: {error.strerror}; what was measured is not remembered"
        ) from error


def remembered(machine: Machine, file: Path | None = None) -> Machine:
    """Return ``machine`` with what was measured on it before. A damaged file is ignored, with a line in the log."""
    entry = _entries(file or measured_machines_file()).get(fingerprint(machine), {})
    return merged(machine, _measured(entry, machine))


def merged(machine: Machine, measured: Measured) -> Machine:
    """Return ``machine`` with what was measured in place of what datasheets say."""
    found = {(link.source, link.target): link for link in measured.links}
    disk = machine.disk
    if disk is not None and measured.disk_bytes_per_s is not None:
        disk = replace(disk, read_bytes_per_s=measured.disk_bytes_per_s)
    return replace(
        machine,
        devices=tuple(_with_ram(device, measured.ram_bytes_per_s) for device in machine.devices),
        links=tuple(found.get((link.source, link.target), link) for link in machine.links),
        disk=disk,
    )


def _with_ram(device: Device, ram: float | None) -> Device:
    """Return the cpu with what its cores reached. A GPU that shares the memory may reach more, and stays as it is."""
    if device.kind != "cpu" or ram is None:
        return device
    return replace(device, bandwidth_bytes_per_s=ram, measured=True)


def _measured(entry: dict[str, Any], machine: Machine) -> Measured:
    links = _numbers(entry.get("links_bytes_per_s"))
    disks = _numbers(entry.get("disks_bytes_per_s"))
    return Measured(
        ram_bytes_per_s=_numbers(entry).get("ram_bytes_per_s"),
        disk_bytes_per_s=disks.get(_mount(machine.disk.path)) if machine.disk is not None else None,
        links=tuple(Link("cpu", key, value, measured=True) for key, value in links.items()),
    )


def _numbers(table: object) -> dict[str, float]:
    """Return the entries of ``table`` that are positive numbers; whatever else stands there is no measurement."""
    if not isinstance(table, dict):
        return {}
    return {
        str(key): value
        for key, value in table.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    }


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    """Return what is remembered, by fingerprint; nothing from a file that is damaged or newer than this program."""
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        _log.warning("%s: cannot be read (%s); what was measured before is ignored", shown_path(file), error.strerror)
        return {}
    except (ValueError, RecursionError):
        document = None
    machines = document.get("machines") if isinstance(document, dict) and document.get("version") == _VERSION else None
    if not isinstance(machines, dict) or not all(isinstance(entry, dict) for entry in machines.values()):
        _log.warning(
            "%s: damaged, or of another version; it is ignored, `quietmind machine --measure` writes it anew",
            shown_path(file),
        )
        return {}
    return machines


def _mount(path: str) -> str:
    """Return where the disk that holds ``path`` is mounted: the same name whether or not the folder exists yet."""
    place = Path(path).absolute()
    while place != place.parent and not place.is_mount():
        place = place.parent
    return str(place)
