"""Progress of long work: a port that rooms report to, and a terminal bar behind it.

The bar appears only on a terminal, and only once the work has taken longer than ``PATIENCE_SECONDS``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PATIENCE_SECONDS = 2.0


class Progress(Protocol):
    """What a room calls while it works. ``total`` and ``amount`` are in the caller's unit."""

    def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
        """Start a new stretch of work; ``total`` None means that its size is not known."""

    def advance(self, amount: int = 1) -> None:
        """Say that ``amount`` more has been done."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
        """Do nothing."""

    def advance(self, amount: int = 1) -> None:
        """Do nothing."""


SILENT: Progress = Silent()


class _TerminalBar:
    """A rich bar on standard error, imported and drawn only after the patience has run out."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self.begin("", None)

    def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
        self.close()
        self._label = label
        self._total = total
        self._bytes = bytes_
        self._done = 0
        self._began = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._began > PATIENCE_SECONDS:
            self._open()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn(binary_units=True) if self._bytes else MofNCompleteColumn()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """Yield a progress bar when standard error is a terminal, and silence otherwise."""
    if not sys.stderr.isatty():
        yield SILENT
        return
    bar = _TerminalBar()
    try:
        yield bar
    finally:
        bar.close()
