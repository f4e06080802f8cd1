"""What to ask for after memory ran out: the next smaller run, one change at a time.

A plan is right to the byte and can still fail: other programs take memory between the plan and the run, and drivers
take more than they say. The rungs go from what costs least to what costs most: prefill speed (micro-batch), next to
nothing (an 8-bit KV cache), decode speed (experts on the host), a little quality (a 4-bit KV cache), and last what can
be read at once (the context).
"""

from __future__ import annotations

from collections.abc import Iterator
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

_EIGHT_BITS = {"f32": "q8_0", "f16": "q8_0", "bf16": "q8_0", "auto": "fp8"}
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
    ask = replace(ask, context=planned.context)  # a context that was left to the plan would only grow again
    micro_batch = planned.micro_batch // 2
    if micro_batch >= LEAST_MICRO_BATCH:
        yield (
            replace(ask, micro_batch=micro_batch, batch=max(micro_batch, min(ask.batch, planned.batch))),
            f"micro-batch {micro_batch} in place of {planned.micro_batch}",
        )
    yield from _with_kv(ask, planned, _EIGHT_BITS)
    yield from _with_experts_on_host(machine, ask, planned)
    yield from _with_kv(ask, planned, _FOUR_BITS)
    context = planned.context // 2
    if context >= LEAST_CONTEXT:
        yield replace(ask, context=context), f"context {context:,} in place of {planned.context:,}"


def _with_kv(ask: Ask, planned: Plan, smaller: dict[str, str]) -> Iterator[tuple[Ask, str]]:
    kind = smaller.get(planned.kv_type)
    if kind in ENGINES[ask.engine].kv_types and ask.flash_attention:
        yield replace(ask, kv_type=kind), f"KV type {kind} in place of {planned.kv_type}"


def _with_experts_on_host(machine: Machine, ask: Ask, planned: Plan) -> Iterator[tuple[Ask, str]]:
    placement = planned.placement
    if placement is None or ENGINES[ask.engine].placing != "offload":
        return
    own = {device.key for device in machine.accelerators if not device.unified}
    with_experts = [layer for layer, key in enumerate(placement.experts) if key]
    on_accelerators = [layer for layer in with_experts if placement.experts[layer] in own]
    if not on_accelerators:
        return
    step = max(1, round(_EXPERT_STEP * len(with_experts)))
    # The engine counts from the first layer on, whatever the plan chose before.
    moved = on_accelerators[:step]
    layers = max(moved) + 1
    yield replace(ask, cpu_experts=layers), f"the experts of {len(moved)} more layers on the host"


def _held(machine: Machine, planned: Plan, side: Side | None) -> int:
    """Return the bytes that a plan holds on one side; on both where the side is not known."""
    accelerators = {device.key for device in machine.accelerators}
    return sum(
        use.needed_bytes
        for use in planned.devices
        if side is None or (use.device in accelerators) == (side == "accelerator")
    )
