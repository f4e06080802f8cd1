"""Work on the pieces of a cache in several threads, for codecs whose work lets go of the interpreter."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(8, os.cpu_count() or 1)

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def side_by_side(work: Callable[[Piece], Made], pieces: Iterable[Piece]) -> Iterator[Made]:
    """Yield what ``work`` makes of each piece, in order; a few are worked on at once, and no more are held.

    ``pieces`` is taken from in the caller's thread. No work is left behind, however the iteration ends.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="snapshot") as pool:
        waiting: deque[Future[Made]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
