"""What is learned from other pages before anything is measured: for benchmarks/snapshot_codecs.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import snapshot_codecs_engine as engine_leg
from snapshot_codecs_peers import Calibration

from quietmind.base.units import format_bytes
from quietmind.engine.port import Engine
from quietmind.kvstore import basis as bases
from quietmind.kvstore.basis import Basis
from quietmind.kvstore.rotation import rotation_of
from quietmind.kvstore.store import Store
from quietmind.workspace.calibrate import Effort, calibrator
from quietmind.workspace.identity import fingerprint_of
from quietmind.workspace.launch import Start
from quietmind.workspace.workspace import Workspace

PIECE = 4096  # tokens that are read at once


@dataclass(frozen=True)
class Calibrated:
    """A basis for ``transform`` (None: there is none), the caches that peers learn from, and what it took."""

    basis: Basis | None = None
    caches: Calibration | None = None
    cost: Mapping[str, float | str] = field(default_factory=dict)


def calibrated(
    model: Path, pages: Path, tokens: int, folder: Path, keep: Path | None, *, ours: bool, peers: bool
) -> Calibrated:
    """Learn from ``tokens`` tokens of the pages below ``pages``: a basis for ``ours``, caches for ``peers``.

    A basis that ``keep`` holds of this model is taken from there, and a new one put there.
    """
    cost: dict[str, float | str] = {}
    caches = None
    with engine_leg.running(str(model), PIECE, folder) as (start, engine):
        if peers:
            began = time.perf_counter()
            slots = list(engine_leg.calibration_slots(engine, pages, tokens, folder))
            caches = Calibration.of(slots, start.card.kv_heads[0], rotation_of(start.card))
            for slot in slots:
                slot.unlink()
            cost["peers_s"] = round(time.perf_counter() - began, 1)
            print(f"measured   {len(caches.keys):,} tokens read for the peers in {cost['peers_s']} s", flush=True)
        if not ours:
            return Calibrated(None, caches, cost)
        store = Store(folder / "calibration" if keep is None else keep)
        basis = bases.find(store.bases, fingerprint_of(engine, start.card, start.plan))
        if basis is None:
            basis = _learned(start, engine, pages, tokens, store, folder)
    cost |= {"basis_bytes": basis.size, **basis.note}
    print(f"measured   basis of {format_bytes(basis.size)}: {cost}", flush=True)
    return Calibrated(basis, caches, cost)


def _learned(start: Start, engine: Engine, pages: Path, tokens: int, store: Store, folder: Path) -> Basis:
    def forecast(seconds: float) -> None:
        print(f"predicted  {seconds:.0f} s more to calibrate", flush=True)

    with Workspace(folder / "workspace", create=True) as archive:
        archive.index(pages)
        fingerprint, effort = fingerprint_of(engine, start.card, start.plan), Effort(tokens=tokens)
        return calibrator(start, engine, fingerprint, store, effort, forecast=forecast).run(archive).basis
