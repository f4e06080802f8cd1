"""Where a workspace keeps its snapshots, how much of the disk they may take, and which belong to a notebook."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from quietmind.base.errors import SnapshotError
from quietmind.base.paths import shown_path
from quietmind.base.units import GIB
from quietmind.kvstore.store import Snapshot, Store

SNAPSHOTS = "snapshots"

# Left to itself, the store takes so much of what is free or its own already, and never less than so many bytes: a
# small model's notebook takes some hundred MiB.
SHARE_OF_FREE = 0.1
LEAST_BUDGET = GIB


def open_store(workspace: Path, budget: int | None = None) -> Store:
    """Return the store of ``workspace``. ``budget`` is in bytes, None for a share of the disk. Raises SnapshotError."""
    folder = workspace / SNAPSHOTS
    return Store(folder, budget_of(workspace) if budget is None else budget)


def budget_of(workspace: Path, gib: int | None = None) -> int:
    """Return the bytes that all snapshots of ``workspace`` may take: ``gib`` if given, else a share of the disk.

    What they take already counts as free, else each would lower what the next may take. Raises SnapshotError.
    """
    if gib is not None:
        return gib * GIB
    free = free_bytes(workspace) + Store(workspace / SNAPSHOTS).bytes_used()
    return max(LEAST_BUDGET, int(SHARE_OF_FREE * free))


def free_bytes(workspace: Path) -> int:
    """Return what is free on the disk that the snapshots lie on, or will. Raises SnapshotError."""
    folder = workspace / SNAPSHOTS
    try:
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        return shutil.disk_usage(there).free
    except OSError as error:
        raise SnapshotError(
            f"{shown_path(folder)}: cannot be looked at ({error.strerror}); see its permissions"
        ) from error


def snapshots_of(snapshots: Iterable[Snapshot], name: str) -> tuple[Snapshot, ...]:
    """Return those of ``snapshots`` that belong to the notebook ``name``, the longest first."""
    own = (snapshot for snapshot in snapshots if snapshot.header.label == name)
    return tuple(sorted(own, key=lambda snapshot: -snapshot.header.tokens))
