"""The model that is asked: started, or borrowed from a `quietmind up` that runs it, or at an address."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from quietmind.base.errors import EngineRefused
from quietmind.base.settings import Settings
from quietmind.engine.port import Engine
from quietmind.model.locate import locate
from quietmind.plan.plan import Ask
from quietmind.workspace.address import KEY_VARIABLE, connect_to, is_address
from quietmind.workspace.choose import Desk
from quietmind.workspace.launch import Start, prepare, started
from quietmind.workspace.lending import Lent, lender
from quietmind.workspace.running import Running
from quietmind.workspace.workspace import Workspace


@dataclass
class AskedModel:
    """The model that answers, started when it is needed, and what notebooks need to know of its run.

    ``warn`` is told, in a line each, what the person should know of that; ``waiting`` of our place in the line of a
    model that is borrowed, 1 being the next.
    """

    name: str
    archive: Workspace
    ask: Ask
    settings: Settings
    warn: Callable[[str], None]
    waiting: Callable[[int], None] = lambda _place: None
    allow_remote: tuple[str, ...] = ()
    key_file: Path | None = None
    _planned: Start | None = field(default=None, init=False)
    _lent: Lent | None = field(default=None, init=False)

    @classmethod
    def of_settings(
        cls,
        archive: Workspace,
        settings: Settings,
        warn: Callable[[str], None],
        waiting: Callable[[int], None],
        *,
        name: str | None = None,
        allow_remote: tuple[str, ...] = (),
    ) -> Self:
        """Return ``name``, or the model of the settings, as the settings start it."""
        ask = Ask(settings.context, settings.kv, threads=settings.threads)
        return cls(name or settings.model, archive, ask, settings, warn, waiting, allow_remote)

    def start(self) -> Engine:
        """Start it, or borrow it where `quietmind up` runs it. Raises what starting, borrowing and connecting raise."""
        if is_address(self.name):
            key = self.key_file or (KEY_VARIABLE if KEY_VARIABLE in os.environ else None)
            return connect_to(
                self.name, context=self.ask.context, allow_remote=self.allow_remote, key=key, warn=self.warn
            )
        weights = locate(self.name)
        planned = cache(lambda: prepare(self.name, self.ask, self.archive.folder, self.warn))
        running = lender(self.archive.folder, weights, self.ask, planned, self.warn)
        if running is not None:
            return self._borrowed(running, weights)
        self._planned = planned()
        return started(self._planned, self.archive.logs, self.archive.folder, self.warn)

    def _borrowed(self, running: Running, weights: Path) -> Engine:
        try:
            self._lent = Lent.by(running, weights, self.waiting)
        except EngineRefused as error:
            self.warn(f"no notebook is used: {error}")
            key = Path(running.key_file) if running.key_file else None
            return connect_to(f"{running.url}#{weights.stem}", key=key)
        return self._lent.engine

    @property
    def borrowed(self) -> bool:
        """Whether it was borrowed: others wait until it is given back."""
        return self._lent is not None

    def desk(self, engine: Engine) -> Desk:
        """Return where notebooks are taken up by the engine that was started."""
        return self.desk_in(self.archive, engine)

    def desk_in(self, archive: Workspace, engine: Engine) -> Desk:
        """Return the same where the workspace is open as ``archive``, by ``engine``: it, as somebody else sees it."""
        if self._lent is not None:
            return self._lent.desk(archive, self.settings.snapshot_gib, engine)
        if self._planned is None:
            return Desk(archive.notebooks, engine, None)
        kept = self.settings.snapshot_gib, self.settings.snapshot_level
        return Desk.of(archive, self._planned, engine, *kept)
