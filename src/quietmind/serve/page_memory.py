"""The memory picture of the page: what all models that run take of each device, by what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quietmind.plan.ledger import Row
from quietmind.plan.placement import DISK
from quietmind.plan.plan import DeviceUse, Plan
from quietmind.plan.table import interval_to_json
from quietmind.workspace.launch import Start

# What a component of the ledger is shown as: the first mark that its name holds counts, everything else is compute.
_KINDS = (
    ("compute buffer", "compute"),
    ("weights: experts", "experts"),
    ("weights", "weights"),
    ("KV cache", "kv"),
    ("recurrent state", "kv"),
)
_ORDER = ("experts", "weights", "kv", "compute")


def memory_of(starts: Sequence[Start]) -> dict[str, Any]:
    """Return the plans of what runs, in bytes: each model, the devices with all of them together, and the ledger."""
    plans = [start.plan for start in starts]
    rows = [(plan, row) for plan in plans for row in plan.ledger.rows]
    return {
        "models": [_model(plan) for plan in plans],
        "devices": [_device(use, [row for _, row in rows if row.device == use.device]) for use in _uses(plans)],
        "ledger": [
            {
                "model": plan.title,
                "device": row.device,
                "component": row.component,
                "kind": kind_of(row.component),
                "bytes": row.bytes,
                "read_per_token": row.read_per_token,
                "formula": row.formula,
            }
            for plan, row in rows
        ],
    }


def kind_of(component: str) -> str:
    """Return what a component of a ledger is shown as: experts, weights, kv or compute."""
    return next((kind for mark, kind in _KINDS if mark in component), "compute")


def _model(plan: Plan) -> dict[str, Any]:
    speed = plan.attainable
    return {
        "name": plan.title,
        "engine": plan.engine,
        "machine": plan.machine,
        "context": plan.context,
        "kv_type": plan.kv_type,
        "verdict": plan.verdict,
        "decode": interval_to_json(speed.decode if speed else None),
        "prefill": interval_to_json(speed.prefill if speed else None),
        "warnings": list(plan.warnings),
    }


def _uses(plans: Sequence[Plan]) -> list[DeviceUse]:
    """Return each device once; of the disk, from which files are mapped, there is nothing to be full."""
    uses = {use.device: use for plan in reversed(plans) for use in plan.devices if use.device != DISK}
    return [use for use in uses.values() if any(plan.ledger.total(use.device) for plan in plans)]


def _device(use: DeviceUse, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what a device holds. ``others`` is what other programs held of it when it was planned; null: unknown."""
    parts = {kind: sum(row.bytes for row in rows if kind_of(row.component) == kind) for kind in _ORDER}
    needed, capacity, free = sum(parts.values()), use.capacity_bytes, use.free_bytes
    others = None if capacity is None or free is None else max(0, capacity - free)
    return {
        "device": use.device,
        "name": use.name,
        "capacity": capacity,
        "needed": needed,
        "parts": [{"kind": kind, "bytes": size} for kind, size in parts.items() if size],
        "others": others,
        "free": None if capacity is None else max(0, capacity - needed - (others or 0)),
        "missing": 0 if capacity is None else max(0, needed - capacity),
    }
