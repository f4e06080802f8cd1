"""Several models on one machine at once: an embedder, a reranker, a draft or a second model beside the main one.

The companions are placed first, in the order given, and the main model in what they leave: they are small, and a
search or a draft that waits for the host's memory would slow every answer of the main one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal, get_args

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import DEFAULT_MICRO_BATCH, Ask
from quietmind.plan.flags import model_word
from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.measured import Measurement
from quietmind.plan.place import FITS_BELOW, available
from quietmind.plan.placement import DISK
from quietmind.plan.plan import Plan, device_uses, memory_verdict, plan, worst

Role = Literal["main", "embedder", "reranker", "draft", "second"]

_OF_A_PROCESS = ("engine overhead", "engine context")


@dataclass(frozen=True)
class Resident:
    """A model and what is asked of it. A draft runs in the main model's process and shares its context there."""

    role: Role
    card: ModelCard
    ask: Ask = field(default_factory=Ask)


def plan_together(machine: Machine, residents: Sequence[Resident], measured: Sequence[Measurement] = ()) -> Plan:
    """Return the plan of the main model beside its companions, under one budget.

    The ledger holds the rows of all: the main model's as they are, and each companion's, named by its role. Totals and
    verdict cover all of them; context, speed and placement are the main model's, and so are the flags, to which a draft
    adds its own. ``companions`` holds the plan of each other model. Raises what plan raises, and UsageError unless
    exactly one model is the main one, and at most one its draft.
    """
    _refuse_casts(residents)
    main = next(resident for resident in residents if resident.role == "main")
    ask = main.ask
    if any(resident.role == "draft" for resident in residents):  # both have the same, and the draft is placed first
        ask = replace(ask, micro_batch=ask.micro_batch or DEFAULT_MICRO_BATCH)
        if ask.context is None:
            ask = replace(ask, context=plan(machine, main.card, ask).context)
    left = machine
    companions: list[tuple[Resident, Plan]] = []
    for resident in residents:
        if resident.role != "main":
            companion = _companion(left, resident, ask)
            companions.append((resident, companion))
            left = _less(left, companion.ledger)
    found = plan(left, main.card, ask, measured)
    plans = [found, *(companion for _, companion in companions)]
    rows = [*found.ledger.rows, *(row for resident, it in companions for row in _named(resident, it.ledger))]
    order = ["cpu", *(device.key for device in machine.accelerators), DISK]
    ledger = Ledger(tuple(sorted(rows, key=lambda row: order.index(row.device))))
    held = {key: sum(it.ledger.total(key) for it in plans) for key in ledger.devices}
    ledger.prove(held, {})
    paged = [it.verdict for it in plans if DISK in it.ledger.devices]
    return replace(
        found,
        machine=machine.name,
        verdict=worst(memory_verdict(machine, held), *paged),
        devices=device_uses(machine, held),
        ledger=ledger,
        flags=(*found.flags, *(word for resident, it in companions for word in _draft_flags(resident, it))),
        warnings=(*found.warnings, *(line for resident, it in companions for line in _warnings(resident, it))),
        companions=tuple(companion for _, companion in companions),
    )


def _refuse_casts(residents: Sequence[Resident]) -> None:
    roles = [resident.role for resident in residents]
    unknown = [role for role in roles if role not in get_args(Role)]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no role of a model; choose one of {', '.join(get_args(Role))}")
    mains, drafts = roles.count("main"), roles.count("draft")
    if mains != 1 or drafts > 1:
        raise UsageError(f"{mains} models are given as main and {drafts} as draft; give one main and at most one draft")


def _companion(machine: Machine, resident: Resident, main: Ask) -> Plan:
    """Return the plan of a companion in what is left.

    A draft is no process of its own and has the context of the main model; its options are those that the engine has.
    """
    if resident.role != "draft":
        return plan(machine, resident.card, resident.ask)
    shared = replace(resident.ask, context=main.context, sequences=main.sequences, micro_batch=main.micro_batch)
    found = plan(machine, resident.card, shared)
    ledger = Ledger(tuple(row for row in found.ledger.rows if row.component not in _OF_A_PROCESS))
    return replace(found, ledger=ledger, devices=device_uses(machine, _totals(ledger)))


def _totals(ledger: Ledger) -> dict[str, int]:
    return {key: ledger.total(key) for key in ledger.devices}


def _named(resident: Resident, ledger: Ledger) -> Iterator[Row]:
    """Yield the rows of a companion under its role, the classes of its weights as one row a device."""
    for device in ledger.devices:
        rows = [row for row in ledger.rows if row.device == device]
        weights = [row for row in rows if row.component.startswith("weights")]
        if weights:
            classes = ", ".join(row.component.removeprefix("weights: ") for row in weights)
            yield Row(
                device=device,
                component=f"{resident.role}: weights",
                bytes=sum(row.bytes for row in weights),
                formula=f"{resident.card.name}: {classes}",
                read_per_token=sum(row.read_per_token for row in weights),
            )
        for row in rows:
            if row not in weights:
                yield replace(row, component=f"{resident.role}: {row.component}")


def _draft_flags(resident: Resident, plan_: Plan) -> tuple[str, ...]:
    """Return the flags by which the main model's engine loads its draft."""
    if resident.role != "draft" or plan_.placement is None:
        return ()
    owners = (*plan_.placement.dense, plan_.placement.output)
    return (
        *("-md", model_word(resident.card)),
        *("-ngld", str(sum(1 for key in owners if key != "cpu"))),
        *("-ctkd", plan_.kv_type),
        *("-ctvd", plan_.kv_type),
    )


def _warnings(resident: Resident, plan_: Plan) -> tuple[str, ...]:
    """Return a companion's warnings, less what the main model's say of the machine."""
    return tuple(
        f"{resident.role} {resident.card.name}: {line}"
        for line in plan_.warnings
        if "stays unused" not in line and "could not be found out" not in line
    )


def _less(machine: Machine, ledger: Ledger) -> Machine:
    """Return the machine as it is beside what ``ledger`` takes. Unified memory is taken from its pool too.

    A model may take 90% of what is free, and so may all models together: less is left free than what remains.
    """
    unified = sum(ledger.total(device.key) for device in machine.accelerators if device.unified)

    def less(device: Device) -> Device:
        taken = ledger.total(device.key) + (unified if device.kind == "cpu" else 0)
        free, memory = available(device), device.memory_bytes
        return replace(
            device,
            memory_bytes=None if memory is None else max(1, memory - taken),
            free_bytes=None if free is None else max(1, free - ceil(taken / FITS_BELOW)),
        )

    return replace(machine, devices=tuple(less(device) for device in machine.devices))
