"""The record of a computer. What could not be found out is None, never a guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["cpu", "cuda", "metal", "rocm"]


@dataclass(frozen=True)
class Device:
    """Something that holds weights and computes. The host's own memory is the device of kind ``cpu``.

    ``key`` names it within its machine: ``cpu``, ``cuda0``, ``cuda1``, ``metal``. ``memory_bytes`` is what the device
    could ever give us (a cgroup limit, or a driver's working-set limit, counts); ``free_bytes`` is what it would give
    now. ``bandwidth_bytes_per_s`` is what reading its memory reaches at best, ``flops`` dense half-precision
    multiplications and additions a second.
    ``unified``: its memory is the host's own, counted once, in the row of the ``cpu``.
    ``measured``: the bandwidth was measured here, and is no theoretical peak of a datasheet.
    """

    kind: DeviceKind
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    flops: float | None = None
    key: str = "cpu"
    unified: bool = False
    measured: bool = False


@dataclass(frozen=True)
class Host:
    """The computer around the devices. ``physical_cores`` excludes hyper-threads.

    ``usable_cores`` is how many threads may really run at once here: physical cores, less what CPU affinity and a
    cgroup quota withhold. ``instructions`` are those that inference engines use, by their usual names (``avx2``,
    ``avx512f``, ``amx_int8``, ``neon``).
    """

    system: str
    cpu: str
    physical_cores: int | None = None
    logical_cores: int | None = None
    usable_cores: int | None = None
    numa_nodes: int | None = None
    instructions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """A connection between two devices, by their keys. One direction's bandwidth, ``measured`` or theoretical."""

    source: str
    target: str
    bandwidth_bytes_per_s: float | None = None
    measured: bool = False


@dataclass(frozen=True)
class Disk:
    """The disk that holds the models. ``read_bytes_per_s`` for large sequential reads.

    ``assumed``: nobody said which disk it is; this is one as such a computer usually has.
    """

    path: str
    free_bytes: int | None = None
    read_bytes_per_s: float | None = None
    assumed: bool = False


@dataclass(frozen=True)
class Machine:
    """A computer. ``devices`` always holds exactly one of kind ``cpu``.

    ``source`` says where the numbers of a described one are from, and what they take for granted.
    """

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    host: Host
    disk: Disk | None = None
    source: str = ""

    @property
    def cpu(self) -> Device:
        """The host's processor and memory."""
        return next(device for device in self.devices if device.kind == "cpu")

    @property
    def accelerators(self) -> tuple[Device, ...]:
        """Every device but the host, in order."""
        return tuple(device for device in self.devices if device.kind != "cpu")

    def link(self, source: str, target: str) -> Link | None:
        """Return the link between two devices, whichever way round it was stated."""
        return next((link for link in self.links if {link.source, link.target} == {source, target}), None)
