"""Several models that run side by side under one memory budget: found, planned together, or refused together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from quietmind.base.errors import DoesNotFit, UsageError
from quietmind.base.units import format_bytes
from quietmind.model.locate import local_path, locate
from quietmind.plan.ask import Ask
from quietmind.plan.coresident import Resident, Role, plan_together
from quietmind.plan.ledger import Ledger
from quietmind.plan.plan import Plan, device_uses
from quietmind.plan.render import render
from quietmind.workspace.launch import Start

_BESIDE: Role = "second"  # what a ledger calls the models beside the first


@dataclass(frozen=True)
class Together:
    """Models that may run at once. ``plan`` covers all of them; each of ``starts`` has the plan of its own share."""

    starts: tuple[Start, ...]
    plan: Plan


def asked_of(names: Sequence[str], ask: Ask) -> tuple[dict[str, Any], ...]:
    """Return what a run is asked for, in an order of its own and as JSON has it, to compare runs by.

    Raises ModelNotFound, UsageError.
    """
    asks = [{"model": str((local_path(name) or locate(name)).absolute()), **asdict(ask)} for name in names]
    if len({each["model"] for each in asks}) < len(asks):
        raise UsageError("one model is named twice; name each once")
    return tuple(json.loads(each) for each in sorted(json.dumps(each, sort_keys=True) for each in asks))


def together(starts: Sequence[Start]) -> Together:
    """Return what the models take beside each other; the first has what the others leave.

    Raises DoesNotFit with the ledger of all of them, UsageError for two of one name, and what planning raises.
    """
    names = [start.served_name for start in starts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two models are called {twice}, so that requests could not tell them; rename one's file")
    whole = starts[0].plan
    if len(starts) > 1:
        residents = [Resident(_BESIDE if number else "main", it.card, it.ask) for number, it in enumerate(starts)]
        whole = plan_together(starts[0].machine, residents, starts[0].measured)
        plans = (_own(starts[0], whole), *whole.companions)
        starts = [replace(start, plan=plan) for start, plan in zip(starts, plans, strict=True)]
    if whole.verdict == "does not fit":
        raise DoesNotFit(_too_much(names, whole), ledger=render(whole))
    return Together(tuple(starts), whole)


def _own(first: Start, whole: Plan) -> Plan:
    """Return the first model's plan without the rows of those beside it."""
    ledger = Ledger(tuple(row for row in whole.ledger.rows if not row.component.startswith(f"{_BESIDE}: ")))
    held = {key: ledger.total(key) for key in ledger.devices}
    warnings = tuple(line for line in whole.warnings if not line.startswith(f"{_BESIDE} "))
    return replace(whole, ledger=ledger, devices=device_uses(first.machine, held), warnings=warnings, companions=())


def _too_much(names: Sequence[str], whole: Plan) -> str:
    def over(needed: int, capacity: int | None) -> int:
        return 0 if capacity is None else needed - capacity

    use = max(whole.devices, key=lambda use: over(use.needed_bytes, use.capacity_bytes))
    subject = f"{names[0]} takes" if len(names) == 1 else f"{', '.join(names)} together take"
    advice = "a smaller model" if len(names) == 1 else "fewer or smaller models"
    return (
        f"{subject} {format_bytes(use.needed_bytes)} of {use.device}, {whole.machine} has "
        f"{format_bytes(use.capacity_bytes or 0)}; choose {advice}, a smaller --context or --kv q8_0"
    )
