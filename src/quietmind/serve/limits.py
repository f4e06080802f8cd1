"""How much and how long: what one client may take of the address, so that the others still get theirs."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

from quietmind.base.units import MIB
from quietmind.serve.refusal import Refusal, refuse

HOUR = 3600.0


_MOST_CONNECTIONS = 400


def most_connections() -> int:
    """Return how many connections leave room for all else: half of the files that may be open, 256 on macOS."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if most == resource.RLIM_INFINITY else min(_MOST_CONNECTIONS, max(most // 2, 8))


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    ``body``: a million tokens of text are some 4 MiB; the rest is for images, which come as text three fourths as
    dense. ``bodies``: all that are being read or answered together. ``head_seconds``: until a request's headers are
    whole. A body may be slower than ``body_rate`` for ``body_grace`` seconds in all. ``unread``: how long an answer may
    lie there without its client taking any of it. ``answer``: a whole answer with its time in line; None: however long.
    ``connections``: held open at once; the one that has asked nothing for longest gives way to a new one.
    """

    body: int = 64 * MIB
    bodies: int = 512 * MIB
    head: int = 32 * 1024
    head_lines: int = 100
    head_seconds: float = 10.0
    body_grace: float = 30.0
    body_rate: float = 16 * 1024
    idle: int = 30
    unread: float = 60.0
    answer: float | None = 6 * HOUR
    connections: int = field(default_factory=most_connections)

    def head_refused(self, headers: list[tuple[bytes, bytes]]) -> Refusal | None:
        """Return why the headers of a request are too many or too large; None where they are not."""
        size = sum(len(name) + len(value) + 4 for name, value in headers)
        if len(headers) <= self.head_lines and size <= self.head:
            return None
        message = f"the headers are more than {self.head_lines} lines or {self.head:,} bytes"
        return refuse(431, message, code="headers_too_large")

    def body_too_large(self) -> Refusal:
        """Return what is said of a body past the limit."""
        return refuse(413, f"the body is larger than {self.body:,} bytes", code="too_large")
