"""The model that a command asks: started, or borrowed from a `quietmind up` that runs it, or at an address."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quietmind.cli.output import tell_place

if TYPE_CHECKING:
    from quietmind.base.settings import Settings
    from quietmind.engine.port import Engine
    from quietmind.workspace.choose import Desk
    from quietmind.workspace.launch import Start
    from quietmind.workspace.lending import Lent
    from quietmind.workspace.running import Running
    from quietmind.workspace.workspace import Workspace


@dataclass
class AskedModel:
    """The model that answers, started when it is needed, and what notebooks need to know of its run."""

    name: str
    archive: Workspace
    context: int | None
    kv: str
    threads: int | None
    settings: Settings
    allow_remote: tuple[str, ...]
    key_file: Path | None
    planned: Start | None = None
    lent: Lent | None = None

    @classmethod
    def to_judge(
        cls, model: str | None, archive: Workspace, settings: Settings, allow_remote: tuple[str, ...]
    ) -> AskedModel:
        """Return ``model``, or that of the settings, as the settings start it."""
        name = model or settings.model
        return cls(name, archive, settings.context, settings.kv, settings.threads, settings, allow_remote, None)

    def start(self) -> Engine:
        """Start it, or borrow it where `quietmind up` runs it. Raises what starting, borrowing and connecting raise."""
        from quietmind.model.locate import locate
        from quietmind.plan.plan import Ask
        from quietmind.workspace.address import KEY_VARIABLE, connect_to, is_address
        from quietmind.workspace.launch import prepare, started
        from quietmind.workspace.running import serves, serving

        if is_address(self.name):
            key = self.key_file or (KEY_VARIABLE if KEY_VARIABLE in os.environ else None)
            return connect_to(self.name, context=self.context, allow_remote=self.allow_remote, key=key, warn=warn)
        asked = Ask(self.context, self.kv, threads=self.threads)
        weights = locate(self.name)
        running = serving(self.archive.folder, weights)
        if running is not None and serves(running, weights, asked):
            return self._borrowed(running, weights)
        planned = prepare(self.name, asked, self.archive.folder, warn)
        if running is not None and planned.plan.verdict != "fits":
            warn(f"{weights.stem} does not fit a second time; asked as `quietmind up` runs it")
            return self._borrowed(running, weights)
        self.planned = planned
        return started(planned, self.archive.logs, self.archive.folder, warn)

    def _borrowed(self, running: Running, weights: Path) -> Engine:
        from quietmind.base.errors import EngineRefused
        from quietmind.workspace.address import connect_to
        from quietmind.workspace.lending import Lent

        try:
            self.lent = Lent.by(running, weights, tell_place)
        except EngineRefused as error:
            warn(f"no notebook is used: {error}")
            key = Path(running.key_file) if running.key_file else None
            return connect_to(f"{running.url}#{weights.stem}", key=key)
        return self.lent.engine

    def desk(self, engine: Engine) -> Desk:
        """Return where notebooks are taken up by the engine that was started."""
        from quietmind.workspace.choose import Desk

        if self.lent is not None:
            return self.lent.desk(self.archive, self.settings.snapshot_gib)
        if self.planned is None:
            return Desk(self.archive.notebooks, engine, None)
        kept = self.settings.snapshot_gib, self.settings.snapshot_level
        return Desk.of(self.archive, self.planned, engine, *kept)


def warn(warning: str) -> None:
    """Say ``warning`` on standard error."""
    click.echo(f"warning: {warning}", err=True)
