"""Devices that hold the same are shown once: eight GPUs with equal shares are one row for each part, not eight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.record import DeviceUse, Plan


def joined(plan: Plan) -> Plan:
    """Return ``plan`` with one device in place of those that hold the same, its key changed. For showing only."""
    groups: dict[tuple[object, ...], list[DeviceUse]] = {}
    for use in plan.devices:
        rows = tuple(replace(row, device="") for row in plan.ledger.rows if row.device == use.device)
        groups.setdefault((replace(use, device=""), rows), []).append(use)
    several = [uses for uses in groups.values() if len(uses) > 1]
    names = {use.device: _star(uses, len(several)) for uses in several for use in uses}
    if not names:
        return plan
    kept = {uses[0].device for uses in groups.values()}
    return replace(
        plan,
        devices=tuple(
            replace(use, device=names.get(use.device, use.device)) for use in plan.devices if use.device in kept
        ),
        ledger=Ledger(tuple(_renamed(plan.ledger.rows, kept, names))),
    )


def _star(uses: list[DeviceUse], groups: int) -> str:
    """Return what alike devices are called together: "cuda*" for all there are, "cuda0-3" where others differ."""
    if groups == 1:
        return uses[0].device.rstrip("0123456789") + "*"
    kind = uses[0].device.rstrip("0123456789")
    return f"{uses[0].device}-{uses[-1].device.removeprefix(kind)}"


def _renamed(rows: Iterable[Row], kept: set[str], names: dict[str, str]) -> Iterable[Row]:
    return (replace(row, device=names.get(row.device, row.device)) for row in rows if row.device in kept)


def who_shares(plan: Plan) -> str:
    """Return in one line how a sharded model is divided, and over which devices."""
    keys = [use.device for use in plan.devices if use.device != "cpu"]
    over = f"{keys[0]} to {keys[-1]}" if len(keys) > 1 else "".join(keys)
    return f"{plan.split}, on {over}"
