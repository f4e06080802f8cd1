"""One generation at a time, and whose turn it is."""

from __future__ import annotations

import threading
from types import TracebackType

from quietmind.base.errors import EngineRefused


class Turn:
    """Held while a generation is open. Other threads wait; the thread that already holds it is told so.

    A generator may be closed by another thread than the one that ran it (garbage collection), so that this is a
    plain lock with its owner beside it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise EngineRefused("a generation is still open on this engine; read it to its end or close it first")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._owner = None
        self._lock.release()
