"""What notebooks of the planned context take on the disk once they are read, beside what the engine keeps itself.

A snapshot holds the KV cache of one sequence, so its size is in the ledger already; the disk is told of as data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from quietmind.base.units import format_bytes
from quietmind.plan.engines import engine_kind
from quietmind.plan.record import Plan


@dataclass(frozen=True)
class Snapshots:
    """``bytes`` of KV cache that a notebook of ``tokens`` stores, before it is packed without loss.

    Of these, ``bytes_per_token`` grow with each token; the rest is of layers with a window or a state of fixed size,
    and ``bytes_per_token`` is None where there is such a rest. All snapshots together may take ``budget_bytes``, None
    where the disk is not known; ``whole`` so many fit into it. ``engine_cache_off``: the engine is told to keep no
    prompts of its own beside the one that it answers, which would be the same bytes again.
    """

    tokens: int
    bytes: int
    bytes_per_token: int | None
    budget_bytes: int | None
    whole: int | None
    engine_cache_off: bool


def snapshots_of(plan: Plan, budget: int | None = None) -> Snapshots | None:
    """Return what snapshots take under ``plan`` of ``budget`` bytes; None where it does not fit, or keeps none."""
    stored = (plan.ledger.component("KV cache") + plan.ledger.component("recurrent state")) // plan.sequences
    if plan.verdict == "does not fit" or not engine_kind(plan.engine_key).capabilities.snapshots or not stored:
        return None
    fixed = plan.ledger.component("KV cache, sliding window") + plan.ledger.component("recurrent state")
    flags = plan.flags
    return Snapshots(
        tokens=plan.context,
        bytes=stored,
        bytes_per_token=None if fixed else stored // plan.context,
        budget_bytes=budget,
        whole=None if budget is None else budget // stored,
        engine_cache_off="--cache-ram" in flags and flags[flags.index("--cache-ram") + 1] == "0",
    )


def snapshot_lines(kept: Snapshots) -> Iterator[str]:
    """Yield it in words: one notebook, how many fit, and what keeps the same bytes from being held twice."""
    each = "" if kept.bytes_per_token is None else f" ({kept.bytes_per_token:,} B a token)"
    yield f"snapshots: a notebook of {kept.tokens:,} tokens stores {format_bytes(kept.bytes)}{each}, before packing"
    if kept.budget_bytes is not None:
        fit = f"{kept.whole:,} whole" if kept.whole else "not one whole; raise the setting snapshot_gib"
        yield f"  all together may take {format_bytes(kept.budget_bytes)} of the disk: {fit}"
    if kept.engine_cache_off:
        yield "  the engine's own prompt cache is off, so that nothing is held twice"


def snapshots_to_json(kept: Snapshots | None) -> dict[str, Any] | None:
    """Return it as JSON-ready values."""
    return None if kept is None else asdict(kept)
