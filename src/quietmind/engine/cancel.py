"""Ending a generation from another thread, at any moment: also while the engine reads and says nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from quietmind.base.errors import Cancelled

# What the library calls the moments in which a connection has been made; TLS puts another socket in the place of one.
_OPENED = tuple(f"connection.{each}.complete" for each in ("connect_tcp", "connect_unix_socket", "start_tls"))


class Cancel:
    """Whether somebody still wants an answer. Set once, by any thread; whoever is at work on it ends at once."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._changing = threading.Lock()
        self._ending: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._set.is_set()

    def set(self) -> None:
        """Have what is at work end. Calling it again does nothing."""
        with self._changing:
            self._set.set()
            ending, self._ending = self._ending, []
        for end in ending:
            end()

    def wait(self, seconds: float) -> bool:
        """Return after ``seconds``, or sooner, with True, once nobody wants the answer."""
        return self._set.wait(seconds)

    def require_wanted(self) -> None:
        """Raise Cancelled where nobody wants the answer any more."""
        if self.requested:
            raise _cancelled()

    @contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """Within it ``end`` is called once it is set, by the thread that sets it; at once where it has been.

        Raises Cancelled in the place of whatever the block raises after that.
        """
        with self._changing:
            if listening := not self.requested:
                self._ending.append(end)
        if not listening:
            end()
        try:
            yield
        except Exception as error:
            if self.requested:
                raise _cancelled() from error
            raise
        finally:
            with self._changing, suppress(ValueError):
                self._ending.remove(end)


class Line:
    """The connection of one exchange, as the HTTP library opens it: what there is to hang up."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._connection: socket.socket | None = None
        self._hung_up = False

    def opened(self, event: str, told: dict[str, Any]) -> None:
        """Take the connection from what the library tells of its doings (the extension ``trace``)."""
        if event in _OPENED:
            with self._changing:
                self._connection = told["return_value"].get_extra_info("socket")
            if self._hung_up:
                self.hang_up()

    def hang_up(self) -> None:
        """End the exchange: whoever reads from the connection is woken, and the server sees its client leave."""
        with self._changing:
            self._hung_up = True
            if self._connection is not None:
                with suppress(OSError):  # closed already
                    self._connection.shutdown(socket.SHUT_RDWR)


def _cancelled() -> Cancelled:
    return Cancelled("nobody waits for the answer any more, and it was broken off")
