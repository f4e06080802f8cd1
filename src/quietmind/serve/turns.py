"""Who is next: requests take turns at an engine in the order they came, and each can learn its place."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from quietmind.base.errors import LineFull

MOST_WAITING = 64  # each keeps its body in memory


class Turns:
    """The line before one engine, which answers ``width`` requests at once. For one event loop."""

    def __init__(self, width: int = 1, most_waiting: int = MOST_WAITING) -> None:
        self.width = width
        self._most = width + most_waiting
        self._line: list[Ticket] = []

    @property
    def waiting(self) -> int:
        """How many are in line whose turn it is not yet."""
        return max(0, len(self._line) - self.width)

    @property
    def answering(self) -> int:
        """How many have their turn now."""
        return min(len(self._line), self.width)

    def join(self) -> Ticket:
        """Return a place at the end of the line. Raises LineFull when so many wait already."""
        if len(self._line) >= self._most:
            raise LineFull(f"{self.waiting} requests are waiting already; try again later")
        ticket = Ticket(self)
        self._line.append(ticket)
        return ticket

    def place_of(self, ticket: Ticket) -> int:
        """Return 0 for a ticket whose turn it is, 1 for the next, and so on."""
        return max(0, self._line.index(ticket) - self.width + 1)

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out of the line, wherever it stands; those behind it move up."""
        if ticket in self._line:
            self._line.remove(ticket)
            for other in self._line:
                other.moved.set()


class Ticket:
    """A place in the line. Leaving the ``with`` block gives it up, used or not."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.moved = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turns.leave(self)

    @property
    def place(self) -> int:
        """0 when it is this ticket's turn, 1 when it is next, and so on."""
        return self._turns.place_of(self)

    async def wait(self, patience: float) -> None:
        """Return once the line has moved, or after ``patience`` seconds."""
        try:
            await asyncio.wait_for(self.moved.wait(), patience)
        except TimeoutError:
            return
        self.moved.clear()
