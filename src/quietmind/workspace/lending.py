"""A model that runs under `quietmind up`, lent to whoever asks notebooks of the same workspace: both sides of a loan.

The lender says under which fingerprint its run reads, so that what is stored serves there, and what is read there is
stored, as if the borrower had started the very same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from quietmind.base.errors import EngineUnreachable, SnapshotError
from quietmind.engine.borrowed import Borrowed, borrow
from quietmind.engine.endpoint import checked, key_from_file
from quietmind.engine.port import Endpoint, Engine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.workspace.choose import Desk
from quietmind.workspace.identity import can_go_back, fingerprint_of
from quietmind.workspace.launch import Start
from quietmind.workspace.overnight import Reader
from quietmind.workspace.running import Running
from quietmind.workspace.store import budget_of, open_store
from quietmind.workspace.workspace import Workspace


def terms_of(run: Start, engine: Engine) -> dict[str, Any]:
    """Return what a borrower of ``engine`` has to know, which runs as ``run`` has planned; JSON-ready.

    Raises EngineRefused for an engine that keeps no caches, ModelNotFound for weights that are gone.
    """
    return {"fingerprint": asdict(fingerprint_of(engine, run.card, run.plan)), "cut": can_go_back(run.card)}


@dataclass(frozen=True)
class Lent:
    """A model that was lent to us, and under which fingerprint it reads."""

    engine: Borrowed
    fingerprint: Fingerprint
    cut: bool

    @classmethod
    def by(cls, running: Running, weights: Path, waiting: Callable[[int], None] = lambda _place: None) -> Self:
        """Return the model of ``weights`` that ``running`` serves. ``waiting`` is as for :func:`borrow`.

        Raises EngineRefused where it cannot be lent, EngineUnreachable, EngineHung, UsageError for a key file that
        cannot be used.
        """
        key = "" if running.key_file is None else key_from_file(Path(running.key_file))
        engine = borrow(Endpoint(checked(running.url, ()).base, key, weights.stem), waiting)
        try:
            return cls(engine, *_understood(engine.terms))
        except (KeyError, TypeError, SnapshotError) as error:
            engine.stop()
            raise EngineUnreachable(f"{running.url} says of its run what is not known here; update both") from error

    def desk(self, workspace: Workspace, snapshot_gib: int | None = None) -> Desk:
        """Return where its notebooks are taken up. Raises SnapshotError."""
        store = open_store(workspace.folder, budget_of(workspace.folder, snapshot_gib))
        return Desk(workspace.notebooks, self.engine, Reader(self.engine, self.fingerprint, self.cut, store))


def _understood(terms: Mapping[str, Any]) -> tuple[Fingerprint, bool]:
    return Fingerprint.from_json(terms["fingerprint"]), bool(terms["cut"])
