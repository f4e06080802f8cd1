"""What if: the chosen plan with one thing changed at a time, and what each change costs and brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quietmind.base.errors import QuietmindError, UsageError
from quietmind.base.units import GIB, format_bytes
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.coresident import Resident, plan_together
from quietmind.plan.plan import Ask, Plan, plan
from quietmind.plan.search import Planner
from quietmind.plan.table import align, device_columns, rates_to_json, shown_rates, signed_bytes
from quietmind.plan.upgrades import with_memory, with_one_more_gpu

_COMPARED_KV_TYPES = ("f16", "q8_0", "q4_0")
EXPERTS = (8, 16)
SEQUENCES = (1, 2, 4)
MICRO_BATCHES = (512, 2048, 4096)  # host experts are read, or uploaded, once for each: prefill waits for it
MEMORY_GIB = (192, 512, 1024)  # memory modules are sold in binary "GB"


@dataclass(frozen=True)
class Change:
    """One change against the plan that is compared with. Either ``plan`` or ``refused``, why there is none."""

    label: str
    plan: Plan | None
    refused: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A plan and its changes, in a fixed order."""

    base: Plan
    changes: tuple[Change, ...]


def compare(
    machine: Machine,
    card: ModelCard,
    ask: Ask | None = None,
    cards: Sequence[ModelCard] = (),
    machines: Sequence[Machine] = (),
    planner: Planner = plan,
) -> Comparison:
    """Return the plan of ``card`` on ``machine`` and each change to it; a change that is no change is left out.

    ``cards`` are the same model in other quantizations, ``machines`` other computers to try it on.
    Raises what ``planner`` raises for the plan itself; a change that is refused says why in its own line.
    """
    base = planner(machine, card, ask or Ask())
    cards = [other for other in cards if other.quantization != card.quantization]
    # Everything else is held: a context that was left to the plan is from here on the one it found.
    fixed = replace(ask or Ask(), context=base.context)
    variations: list[tuple[str, Machine, ModelCard, Ask]] = [
        *((label, machine, card, other) for label, other in _asks(card, fixed, base.micro_batch)),
        *((f"weights {other.quantization}", machine, other, fixed) for other in cards),
        *((label, other, card, fixed) for label, other in _machines(machine, machines)),
    ]
    changes = []
    for label, other_machine, other_card, other_ask in variations:
        try:
            changes.append(Change(label, planner(other_machine, other_card, other_ask)))
        except QuietmindError as error:
            changes.append(Change(label, None, str(error)))
    return Comparison(base, tuple(changes))


