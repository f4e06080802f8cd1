"""What everything that is served at the address is made from."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quietmind.base.settings import Settings
from quietmind.serve.lane import Lane
from quietmind.serve.tally import Requests

if TYPE_CHECKING:
    from quietmind.serve.archive import Archive
    from quietmind.workspace.launch import Start

# A million tokens of text are some 4 MiB; the rest is for images, which come as text three fourths as dense.
LARGEST_BODY = 64 << 20


@dataclass(frozen=True)
class Served:
    """What the parts of the address are made from.

    ``lanes`` are the models that run, and ``starts`` how they were planned, in the same order, where that is known.
    ``archive`` None: no workspace is served. ``closing`` is set when the program ends. ``began`` is a Unix time, and
    ``requests`` counts those since.
    """

    lanes: tuple[Lane, ...]
    archive: Archive | None
    workspace: Path | None
    settings: Settings
    starts: tuple[Start, ...] = ()
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    largest_body: int = LARGEST_BODY
    began: int = field(default_factory=lambda: int(time.time()))
    requests: Requests = field(default_factory=Requests)
