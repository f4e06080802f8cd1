"""What real runs showed, and how it corrects the next prediction. Pure: reading and writing is the workspace's part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, log2
from typing import Literal

from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.interval import Interval
from quietmind.plan.placement import Placement

What = Literal["decode", "prefill", "resident"]

# A measurement at the same depth holds within a tenth: other programs, heat, which text it was.
NOISE = 0.10
# And by so much less for each doubling of the distance in depth.
NOISE_PER_DOUBLING = 0.05
# Depths are told apart from here on: between 0 and 500 tokens nothing changes.
NEARBY_TOKENS = 1000
# How much of the correction found with other models or settings holds for this one (in the logarithm).
TRANSFER = 0.5
# Without a prediction nothing says how a speed falls with depth: further out a measurement holds by so much less.
ALONE_PER_DOUBLING = 0.25


@dataclass(frozen=True)
class Measurement:
    """A value that a real run showed. ``plan_id`` names machine, weights and settings: see :func:`run_id`.

    ``value`` is in ``unit``: "tok/s" for prefill and decode at ``depth`` tokens, "B" for resident. ``when`` is ISO 8601
    in UTC. ``predicted`` is what the uncorrected prediction said then, in the same unit.
    """

    plan_id: str
    what: What
    value: float
    unit: str
    when: str
    machine: str = ""
    depth: int = 0
    predicted: float | None = None


def machine_id(machine: Machine) -> str:
    """Return the fingerprint of what decides a machine's speed: processor, cores, memory sizes, accelerators."""
    host = machine.host
    facts: list[object] = [host.system, host.cpu, host.physical_cores, sorted(host.instructions)]
    facts += [(device.kind, device.name, _gibibytes(device.memory_bytes)) for device in machine.devices]
    return _digest(facts)


def run_id(
    machine: Machine,
    card: ModelCard,
    placement: Placement,
    *,
    kv_type: str,
    micro_batch: int,
    experts_used: int | None = None,
    threads: int | None = None,
) -> str:
    """Return the fingerprint of a run: machine, weights, placement and settings. Runs of one identity are comparable.

    Weights are told apart by their shape and types, not by their values, which cost no time.
    """
    weights = [card.arch, card.layers, card.hidden, card.parameters, card.weight_bytes, card.experts, card.quantization]
    used = card.experts_used if experts_used is None else experts_used
    cores = machine.host.usable_cores or machine.host.physical_cores
    return _digest(
        [
            machine_id(machine),
            weights,
            placement.devices,
            _counts(placement),
            kv_type,
            micro_batch,
            used,
            threads or cores,
        ]
    )


def correction(
    measured: Sequence[Measurement], what: What, run: str, machine: str, depth: int, predict: Callable[[int], float]
) -> tuple[float, float | None, str]:
    """Return what to multiply a prediction of ``what`` at ``depth`` with, how far it may then be off, and why.

    ``predict`` gives the uncorrected prediction of this run at a depth. Measurements of the same run fix the level:
    nearer depths weigh more, and the second value is the share by which the result may still be off. Those of other
    runs on the same machine only shift it, and the second value is None. (1, None, "") when there are none.
    """
    own = [m for m in measured if m.what == what and m.plan_id == run and m.value > 0 and predict(m.depth) > 0]
    if own:
        ratios = [log(m.value / predict(m.depth)) for m in own]
        distances = [_doublings(depth, m.depth) for m in own]
        weights = [4.0**-distance for distance in distances]
        mean = sum(r * w for r, w in zip(ratios, weights, strict=True)) / sum(weights)
        spread = sum(abs(r - mean) * w for r, w in zip(ratios, weights, strict=True)) / sum(weights)
        off = NOISE + NOISE_PER_DOUBLING * min(distances) + spread
        return exp(mean), off, f"{what} corrected by {len(own)} measured on this machine with these settings"
    others = [m for m in measured if m.what == what and m.machine == machine and m.predicted and m.value > 0]
    if others:
        mean = sum(log(m.value / (m.predicted or m.value)) for m in others) / len(others)
        return exp(TRANSFER * mean), None, f"{what} shifted by {len(others)} measured on this machine with other models"
    return 1.0, None, ""


def corrected(prediction: Interval, factor: float, off: float | None) -> Interval:
    """Return ``prediction`` times ``factor``; within ``off`` as a share, where that is narrower than it was."""
    low, mid, high = prediction.low * factor, prediction.mid * factor, prediction.high * factor
    if off is not None:
        low, high = max(low, mid / (1 + off)), min(high, mid * (1 + off))
    return Interval(low, mid, high)


def seen(measured: Sequence[Measurement], what: What, run: str, depth: int) -> tuple[Interval, str] | None:
    """Return what this very run showed of ``what``, brought to ``depth`` without any prediction, and a note of it.

    Seconds a token grow with the depth in a straight line (attention reads the whole cache), so between two depths they
    are interpolated, and past the deepest continued; a single depth stays as it is. The further from what was measured,
    the wider the interval. None where nothing of this run was measured.
    """
    runs: dict[int, list[float]] = {}
    for m in measured:
        if m.what == what and m.plan_id == run and m.value > 0:
            runs.setdefault(m.depth, []).append(m.value)
    if not runs:
        return None
    seconds = {at: sum(1 / value for value in values) / len(values) for at, values in sorted(runs.items())}
    rate = 1 / _continued(seconds, depth)
    off = NOISE + ALONE_PER_DOUBLING * min(_doublings(depth, at) for at in seconds)
    count, depths = sum(map(len, runs.values())), " and ".join(f"{at:,}" for at in sorted({min(runs), max(runs)}))
    note = (
        f"{what} measured, not predicted: {count} run{'s' if count > 1 else ''} with these settings at {depths} tokens"
    )
    return Interval(rate / (1 + off), rate, rate * (1 + off)), note


def _continued(seconds: Mapping[int, float], depth: int) -> float:
    """Return the value at ``depth`` of the line through the two nearest depths; outside it never falls below them."""
    shallow = max((at for at in seconds if at <= depth), default=min(seconds))
    deep = min((at for at in seconds if at > shallow), default=shallow)
    if shallow == deep:  # at or past the deepest: the line of the last two goes on
        shallow = max((at for at in seconds if at < deep), default=deep)
    if shallow == deep or depth < shallow:
        return seconds[shallow]
    line = seconds[shallow] + (seconds[deep] - seconds[shallow]) * (depth - shallow) / (deep - shallow)
    return line if depth <= deep else max(line, seconds[deep])


def _doublings(depth: int, other: int) -> float:
    return abs(log2((depth + NEARBY_TOKENS) / (other + NEARBY_TOKENS)))


def _gibibytes(size: int | None) -> int | None:
    return None if size is None else size >> 30


def _counts(placement: Placement) -> list[tuple[str, int, int, int]]:
    return [
        (key, placement.dense.count(key), placement.experts.count(key), placement.kv.count(key))
        for key in placement.devices
    ]


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
