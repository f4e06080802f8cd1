"""What a plan says: the record, the devices it uses, and the verdict of memory. Every engine's planner makes these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quietmind.machine.machine import Device, Machine
from quietmind.plan.ledger import Ledger
from quietmind.plan.place import FITS_BELOW, available
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.speed import Speed
from quietmind.plan.split import Split

Verdict = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True)
class DeviceUse:
    """What a plan does to a device. ``capacity_bytes`` and ``free_bytes`` are None where the machine does not say.

    ``pool`` is the key of the device whose memory this one shares (unified memory), None where it has its own.
    """

    device: str
    name: str
    capacity_bytes: int | None
    free_bytes: int | None
    needed_bytes: int
    pool: str | None = None


@dataclass(frozen=True)
class Plan:
    """A model on a machine. ``context`` is what the engine allocates: the asked one, padded to its step.

    ``engine`` is what people call it, ``engine_key`` its name in ``plan.engines``; ``flags`` are the words behind its
    program. An engine that shards has a ``split``, the others a ``placement``. Of several nodes the ledger shows one.

    ``companions`` are the plans of models that run beside it; the ledger, the devices and the verdict cover them too.

    ``free`` is what each device would give now, so a verdict of "tight" may become "fits" by closing programs.
    """

    model: str
    arch: str
    machine: str
    engine: str
    verdict: Verdict
    context: int
    kv_type: str
    micro_batch: int
    batch: int
    threads: int | None
    devices: tuple[DeviceUse, ...]
    ledger: Ledger
    warnings: tuple[str, ...]
    placement: Placement | None = None
    flags: tuple[str, ...] = ()
    speed: Speed | None = None
    experts_used: int = 0
    sequences: int = 1
    companions: tuple[Plan, ...] = ()
    engine_key: str = "llama.cpp"
    split: Split | None = None
    quantization: str | None = None
    native_context: int | None = None

    @property
    def attainable(self) -> Speed | None:
        """The speed; None where the model does not fit, since ``speed`` was computed as if it did."""
        return None if self.verdict == "does not fit" else self.speed

    @property
    def title(self) -> str:
        """The model with its quantization, which a name of the catalogue leaves to the plan."""
        known = self.quantization is None or self.quantization.casefold() in self.model.casefold()
        return self.model if known else f"{self.model} {self.quantization}"


def memory_verdict(machine: Machine, held: Mapping[str, int]) -> Verdict:
    """Return the verdict of the worst device, given the bytes that each is to hold by its key.

    It fits into 90% of what is free on every device; up to all that a device has, it is tight. Unknown memory is never
    enough to fit. What unified memory holds counts for the host as well, whose memory it is.
    """
    shared = sum(held.get(device.key, 0) for device in machine.accelerators if device.unified)
    return worst(
        *(
            _device_verdict(device, held[device.key] + (shared if device.kind == "cpu" else 0))
            for device in machine.devices
            if device.key in held
        )
    )


def worst(*verdicts: Verdict) -> Verdict:
    """Return the worst of some verdicts, "fits" if there are none."""
    ranked: tuple[Verdict, ...] = ("does not fit", "tight")
    return next((verdict for verdict in ranked if verdict in verdicts), "fits")


def _device_verdict(device: Device, needed: int) -> Verdict:
    if device.memory_bytes is not None and needed > device.memory_bytes:
        return "does not fit"
    free = available(device)
    return "fits" if free is not None and needed <= FITS_BELOW * free else "tight"


def device_uses(machine: Machine, held: Mapping[str, int]) -> tuple[DeviceUse, ...]:
    """Return the use of every device that holds something: the host, accelerators in order, the disk."""
    devices = (machine.cpu, *(device for device in machine.accelerators if device.key in held))
    return (
        *(
            DeviceUse(
                device=device.key,
                name=device.name,
                capacity_bytes=device.memory_bytes,
                free_bytes=device.free_bytes,
                needed_bytes=held[device.key],
                pool="cpu" if device.unified else None,
            )
            for device in devices
        ),
        *((DeviceUse(DISK, "disk", None, None, held[DISK]),) if DISK in held else ()),
    )
