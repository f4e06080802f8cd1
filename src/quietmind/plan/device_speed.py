"""How fast transformers runs a model that Accelerate has laid out. Nothing of it was measured, as ``basis`` says."""

from __future__ import annotations

from collections.abc import Iterator

from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan import roofline
from quietmind.plan.interval import Interval
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.speed import Speed
from quietmind.plan.traffic import HOST, Part, Traffic, prefill_traffic, traffic
from quietmind.plan.waits import Wait, longest, over, rate, slower, times

# A layer in PyTorch without CUDA graphs: 40 to 80 kernels of 4 to 8 microseconds each, and Python between them.
EAGER_LAYER_S = Interval(200e-6, 500e-6, 1500e-6)
_ASSUMED_LINK = Interval(10e9, 25e9, 55e9)
_BASIS = "assumed: llama.cpp's shares of bandwidth and flops, and PyTorch's time a layer; no run was measured"


def mapped_speed(
    machine: Machine, card: ModelCard, placement: Placement, depth: int, chunk: int, threads: int | None
) -> Speed | None:
    """Return the speed with ``depth`` tokens in the cache, ``chunk`` of a prompt at once; None without bandwidths."""
    decode = traffic(card, placement, kv_type="bf16", depth=depth)
    prefill = prefill_traffic(card, placement, kv_type="bf16", depth=depth, micro_batch=chunk, uploads=False)
    roof = _Roof(machine, card, placement, threads)
    if not roof.known:
        return None
    waits = [wait for key, done in decode.items() for wait in roof.waits(key, done, prefill=False)]
    slower_waits = [wait for key, done in prefill.items() for wait in roof.waits(key, done, prefill=True)]
    return Speed(depth, rate(slower_waits, chunk), rate(waits, 1), longest(waits), (_BASIS,))


class _Roof:
    """The rates of the devices that hold something."""

    def __init__(self, machine: Machine, card: ModelCard, placement: Placement, threads: int | None) -> None:
        self._machine = machine
        self._card = card
        self._placement = placement
        host = machine.host
        self._cores = threads or host.usable_cores or host.physical_cores or 1
        self._first = next((device for device in machine.accelerators if device.key == placement.output), machine.cpu)

    @property
    def known(self) -> bool:
        """Whether every bandwidth is known that a prediction needs."""
        disk = self._machine.disk.read_bytes_per_s if self._machine.disk else None
        devices = {device.key: device.bandwidth_bytes_per_s for device in self._machine.devices} | {DISK: disk}
        return all(devices.get(key) is not None for key in self._placement.devices)

    def waits(self, key: str, done: Traffic, *, prefill: bool) -> Iterator[Wait]:
        """Yield what one pass waits for on a device."""
        moved = self._first.key != HOST and key in (HOST, DISK)
        for part in done.parts:
            if part.component == "embedding" or not (part.bytes or part.products):
                continue
            size = part.bytes
            if moved and part.component == "experts":  # a layer comes whole
                size = self._whole_experts(key)
            computed = self._first if moved else self._device(key)
            reading = over(size, self._reading(key, part.component, moved=moved))
            multiplying = over(part.products, self._multiplying(computed, part, prefill=prefill))
            what = f"bringing layers from {key}" if moved else f"{key}: {part.component}"
            yield Wait(what, f"{key} {part.component == 'kv'}", slower(reading, multiplying))
        if done.layers:
            yield Wait("PyTorch between kernels", "eager", times(EAGER_LAYER_S, done.layers))

    def _whole_experts(self, key: str) -> float:
        layers = {layer for layer, home in enumerate(self._placement.experts) if home == key}
        return float(
            sum(
                tensor.bytes
                for tensor in self._card.tensors
                if "_exps" in tensor.name and int(tensor.name.split(".")[1]) in layers
            )
        )

    def _device(self, key: str) -> Device:
        return next((device for device in self._machine.devices if device.key == key), self._machine.cpu)

    def _reading(self, key: str, component: str, *, moved: bool) -> Interval:
        disk = self._machine.disk.read_bytes_per_s if self._machine.disk else None
        if key == DISK:
            return times(roofline.DISK_READING, disk or 0.0)
        if moved:
            link = self._machine.link(HOST, self._first.key)
            stated = link.bandwidth_bytes_per_s if link else None
            return times(roofline.UPLOADING, stated) if stated else _ASSUMED_LINK
        bandwidth = self._device(key).bandwidth_bytes_per_s or 0.0
        if key == HOST:
            return times(roofline.HOST_READING, bandwidth)
        return times(roofline.GPU_CACHE_READING if component == "kv" else roofline.GPU_READING, bandwidth)

    def _multiplying(self, device: Device, part: Part, *, prefill: bool) -> Interval:
        if device.key == HOST:
            instructions = self._machine.host.instructions
            each = roofline.host_rate(
                part.type, part.component, prefill=prefill, rows=part.rows, instructions=instructions
            )
            return times(each, self._cores)
        share = roofline.gpu_share(device.name, part.component)
        if device.flops is not None:
            return times(share, device.flops / 2)
        guess = times(roofline.FLOPS_PER_BYTE, (device.bandwidth_bytes_per_s or 0.0) / 2)
        return Interval(share.low * guess.low, share.mid * guess.mid, share.high * guess.high)
