"""A plan as text for people, and as JSON for programs."""

from __future__ import annotations

from typing import Any

from quietmind.base.units import format_bytes
from quietmind.plan.plan import Plan

_WORDS = {
    "fits": "fits",
    "tight": "tight: it fits into this machine, but not comfortably into what is free now",
    "does not fit": "does not fit into this machine",
}


def render(plan: Plan) -> str:
    """Return the ledger of ``plan`` as a plain-text table, its totals, verdict and warnings. Sizes are binary units."""
    rows = [("device", "component", "bytes", "formula")]
    rows += [(row.device, row.component, format_bytes(row.bytes), row.formula) for row in plan.ledger.rows]
    rows += [
        (use.device, "total", format_bytes(use.needed_bytes), _of(use.free_bytes, use.capacity_bytes))
        for use in plan.devices
    ]
    device, component, size = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [f"{row[0]:<{device}}  {row[1]:<{component}}  {row[2]:>{size}}  {row[3]}".rstrip() for row in rows]
    rule = "-" * max(len(line) for line in lines)
    lines.insert(1, rule)
    lines.insert(len(lines) - len(plan.devices), rule)
    threads = f", {plan.threads} threads" if plan.threads is not None else ""
    return "\n".join(
        [
            f"{plan.model} ({plan.arch}) on {plan.machine}, {plan.engine}",
            f"context {plan.context:,}, KV {plan.kv_type}, micro-batch {plan.micro_batch:,}{threads}",
            "",
            *lines,
            "",
            f"verdict: {_WORDS[plan.verdict]}",
            *(f"warning: {warning}" for warning in plan.warnings),
        ]
    )


def _of(free: int | None, capacity: int | None) -> str:
    shown_free = "unknown" if free is None else format_bytes(free)
    shown_capacity = "unknown" if capacity is None else format_bytes(capacity)
    return f"of {shown_free} free, {shown_capacity} in all"


def to_json(plan: Plan) -> dict[str, Any]:
    """Return ``plan`` as JSON-ready values; bytes and tokens are whole numbers."""
    return {
        "model": plan.model,
        "arch": plan.arch,
        "machine": plan.machine,
        "engine": plan.engine,
        "verdict": plan.verdict,
        "context": plan.context,
        "kv_type": plan.kv_type,
        "micro_batch": plan.micro_batch,
        "batch": plan.batch,
        "threads": plan.threads,
        "devices": [
            {
                "device": use.device,
                "name": use.name,
                "capacity_bytes": use.capacity_bytes,
                "free_bytes": use.free_bytes,
                "needed_bytes": use.needed_bytes,
            }
            for use in plan.devices
        ],
        "ledger": [
            {"device": row.device, "component": row.component, "bytes": row.bytes, "formula": row.formula}
            for row in plan.ledger.rows
        ],
        "warnings": list(plan.warnings),
    }
