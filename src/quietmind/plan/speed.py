"""How fast a placement runs: a roofline over the bytes and operations of each device, as intervals.

The layers of a model run one after another, wherever they live, so the time of a token is the sum over devices of what
each reads and multiplies there; on one device the slower of the two counts. Where the machine does not say a number, it
is assumed in a wider interval, and ``Speed.basis`` says so. Without the bandwidth of a device there is no prediction:
then what this very run showed before is all that is known, if it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from quietmind.base.units import format_bytes
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan import roofline
from quietmind.plan.interval import Interval
from quietmind.plan.measured import Measurement, What, corrected, correction, machine_id, run_id, seen
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.traffic import HOST, Part, Traffic, prefill_traffic, traffic
from quietmind.plan.waits import Wait, longest, over, rate, slower, times

SLIGHT = 0.01  # norms, a hundredth of a layer's bytes at most, do not decide how its matrices are multiplied


@dataclass(frozen=True)
class Speed:
    """Tokens a second with ``depth`` tokens already in the context. ``limit`` names what decoding waits for.

    ``basis`` lists what was assumed because the machine does not say it, and which measurements corrected the result.
    Without a known bandwidth a speed that was not measured is None, and ``limit`` is empty.
    """

    depth: int
    prefill: Interval | None
    decode: Interval | None
    limit: str
    basis: tuple[str, ...] = ()


def predict(  # noqa: PLR0913 - the settings of a run, each given by its name
    machine: Machine,
    card: ModelCard,
    placement: Placement,
    *,
    kv_type: str,
    micro_batch: int,
    depth: int,
    experts_used: int | None = None,
    threads: int | None = None,
    measured: Sequence[Measurement] = (),
    engine: roofline.Engine = "llama.cpp",
) -> Speed | None:
    """Return how fast ``card`` runs on ``machine`` with ``depth`` tokens in its cache; ``placement`` says where.

    ``measured`` may hold any runs: those of this machine correct the prediction. When the bandwidth of a device that
    holds something is not known, the runs with these settings are all there is; None without them. ``threads`` None:
    one for each core that may be used. Raises UsageError for an unknown KV type or more experts than there are.
    """
    run = run_id(
        machine,
        card,
        placement,
        kv_type=kv_type,
        micro_batch=micro_batch,
        experts_used=experts_used,
        threads=threads,
    )
    roof = _Roof(machine, threads, engine)
    if not roof.knows(filter(None, (*placement.dense, *placement.experts, *placement.kv, placement.output))):
        return _measured_alone(measured, run, depth)

    def decode_at(at: int) -> list[Wait]:
        return roof.decode(traffic(card, placement, kv_type=kv_type, depth=at, experts_used=experts_used))

    def prefill_at(at: int) -> list[Wait]:
        work = prefill_traffic(
            card,
            placement,
            kv_type=kv_type,
            depth=at,
            micro_batch=micro_batch,
            experts_used=experts_used,
            uploads=engine not in roofline.IK,
        )
        return roof.prefill(work, micro_batch)

    decoding = decode_at(depth)
    decode, prefill = rate(decoding, 1), rate(prefill_at(depth), micro_batch)
    notes = list(roof.assumed)
    if measured:
        correct = _Correction(measured, run, machine_id(machine), depth, notes)
        decode = correct("decode", decode, lambda at: rate(decode_at(at), 1).mid)
        prefill = correct("prefill", prefill, lambda at: rate(prefill_at(at), micro_batch).mid)
    return Speed(depth, prefill, decode, longest(decoding), tuple(dict.fromkeys(notes)))


def _measured_alone(measured: Sequence[Measurement], run: str, depth: int) -> Speed | None:
    """Return what the same run showed before, where nothing can be predicted; None if it was never measured."""
    prefill, decode = seen(measured, "prefill", run, depth), seen(measured, "decode", run, depth)
    if prefill is None and decode is None:
        return None
    return Speed(
        depth,
        prefill[0] if prefill else None,
        decode[0] if decode else None,
        "",
        tuple(found[1] for found in (prefill, decode) if found),
    )


@dataclass(frozen=True)
class _Correction:
    """Applies measurements to a prediction and notes that it did."""

    measured: Sequence[Measurement]
    run: str
    machine: str
    depth: int
    notes: list[str]

    def __call__(self, what: What, prediction: Interval, predict_at: Callable[[int], float]) -> Interval:
        factor, off, why = correction(self.measured, what, self.run, self.machine, self.depth, predict_at)
        if why:
            self.notes.append(why)
        return corrected(prediction, factor, off)


def _joined(intervals: Iterable[Interval]) -> Interval:
    low = mid = high = 0.0
    for interval in intervals:
        low, mid, high = low + interval.low, mid + interval.mid, high + interval.high
    return Interval(low, mid, high)


@dataclass
class _Roof:
    """The rates of a machine: what is stated, times the share of it that is reached."""

    machine: Machine
    threads: int | None
    engine: roofline.Engine
    assumed: list[str] = field(default_factory=list)

    def knows(self, keys: Iterable[str]) -> bool:
        """Say whether the bandwidth of every one of these devices is known."""
        return all(self._bandwidth(key) is not None for key in keys)

    def decode(self, work: Mapping[str, Traffic]) -> list[Wait]:
        """Return what one token waits for."""
        return self._time(work, None)

    def prefill(self, work: Mapping[str, Traffic], tokens: int) -> list[Wait]:
        """Return what one micro-batch of ``tokens`` waits for."""
        return self._time(work, tokens)

    def _time(self, work: Mapping[str, Traffic], tokens: int | None) -> list[Wait]:
        """``tokens`` are prefilled at once, None: one is decoded."""
        split = any(done.handovers for done in work.values())
        return [wait for key, done in work.items() for wait in self._device_waits(key, done, tokens, split=split)]

    def _device_waits(self, key: str, done: Traffic, tokens: int | None, *, split: bool) -> Iterator[Wait]:
        for component in dict.fromkeys(part.component for part in done.parts):
            if component == "embedding" and self._bandwidth(key) is None:
                continue  # a row of some kilobytes
            parts = [part for part in done.parts if part.component == component and (part.bytes or part.products)]
            if parts:
                yield self._part(key, parts, prefill=tokens is not None)
        yield from self._waits(key, done, tokens, split=split)
        if done.uploaded_bytes:
            size = format_bytes(int(done.uploaded_bytes))
            what = f"the link to {key}: {size} of weights a micro-batch"
            yield Wait(what, f"link {key}", over(done.uploaded_bytes, self._link(key)))

    def _part(self, key: str, parts: Sequence[Part], *, prefill: bool) -> Wait:
        """Return the wait for one component on one device: for memory or for arithmetic, whichever is slower."""
        component = parts[0].component
        size = sum(part.bytes for part in parts)
        reading = over(size, self._reading(key, component))
        if key == DISK:
            return Wait(f"disk: {format_bytes(int(size))} of {component}", "disk", reading)
        multiplying = _joined(over(part.products, self._multiplying(key, part, prefill=prefill)) for part in parts)
        place = "host" if key == HOST else key
        if multiplying.mid > reading.mid:
            types = ", ".join(dict.fromkeys(part.type for part in parts if part.products))
            what, source = f"{place} arithmetic: {component} in {types}", f"{place} arithmetic {component == 'kv'}"
        else:
            what = f"{place} memory: {format_bytes(int(size))} of {component} a token"
            source = f"{place} memory {component == 'kv'}"
        heavy = [part.type for part in parts if part.bytes > SLIGHT * size]
        apart = prefill and key != HOST and roofline.adds_up(component, heavy, self.engine)
        return Wait(what, source, _joined((reading, multiplying)) if apart else slower(reading, multiplying))

    def _waits(self, key: str, done: Traffic, tokens: int | None, *, split: bool) -> list[Wait]:
        layer, mixture, recurrent = self._starting(key, tokens, split=split)
        waits = []
        if done.layers:
            start = _joined((times(layer, done.layers), times(mixture, done.mixtures)))
            waits.append(Wait(f"{key}: starting {done.layers} layers", f"start {key}", start))
        if done.recurrent:
            what = f"{key}: the recurrent states of {done.recurrent} layers"
            waits.append(Wait(what, f"recurrent {key}", times(recurrent, done.recurrent)))
        if done.handovers:
            what = f"handing {done.handovers} layers over to {key} and back"
            waits.append(Wait(what, "handover", times(roofline.HANDOVER_S, done.handovers)))
            waits.append(Wait(what, "handover", times(layer, done.handovers * roofline.EXPERTS_OF_LAYER)))
        if done.uploaded_bytes and done.layers:
            what = f"bringing {done.layers} layers to {key}"
            waits.append(Wait(what, "handover", times(roofline.UPLOAD_LAYER_S, done.layers)))
        return waits

    def _starting(self, key: str, tokens: int | None, *, split: bool) -> tuple[Interval, Interval, Interval]:
        """Return the seconds that a layer takes to start on a device, its experts, and its recurrent state."""
        if key in (HOST, DISK):
            layer = roofline.product(roofline.HOST_LAYER_CORE_S, self._cores())
            once, each = roofline.HOST_RECURRENT_S, roofline.HOST_RECURRENT_TOKEN_S
            mixture = Interval(0.0, 0.0, 0.0)
        else:
            rates = roofline.GPU_RATES[self._device(key).kind]
            layer, mixture, once, each = rates.layer_s, rates.mixture_s, rates.recurrent_s, rates.recurrent_token_s
            if split and self._device(key).kind != "metal":
                layer = roofline.SPLIT_LAYER_S
        return layer, mixture, once if tokens is None else times(each, tokens)

    def _device(self, key: str) -> Device:
        return next(device for device in self.machine.devices if device.key == key)

    def _bandwidth(self, key: str) -> float | None:
        if key == DISK:
            return self.machine.disk.read_bytes_per_s if self.machine.disk else None
        return next((d.bandwidth_bytes_per_s for d in self.machine.devices if d.key == key), None)

    def _reading(self, key: str, component: str) -> Interval:
        """Return the bytes a second that ``component`` is read with from ``key``, whose bandwidth is known."""
        stated = self._bandwidth(key)
        assert stated is not None, "predict() has asked knows()"
        if key == DISK:
            return times(roofline.DISK_READING, stated)
        if key == HOST:
            host = self.machine.host
            share = roofline.host_reading(host.cpu, host.numa_nodes or 1, measured=self.machine.cpu.measured)
            return _least(times(share, stated), times(roofline.CORE_READING, self._cores().high))
        device = self._device(key)
        return times(roofline.gpu_reading(device.kind, device.name, component), stated)

    def _multiplying(self, key: str, part: Part, *, prefill: bool) -> Interval:
        """Return multiplications with addition a second."""
        if key == HOST:
            cores = self._cores()
            each = roofline.host_rate(
                part.type,
                part.component,
                prefill=prefill,
                rows=part.rows,
                instructions=self.machine.host.instructions,
                processor=self.machine.host.cpu,
                engine=self.engine,
            )
            if not prefill:
                return roofline.product(each, cores)
            return times(roofline.product(each, cores), 1 / (1 + cores.mid / roofline.SCALING_CORES))
        device = self._device(key)
        share = roofline.gpu_share(
            device.name, part.component, part.rows, device.kind, part.head, part.type, self.engine
        )
        if device.flops is not None:
            return times(share, device.flops / 2)
        self._assume(f"the flops of {device.name}: from its bandwidth")
        guess = times(roofline.GPU_RATES[device.kind].flops_per_byte, (device.bandwidth_bytes_per_s or 0.0) / 2)
        return roofline.product(share, guess)

    def _link(self, key: str) -> Interval:
        link = self.machine.link(HOST, key)
        if link is not None and link.bandwidth_bytes_per_s is not None:
            return times(roofline.UPLOADING, link.bandwidth_bytes_per_s)
        self._assume(f"the link to {key}: PCIe 3 to 5, 16 lanes")
        return roofline.ASSUMED_LINK

    def _cores(self) -> Interval:
        """Return how many cores compute. Where the machine does not say, as many as its memory is worth."""
        host = self.machine.host
        known = host.usable_cores or host.physical_cores
        if known is not None:
            busy = min(self.threads, known) if self.threads else known
            return Interval(busy, busy, busy)
        if self.threads:
            return Interval(self.threads, self.threads, self.threads)
        self._assume("the host's cores: from its bandwidth")
        stated = self._bandwidth(HOST) or 0.0
        return over(stated, roofline.BANDWIDTH_OF_CORE)

    def _assume(self, what: str) -> None:
        self.assumed.append(f"assumed: {what}")


def _least(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), min(one.mid, other.mid), min(one.high, other.high))
