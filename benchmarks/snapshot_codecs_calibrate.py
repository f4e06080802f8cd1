"""What is learned from other pages before anything is measured: for benchmarks/snapshot_codecs.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import snapshot_codecs_engine as engine_leg
from snapshot_codecs_peers import Calibration

from quietmind.kvstore.rotation import rotation_of
from quietmind.model.card import ModelCard

if TYPE_CHECKING:
    from quietmind.kvstore.basis import Basis

PIECE = 3072  # tokens that are read at once


@dataclass(frozen=True)
class Calibrated:
    """A basis for ``transform`` (None: there is none), the caches that peers learn from, and what it took."""

    basis: Basis | None = None
    caches: Calibration | None = None
    cost: Mapping[str, float | str] = field(default_factory=dict)


def calibrated(card: ModelCard, model: Path, folder: Path, tokens: int, scratch: Path, keep: Path | None) -> Calibrated:
    """Learn from ``tokens`` tokens of the pages below ``folder``; see :class:`Calibrated`."""
    print(f"predicted  {tokens:,} tokens to learn from take as long as to read them")
    began = time.perf_counter()
    with engine_leg.running(str(model), PIECE, scratch) as (_, engine):
        slots = list(engine_leg.calibration_slots(engine, folder, tokens, scratch))
    caches = Calibration.of(slots, card.kv_heads[0], rotation_of(card))
    for slot in slots:
        slot.unlink()
    took = time.perf_counter() - began
    print(f"measured   {len(caches.keys):,} tokens read in {took:.0f} s for the peers", flush=True)
    return Calibrated(None, caches, {"tokens": tokens, "peers_s": round(took, 1)})
