"""A plan as text for people, and as JSON for programs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from quietmind.base.units import format_bytes
from quietmind.plan.alike import joined, who_shares
from quietmind.plan.engines import engine_kind
from quietmind.plan.interval import Interval
from quietmind.plan.ledger import Row
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.plan import DeviceUse, Plan
from quietmind.plan.snapshots import snapshot_lines, snapshots_of, snapshots_to_json
from quietmind.plan.speed import Speed
from quietmind.plan.table import align, interval_to_json

_WORDS = {
    "fits": "fits",
    "tight": "tight: it fits into this machine, but not comfortably into what is free now",
    "does not fit": "does not fit into this machine",
}
_FULL = "tight: it fits into this machine, but leaves less than a tenth of a memory to everything else"
_PAGED = "tight: part of it is read from the disk all the time"

BAR_WIDTH = 60
# What a bar shows by which letter: the first mark that a component's name holds counts; "c" is everything else.
_LETTERS = (
    ("compute buffer", "c"),
    ("weights: experts", "e"),
    ("weights", "w"),
    ("KV cache", "k"),
    ("recurrent state", "k"),
)
_LEGEND = "e experts, w other weights, k KV cache, c compute and overhead, . free, # used by others, ! missing"


def render(plan: Plan, width: int = BAR_WIDTH, snapshot_budget: int | None = None) -> str:
    """Return ``plan`` as plain text: ledger, totals, a memory bar of ``width`` cells for each device, speed, flags.

    Sizes are binary units. ``snapshot_budget`` is what snapshots may take of the disk in bytes, None where that is not
    known.
    """
    kept = snapshots_of(plan, snapshot_budget)
    threads = f", {plan.threads} threads" if plan.threads is not None else ""
    sequences = f", {plan.sequences} sequences" if plan.sequences > 1 else ""
    native = f" (native {plan.native_context:,})" if plan.native_context else ""
    return "\n".join(
        [
            f"{plan.title} ({plan.arch}) on {plan.machine}, {plan.engine}",
            f"context {plan.context:,}{native}, KV {plan.kv_type}, micro-batch {plan.micro_batch:,}"
            f"{threads}{sequences}",
            *([_where(plan.placement)] if plan.placement else [who_shares(plan)] if plan.split else []),
            "",
            *_table(joined(plan)),
            "",
            *_bars(joined(plan), width),
            f"  {_LEGEND}",
            "",
            *_speed_lines(plan),
            *(snapshot_lines(kept) if kept else ()),
            *([f"flags: {shlex.join((*engine_kind(plan.engine_key).program, *plan.flags))}"] if plan.flags else []),
            f"verdict: {_verdict(plan)}",
            *(f"warning: {warning}" for warning in plan.warnings),
        ]
    )


def _bars(plan: Plan, width: int) -> Iterator[str]:
    for use in plan.devices:
        if use.device != DISK:
            yield memory_bar(use, plan.ledger.rows, width, _lent(plan, use))


def _verdict(plan: Plan) -> str:
    paged = plan.verdict == "tight" and any(use.device == DISK for use in plan.devices)
    if plan.verdict == "tight" and not paged and all(use.free_bytes is None for use in plan.devices):
        return _FULL  # a machine that is not here: nothing is known of what is free
    return _PAGED if paged else _WORDS[plan.verdict]


def _table(plan: Plan) -> list[str]:
    rows = [("device", "component", "stored", "read/token", "formula")]
    rows += [
        (row.device, row.component, format_bytes(row.bytes), _read(row.read_per_token), row.formula)
        for row in plan.ledger.rows
    ]
    for use in plan.devices:
        read = sum(row.read_per_token for row in plan.ledger.rows if row.device == use.device)
        rows.append((use.device, "total", format_bytes(use.needed_bytes), _read(read), _capacity(use)))
    lines = align(rows, left={0, 1, 4})
    rule = "-" * max(len(line) for line in lines)
    lines.insert(1, rule)
    lines.insert(len(lines) - len(plan.devices), rule)
    return lines


def _read(count: int) -> str:
    return format_bytes(count) if count else "-"


def _capacity(use: DeviceUse) -> str:
    if use.device == DISK:
        return "mapped from the file"
    free = "unknown" if use.free_bytes is None else format_bytes(use.free_bytes)
    capacity = "unknown" if use.capacity_bytes is None else format_bytes(use.capacity_bytes)
    pool = f", of the memory of {use.pool}" if use.pool else ""
    return f"of {free} free, {capacity} in all{pool}"


def _where(placement: Placement) -> str:
    """Return in one line what lies where: ``layers, KV and output on cuda0; experts on cpu (53), cuda0 (41)``."""
    parts = (
        ("layers", placement.dense),
        ("experts", placement.experts),
        ("KV", placement.kv),
        ("output", (placement.output,)),
    )
    together: dict[str, list[str]] = {}
    for name, keys in parts:
        if any(keys):
            together.setdefault(_counted(keys), []).append(name)
    return "; ".join(f"{_listed(names)} on {homes}" for homes, names in together.items())


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _counted(keys: Iterable[str]) -> str:
    found = Counter(filter(None, keys))
    return next(iter(found)) if len(found) == 1 else ", ".join(f"{key} ({count})" for key, count in found.items())


def memory_bar(use: DeviceUse, rows: Iterable[Row], width: int = BAR_WIDTH, lent: int = 0) -> str:
    """Return what a device's memory is taken by as a bar of ``width`` letters, or a note where its size is unknown.

    ``lent`` bytes of it are held by an accelerator that shares it, and are shown there.
    """
    taken: Counter[str] = Counter()
    for row in rows:
        if row.device == use.device:
            taken[next((letter for mark, letter in _LETTERS if mark in row.component), "c")] += row.bytes
    if use.capacity_bytes is None:
        return f"{use.device:<6} [{'memory unknown':^{width}}] {format_bytes(use.needed_bytes)}"
    others = lent + (use.capacity_bytes - use.free_bytes if use.free_bytes is not None else 0)
    missing = max(0, use.needed_bytes - use.capacity_bytes)
    free = max(0, use.capacity_bytes - use.needed_bytes - others)
    stretches = [(letter, taken[letter]) for letter in "ewkc"]
    stretches += [(".", free), ("#", max(0, use.capacity_bytes - use.needed_bytes - free))]
    if missing:  # the bar is then as long as the need, and its end is what the device lacks
        stretches = [*_cut(stretches, use.capacity_bytes), ("!", missing)]
    shown = f"{format_bytes(use.needed_bytes)} of {format_bytes(use.capacity_bytes)}"
    return f"{use.device:<6} [{_cells(stretches, width)}] {shown}"


def _cut(stretches: list[tuple[str, int]], total: int) -> Iterator[tuple[str, int]]:
    """Yield the stretches up to ``total``."""
    for letter, size in stretches:
        yield letter, min(size, total)
        total -= min(size, total)


def _cells(stretches: list[tuple[str, int]], width: int) -> str:
    """Return ``width`` letters, each stretch with its share; ends are rounded, so that no error adds up."""
    total = sum(size for _, size in stretches) or 1
    done, bar = 0, ""
    for letter, size in stretches:
        done += size
        bar += letter * (round(width * done / total) - len(bar))
    return bar.ljust(width)


def _lent(plan: Plan, use: DeviceUse) -> int:
    """Return the bytes of a device that another one of unified memory holds."""
    return sum(other.needed_bytes for other in plan.devices if other.pool == use.device)


def _speed_lines(plan: Plan) -> list[str]:
    """Return the expected speed as ``mid (low-high)``, what it waits for and what it rests on."""
    if plan.verdict == "does not fit":
        return ["speed: none, since it does not fit"]
    speed = plan.speed
    if speed is None:
        return ["speed: unknown, since a bandwidth of the machine is not known; `quietmind machine --measure` takes it"]
    return [
        f"speed with {speed.depth:,} tokens in the context: prefill {_rate(speed.prefill)}, "
        f"decode {_rate(speed.decode)}" + (f", waiting for {speed.limit}" if speed.limit else ""),
        *(f"  {basis}" for basis in speed.basis),
    ]


def _rate(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{interval} tokens/s"


def to_json(plan: Plan, snapshot_budget: int | None = None) -> dict[str, Any]:
    """Return ``plan`` as JSON-ready values; bytes and tokens are whole numbers, speeds tokens a second.

    The speed of a plan that does not fit is null: it was computed as if it did. ``snapshot_budget`` is as for
    :func:`render`.
    """
    return {
        "model": plan.model,
        "quantization": plan.quantization,
        "arch": plan.arch,
        "machine": plan.machine,
        "engine": plan.engine,
        "engine_key": plan.engine_key,
        "verdict": plan.verdict,
        "context": plan.context,
        "native_context": plan.native_context,
        "kv_type": plan.kv_type,
        "micro_batch": plan.micro_batch,
        "batch": plan.batch,
        "threads": plan.threads,
        "sequences": plan.sequences,
        "experts_used": plan.experts_used,
        "devices": [
            {
                "device": use.device,
                "name": use.name,
                "capacity_bytes": use.capacity_bytes,
                "free_bytes": use.free_bytes,
                "needed_bytes": use.needed_bytes,
                "pool": use.pool,
            }
            for use in plan.devices
        ],
        "ledger": [
            {
                "device": row.device,
                "component": row.component,
                "bytes": row.bytes,
                "read_per_token": row.read_per_token,
                "formula": row.formula,
            }
            for row in plan.ledger.rows
        ],
        "placement": _placement_to_json(plan.placement) if plan.placement else None,
        "split": asdict(plan.split) if plan.split else None,
        "flags": list(plan.flags),
        "speed": _speed_to_json(plan.attainable) if plan.attainable else None,
        "snapshots": snapshots_to_json(snapshots_of(plan, snapshot_budget)),
        "companions": [
            {"model": other.model, "context": other.context, "verdict": other.verdict} for other in plan.companions
        ],
        "warnings": list(plan.warnings),
    }


def _placement_to_json(placement: Placement) -> dict[str, Any]:
    """Return how many layers have each part on which device."""
    return {
        "dense": dict(Counter(placement.dense)),
        "experts": dict(Counter(filter(None, placement.experts))),
        "kv": dict(Counter(placement.kv)),
        "embedding": placement.embedding,
        "output": placement.output,
    }


def _speed_to_json(speed: Speed) -> dict[str, Any]:
    return {
        "depth": speed.depth,
        "prefill": interval_to_json(speed.prefill),
        "decode": interval_to_json(speed.decode),
        "limit": speed.limit,
        "basis": list(speed.basis),
    }
