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
from quietmind.plan.ask import Ask
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

    def desk(self, workspace: Workspace, snapshot_gib: int | None = None, engine: Engine | None = None) -> Desk:
        """Return where its notebooks are taken up; ``engine`` is it, as somebody else sees it. Raises SnapshotError."""
        store, seen = open_store(workspace.folder, budget_of(workspace.folder, snapshot_gib)), engine or self.engine
        return Desk(workspace.notebooks, seen, Reader(seen, self.fingerprint, self.cut, store))


def lender(
    workspace: Path, weights: Path, ask: Ask, planned: Callable[[], Start], warn: Callable[[str], None]
) -> Running | None:
    """Return the `quietmind up` to borrow the model of ``weights`` from; None where it is to be started for ``ask``.

    Borrowed is what runs as it is asked for; else only what has no room beside it, as ``planned`` says: ``warn`` is
    told that it runs otherwise. Raises what ``planned`` raises.
    """
    running = serving(workspace, weights)
    if running is None or serves(running, weights, ask):
        return running
    if planned().plan.verdict == "fits":
        return None
    warn(f"{weights.stem} does not fit a second time; it is used as `quietmind up` runs it")
    return running


@contextmanager
def lent_or_started(
    start: Start, workspace: Workspace, warn: Callable[[str], None], waiting: Callable[[int], None]
) -> Iterator[tuple[Engine, Fingerprint]]:
    """Yield the engine of the run that ``start`` plans, and the fingerprint under which it reads.

    Borrowed where :func:`lender` says so; else started, and ended with the block. ``waiting`` is told of our place in
    the line. Raises as :meth:`Lent.by` and ``started``.
    """
    running = lender(workspace.folder, start.card.path, start.ask, lambda: start, warn)
    if running is None:
        with started(start, workspace.logs, workspace.folder, warn) as engine:
            yield engine, fingerprint_of(engine, start.card, start.plan)
        return
    lent = Lent.by(running, start.card.path, waiting)
    with lent.engine:
        yield lent.engine, lent.fingerprint


def _understood(terms: Mapping[str, Any]) -> tuple[Fingerprint, bool]:
    return Fingerprint.from_json(terms["fingerprint"]), bool(terms["cut"])
