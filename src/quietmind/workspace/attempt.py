"""A planned run as something that the supervisor can start, and start again smaller."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.base.errors import EngineError
from quietmind.engine.port import Engine
from quietmind.machine.machine import Machine
from quietmind.plan.ladder import Side, next_rung
from quietmind.plan.placement import DISK
from quietmind.plan.plan import plan
from quietmind.workspace.launch import Start

# How backends name the memory of an accelerator when it runs out: ggml's CUDA, HIP, Vulkan and Metal, and PyTorch's.
_OF_ACCELERATORS = re.compile(r"cuda|hip\b|rocm|vulkan|devicememory|metal|MTL|gpu", re.IGNORECASE)


@dataclass(frozen=True)
class PlannedAttempt:
    """A run that was planned. Implements :class:`quietmind.workspace.supervise.Attempt`.

    ``dressed`` is given each engine that was started with the run it belongs to, and returns the engine to use: that
    is where measurements are taken.
    """

    run: Start
    logs: Path
    dressed: Callable[[Engine, Start], Engine] = lambda engine, _run: engine

    @property
    def log(self) -> Path | None:
        """The file that takes what the engine prints: the newest in the folder of logs."""
        files = [file for file in self.logs.glob("*.log") if file.is_file()]
        return max(files, key=lambda file: file.stat().st_mtime, default=None)

    @property
    def pages(self) -> bool:
        """Whether the plan reads weights from the disk for each token."""
        return DISK in self.run.plan.ledger.devices

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's weights."""
        return self.run.card.weight_bytes

    def start(self) -> Engine:
        """Start the engine as planned. Raises DoesNotFit, ModelError or EngineError."""
        return self.dressed(self.run.engine(self.logs), self.run)

    def smaller(self, error: EngineError) -> tuple[PlannedAttempt, str] | None:
        """Return the next rung of the plan's ladder, and what it changes."""
        run = self.run
        rung = next_rung(run.machine, run.card, run.ask, run.plan, _side(run.machine, error))
        if rung is None:
            return None
        planned = plan(run.machine, run.card, rung.ask, run.measured)
        return replace(self, run=replace(run, ask=rung.ask, plan=planned)), rung.change

    def decode_at_least(self, depth: int) -> float | None:
        """Return the low end of the predicted decode speed at ``depth``; None where nothing is predicted."""
        speed = self.run.speed(depth)
        return None if speed is None or speed.decode is None else speed.decode.low


def _side(machine: Machine, error: EngineError) -> Side | None:
    """Say where memory ran out, from what the error says and what the machine has."""
    if not any(not device.unified for device in machine.accelerators):
        return "host"
    return "accelerator" if _OF_ACCELERATORS.search(str(error)) else None
