"""A machine with one thing changed: its memory, one more GPU, another GPU."""

from __future__ import annotations

from dataclasses import replace

from quietmind.machine.machine import Device, Link, Machine


def with_memory(machine: Machine, memory_bytes: int) -> Machine:
    """Return ``machine`` with so much main memory, as fast as now. What is in use stays in use."""
    cpu = machine.cpu
    free = None
    if cpu.free_bytes is not None and cpu.memory_bytes is not None:
        free = max(0, memory_bytes - (cpu.memory_bytes - cpu.free_bytes))
    larger = replace(cpu, memory_bytes=memory_bytes, free_bytes=free)
    devices = tuple(larger if device is cpu else device for device in machine.devices)
    return replace(machine, devices=devices)


def with_one_more_gpu(machine: Machine) -> Machine | None:
    """Return ``machine`` with its last GPU twice, None if it has none or has it built in (unified memory)."""
    if not machine.accelerators or machine.accelerators[-1].unified:
        return None
    model = machine.accelerators[-1]
    stem = model.key.rstrip("0123456789")
    key = f"{stem}{1 + max(_number(device, stem) for device in machine.accelerators)}"
    added = replace(model, key=key, free_bytes=None)  # a new card is empty
    links = [
        replace(
            link,
            source=key if link.source == model.key else link.source,
            target=key if link.target == model.key else link.target,
        )
        for link in machine.links
        if model.key in (link.source, link.target)
    ]
    return replace(machine, devices=(*machine.devices, added), links=(*machine.links, *links))


def with_gpu(machine: Machine, gpu: Device) -> Machine:
    """Return ``machine`` with ``gpu`` as its only one, on the link of the first it has now (unknown where none is)."""
    key = f"{gpu.key.rstrip('0123456789')}0"
    rate = None
    if machine.accelerators:
        link = machine.link(machine.cpu.key, machine.accelerators[0].key)
        rate = link.bandwidth_bytes_per_s if link else None
    placed = replace(gpu, key=key, free_bytes=None)
    return replace(machine, devices=(machine.cpu, placed), links=(Link(machine.cpu.key, key, rate),))


def _number(device: Device, stem: str) -> int:
    digits = device.key.removeprefix(stem)
    return int(digits) if digits.isdecimal() else 0
