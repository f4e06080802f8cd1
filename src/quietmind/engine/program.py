"""What is run as an engine: a program with its arguments, its environment, and how it is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """A program that serves a model.

    ``words`` are the program (a path, or a name on PATH) and its arguments; none goes through a shell. ``environment``
    is added to what every child gets. ``sealed`` runs it without a network, as far as the system allows.

    A program that can listen on a Unix socket does so at ``socket``. One that cannot listens on ``port`` of the
    loopback; when sealed that is the loopback of its own namespace, and whatever connects to ``socket`` is passed on to
    it. ``memory_limit`` in bytes, None for none. ``stdin``, at most 64 KiB, is what it reads on its standard input: the
    place for secrets.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    sealed: bool = True
    socket: Path | None = None
    port: int | None = None
    memory_limit: int | None = None
    stdin: str = ""
