"""Levels of snapshots in words and in JSON: how much smaller, and what was measured to be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quietmind.kvstore.store import Snapshot


def ratio_of(snapshot: Snapshot) -> float:
    """Return how many times smaller a snapshot is than what the engine saved."""
    return snapshot.header.raw_bytes / snapshot.bytes


def level_words(snapshot: Snapshot) -> str:
    """Return a snapshot's level and ratio, for a table: ``near, 9.8x``."""
    from quietmind.workspace.levels import Measured

    return f"{Measured.of(snapshot.header).level or snapshot.header.codec}, {ratio_of(snapshot):.1f}x"


def measured_words(snapshot: Snapshot) -> str:
    """Return what was measured of a snapshot, empty where nothing was: it is lossless, or of another program."""
    from quietmind.workspace.levels import Measured

    measured, said = Measured.of(snapshot.header), []
    if (damage := measured.damage) is not None:
        said.append(
            f"measured against the exact cache: KL divergence {damage.mean:.5f} (worst {damage.worst:.4f}) over "
            f"{damage.positions:,} positions, {damage.same:,} of {damage.probes:,} answers the same"
        )
        if damage.prose is not None:
            said.append(f"{damage.prose:.5f} in the model's own words, over {damage.prose_positions:,}")
    if measured.floor is not None:
        same = "" if measured.floor.same is None else f", {measured.floor.same:,} the same"
        said.append(f"with nothing but the last bits changed {measured.floor.kl:.5f}{same}")
    if measured.before:
        said.append(f"read on a beginning with a divergence of {measured.before:.5f}")
    return "; ".join(said)


def level_json(snapshot: Snapshot | None) -> dict[str, Any]:
    """Return the same for programs; null is what is not known."""
    from quietmind.workspace.levels import Measured

    measured = Measured.of(snapshot.header) if snapshot else Measured(None, before=None)
    damage = measured.damage
    return {
        "level": measured.level,
        "ratio": round(ratio_of(snapshot), 2) if snapshot else None,
        "kl_mean": damage.mean if damage else None,
        "kl_worst": damage.worst if damage else None,
        "positions": damage.positions if damage else None,
        "same": damage.same if damage else None,
        "probes": damage.probes if damage else None,
        "kl_prose": damage.prose if damage else None,
        "kl_floor": measured.floor.kl if measured.floor else None,
        "kl_before": measured.before,
        "basis": measured.basis or None,
    }