def _asks(card: ModelCard, ask: Ask, planned: int) -> Iterator[tuple[str, Ask]]:
    """Yield what else could be asked of the same file on the same machine, where a micro-batch was ``planned``."""
    context = ask.context or card.native_context
    yield f"half the context: {max(1, context // 2):,}", replace(ask, context=max(1, context // 2))
    yield f"double the context: {context * 2:,}", replace(ask, context=context * 2)
    used = ask.experts_used or card.experts_used
    for count in EXPERTS:
        if card.experts >= count != used:
            yield f"{count} experts", replace(ask, experts_used=count)
    for kv_type in _COMPARED_KV_TYPES:
        if kv_type != ask.kv_type:
            yield f"KV {kv_type}", replace(ask, kv_type=kv_type)
    for tokens in MICRO_BATCHES:
        if tokens != planned:
            yield f"micro-batch {tokens:,}", replace(ask, micro_batch=tokens, batch=max(ask.batch, tokens))
    for sequences in SEQUENCES:
        if sequences != ask.sequences:
            label = f"{sequences} sequence" + ("s at once" if sequences > 1 else "")
            yield label, replace(ask, sequences=sequences)


def _machines(machine: Machine, others: Sequence[Machine]) -> Iterator[tuple[str, Machine]]:
    """Yield what else it could run on. More of a built-in memory cannot be had."""
    more = with_one_more_gpu(machine)
    if more is not None:
        yield "one more GPU of the same kind", more
    if not any(device.unified for device in machine.accelerators):
        for gib in MEMORY_GIB:
            if gib * GIB != machine.cpu.memory_bytes:
                yield f"{gib:,} GB of RAM, as fast", with_memory(machine, gib * GIB)
    for other in others:
        if other.name != machine.name:
            yield f"on {other.name}", other


@dataclass(frozen=True)
class SideBySide:
    """The plan of each model alone on one machine, and of all at once: the largest one's, the others beside it."""

    alone: tuple[Plan, ...]
    together: Plan


def side_by_side(
    machine: Machine, cards: Sequence[ModelCard], ask: Ask | None = None, planner: Planner = plan
) -> SideBySide:
    """Return what each of ``cards`` takes of ``machine`` alone, and what they take at once, each with its context.

    Raises UsageError without a model, and what planning one raises.
    """
    if not cards:
        raise UsageError("no model was named")
    asked = ask or Ask()
    alone = tuple(planner(machine, card, asked) for card in cards)
    largest = max(range(len(cards)), key=lambda number: cards[number].weight_bytes)
    residents = [
        Resident("main" if number == largest else "second", card, replace(asked, context=own.context))
        for number, (card, own) in enumerate(zip(cards, alone, strict=True))
    ]
    return SideBySide(alone, plan_together(machine, residents))


def render_comparison(comparison: Comparison) -> str:
    """Return the changes as a table: bytes of each device and tokens a second, as differences from the plan."""
    base = comparison.base
    groups = device_columns([use.device for use in base.devices])
    rows = [["change", *groups, "elsewhere", "decode tokens/s", "", "prefill tokens/s", "verdict"]]
    totals = (format_bytes(sum(_needed(base)[key] for key in keys)) for keys in groups.values())
    rows.append(["as planned", *totals, "", *_speeds(base, base)])
    refused = []
    for change in comparison.changes:
        if change.plan is None:
            refused.append(f"{change.label}: {change.refused}")
            continue
        difference = differences(base, change.plan)
        own = (signed_bytes(sum(difference[key] for key in keys)) for keys in groups.values())
        away = sorted({key for key in difference if key not in _needed(base)})
        elsewhere = ", ".join(f"{key} {signed_bytes(difference[key])}" for key in away)
        rows.append([change.label, *own, elsewhere, *_speeds(change.plan, base)])
    table = align(rows, left={0, len(groups) + 1, len(groups) + 5})
    return "\n".join(
        [
            f"{base.title} on {base.machine}: one change at a time",
            f"as planned: context {base.context:,}, KV {base.kv_type}, micro-batch {base.micro_batch:,}; "
            "tokens/s of one sequence with its context full",
            "",
            table[0],
            "-" * max(map(len, table)),
            *table[1:],
            *refused,
        ]
    )


def differences(base: Plan, other: Plan) -> dict[str, int]:
    """Return how many bytes more (or less) ``other`` takes of each device of both."""
    before, after = _needed(base), _needed(other)
    return {key: after.get(key, 0) - before.get(key, 0) for key in before | after}


def _needed(planned: Plan) -> dict[str, int]:
    return {use.device: use.needed_bytes for use in planned.devices}


def _speeds(planned: Plan, base: Plan) -> list[str]:
    """Return decode, its ratio to the plan's, prefill and the verdict."""
    decode, prefill = shown_rates(planned)
    after, before = (each.attainable.decode if each.attainable else None for each in (planned, base))
    ratio = ""
    if planned is not base and after is not None and before is not None and before.mid:
        ratio = f"x{after.mid / before.mid:.2f}"
    return [decode, ratio, prefill, planned.verdict]


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON-ready values; ``change_bytes`` are differences by device."""
    return {
        "model": comparison.base.model,
        "machine": comparison.base.machine,
        "base": summary_to_json(comparison.base),
        "changes": [
            {
                "change": change.label,
                "refused": change.refused,
                "plan": None if change.plan is None else summary_to_json(change.plan),
                "change_bytes": None if change.plan is None else differences(comparison.base, change.plan),
            }
            for change in comparison.changes
        ],
    }


def summary_to_json(planned: Plan) -> dict[str, Any]:
    """Return what sums a plan up as JSON-ready values."""
    return {
        "model": planned.model,
        "quantization": planned.quantization,
        "machine": planned.machine,
        "context": planned.context,
        "kv_type": planned.kv_type,
        "verdict": planned.verdict,
        "devices": _needed(planned),
        **rates_to_json(planned),
    }


def render_side_by_side(both: SideBySide) -> str:
    """Return plans of several models on one machine as columns: components in rows, totals, speed, and all at once."""
    plans = both.alone
    rows = [["", *(each.title for each in plans)]]
    keys = list(dict.fromkeys((row.device, row.component) for each in plans for row in each.ledger.rows))
    for device in dict.fromkeys(device for device, _ in keys):
        for key in (key for key in keys if key[0] == device):
            rows.append([f"{device}  {key[1]}", *(_cell(each, *key) for each in plans)])
        rows.append([f"{device}  total", *(format_bytes(each.ledger.total(device)) for each in plans)])
    rows.append(["context", *(f"{each.context:,}" for each in plans)])
    rows.append(["decode tokens/s", *(shown_rates(each)[0] for each in plans)])
    rows.append(["prefill tokens/s", *(shown_rates(each)[1] for each in plans)])
    rows.append(["verdict", *(each.verdict for each in plans)])
    return "\n".join(
        [
            f"on {plans[0].machine}, each alone",
            "",
            *align(rows, left={0}),
            "",
            f"at once: {both.together.verdict}",
            *(
                f"  {use.device}: {format_bytes(use.needed_bytes)} of "
                f"{'unknown' if use.capacity_bytes is None else format_bytes(use.capacity_bytes)}"
                for use in both.together.devices
            ),
            *(
                f"  {each.model}: {shown_rates(each)[0]} tokens/s while the others rest"
                for each in (both.together, *both.together.companions)
                if both.together.verdict != "does not fit"
            ),
        ]
    )


def _cell(planned: Plan, device: str, component: str) -> str:
    total = sum(row.bytes for row in planned.ledger.rows if (row.device, row.component) == (device, component))
    return format_bytes(total) if total else "-"
