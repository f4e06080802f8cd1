"""A model that runs under `quietmind up`, lent to whoever asks or reads notebooks of the same workspace: both sides.

The lender says under which fingerprint its run reads, so that what is stored serves there, and what is read there is
stored, as if the borrower had started the very same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from quietmind.workspace.launch import Start, started
from quietmind.workspace.overnight import Reader
from quietmind.workspace.running import Running, serves, serving
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


@contextmanager
def lent_or_started(
    start: Start, workspace: Workspace, warn: Callable[[str], None], waiting: Callable[[int], None]
) -> Iterator[tuple[Engine, Fingerprint]]:
    """Yield the engine of the run that ``start`` plans, and the fingerprint under which it reads.

    Lent, where `quietmind up` runs the same, or the model does not fit a second time; else started, and ended with the
    block. ``waiting`` is told of our place in the line. Raises as :meth:`Lent.by` and ``started``.
    """
    weights = start.card.path
    running = serving(workspace.folder, weights)
    same = running is not None and serves(running, weights, start.ask)
    if running is None or not (same or start.plan.verdict == "does not fit"):
        with started(start, workspace.logs, workspace.folder, warn) as engine:
            yield engine, fingerprint_of(engine, start.card, start.plan)
        return
    if not same:
        warn(f"{start.card.name} does not fit a second time; it is read as `quietmind up` runs it")
    lent = Lent.by(running, weights, waiting)
    with lent.engine:
        yield lent.engine, lent.fingerprint


def _understood(terms: Mapping[str, Any]) -> tuple[Fingerprint, bool]:
    return Fingerprint.from_json(terms["fingerprint"]), bool(terms["cut"])
