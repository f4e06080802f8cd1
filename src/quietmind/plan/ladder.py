"""What to ask for after memory ran out: the next smaller run, one change at a time.

A plan is right to the byte and can still fail: other programs take memory between the plan and the run, and drivers
take more than they say. The rungs go from what costs least to what costs most: prefill speed (micro-batch), next to
nothing (an 8-bit KV cache), decode speed (experts on the host), a little quality (a 4-bit KV cache), and last what can
be read at once (the context).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from quietmind.base.errors import QuietmindError
from quietmind.base.units import format_bytes
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import Ask
from quietmind.plan.engines import ENGINES
from quietmind.plan.plan import Plan, plan

# Where memory ran out: in an accelerator's memory, in the host's, or somewhere (None).
Side = Literal["accelerator", "host"]

LEAST_MICRO_BATCH = 64
LEAST_CONTEXT = 2048

# A rung must free this share of what the run holds where memory ran out: less would only fail again.
LEAST_FREED = 1 / 200

# So many of the layers' experts move to the host with one rung.
_EXPERT_STEP = 1 / 8

_EIGHT_BITS = {"f32": "q8_0", "f16": "q8_0", "bf16": "q8_0"}
_EIGHT_BITS_SHARDED = {"f16": "fp8", "bf16": "fp8"}
_FOUR_BITS = {"q8_0": "q4_0", "q5_1": "q4_0", "q5_0": "q4_0"}


@dataclass(frozen=True)
class Rung:
    """The next smaller run: what is asked of it, the one change in words, and the bytes that it frees."""

    ask: Ask
    change: str
    freed: int


def next_rung(machine: Machine, card: ModelCard, ask: Ask, planned: Plan, side: Side | None = None) -> Rung | None:
    """Return the mildest change of ``ask`` that frees memory on ``side``; None where there is none left.

    ``planned`` is the plan of ``ask``, which ran out of memory.
    """
    held = _held(machine, planned, side)
    ask = replace(ask, context=planned.context)  # one that was left to the plan would only grow again
    if ENGINES[ask.engine].placing == "offload":
        ask = replace(ask, micro_batch=planned.micro_batch, batch=planned.batch)  # and so would these
    if side != "host":  # where the host ran out, what is freed on a card may take over what the host held
        ask = _pinned(machine, ask, planned)
    for smaller, change in _candidates(machine, ask, planned):
        try:
            found = plan(machine, card, smaller)
        except QuietmindError:  # an engine without this KV type, a batch that makes no sense
            continue
        freed = held - _held(machine, found, side)
        if freed >= LEAST_FREED * held and (found.verdict != "does not fit" or planned.verdict == "does not fit"):
            return Rung(smaller, f"{change}, which frees {format_bytes(freed)}", freed)
    return None


def _candidates(machine: Machine, ask: Ask, planned: Plan) -> Iterator[tuple[Ask, str]]:
    micro_batch = planned.micro_batch // 2
    if micro_batch >= LEAST_MICRO_BATCH:
        yield (
            replace(ask, micro_batch=micro_batch, batch=max(micro_batch, min(ask.batch, planned.batch))),
            f"micro-batch {micro_batch} in place of {planned.micro_batch}",
        )
    yield from _with_kv(ask, planned, _EIGHT_BITS_SHARDED if planned.split else _EIGHT_BITS)
    yield from _with_experts_on_host(machine, ask, planned)
    yield from _with_kv(ask, planned, _FOUR_BITS)
    context = planned.context // 2
    if context >= LEAST_CONTEXT:
        yield replace(ask, context=context), f"context {context:,} in place of {planned.context:,}"


def _with_kv(ask: Ask, planned: Plan, smaller: dict[str, str]) -> Iterator[tuple[Ask, str]]:
    kind = smaller.get(planned.kv_type)
    if kind is not None and (kind in ENGINES[ask.engine].kv_types or planned.split) and ask.flash_attention:
        yield replace(ask, kv_type=kind), f"KV type {kind} in place of {planned.kv_type}"


def _with_experts_on_host(machine: Machine, ask: Ask, planned: Plan) -> Iterator[tuple[Ask, str]]:
    if ask.cpu_experts is None or planned.placement is None:
        return
    own = _own_memory(machine)
    with_experts = [layer for layer, key in enumerate(planned.placement.experts) if key]
    left = sum(planned.placement.experts[layer] in own for layer in with_experts)
    step = min(left, max(1, round(_EXPERT_STEP * len(with_experts))))
    if step:
        layers = _prefix(with_experts, len(with_experts) - left + step)
        yield replace(ask, cpu_experts=layers), f"the experts of {step} more layers on the host"


def _pinned(machine: Machine, ask: Ask, planned: Plan) -> Ask:
    """Return ``ask`` with all that was left to the plan held fast: what one change frees must not be filled again."""
    placement, own = planned.placement, _own_memory(machine)
    if placement is None or ENGINES[ask.engine].placing != "offload" or not own.intersection(placement.devices):
        return ask
    with_experts = [layer for layer, key in enumerate(placement.experts) if key]
    on_host = sum(placement.experts[layer] not in own for layer in with_experts)
    return replace(
        ask,
        gpu_layers=sum(key in own for key in (*placement.dense, placement.output)),
        cpu_experts=_prefix(with_experts, on_host) if with_experts else None,
    )


def _prefix(with_experts: Sequence[int], count: int) -> int:
    """Return how many layers, from the first, hold ``count`` of those with experts: the engine counts like this."""
    return with_experts[count - 1] + 1 if count else 0


def _own_memory(machine: Machine) -> set[str]:
    return {device.key for device in machine.accelerators if not device.unified}


def _held(machine: Machine, planned: Plan, side: Side | None) -> int:
    """Return the bytes that a plan holds on one side; on both where the side is not known."""
    accelerators = {device.key for device in machine.accelerators}
    return sum(
        use.needed_bytes
        for use in planned.devices
        if side is None or (use.device in accelerators) == (side == "accelerator")
    )
