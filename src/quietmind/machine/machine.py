"""The record of a computer. What could not be found out is None, never a guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["cpu", "cuda", "metal", "rocm"]


@dataclass(frozen=True)
class Device:
    """Something that holds weights and computes. The host's own memory is the device of kind ``cpu``.

    ``memory_bytes`` is what the device could ever give us (a cgroup limit counts); ``free_bytes`` is what it
    would give now.
    """

    kind: DeviceKind
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Host:
    """The computer around the devices. ``physical_cores`` excludes hyper-threads.

    ``usable_cores`` is how many threads may really run at once here: physical cores, less what CPU affinity and a
    cgroup quota withhold.
    """

    system: str
    cpu: str
    physical_cores: int | None = None
    logical_cores: int | None = None
    usable_cores: int | None = None


@dataclass(frozen=True)
class Link:
    """A connection between two devices, by their names."""

    source: str
    target: str
    bandwidth_bytes_per_s: float | None = None


@dataclass(frozen=True)
class Machine:
    """A computer. ``devices`` always holds exactly one of kind ``cpu``."""

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    host: Host

    @property
    def cpu(self) -> Device:
        """The host's processor and memory."""
        return next(device for device in self.devices if device.kind == "cpu")
