"""Work on the pieces of a cache in several threads, for codecs whose work lets go of the interpreter."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

# All cores, since products take one each; but what threads hold at once stays below a few GiB.
THREADS = min(32, os.cpu_count() or 1)

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def side_by_side(work: Callable[[Piece], Made], pieces: Iterable[Piece]) -> Iterator[Made]:
    """Yield what ``work`` makes of each piece, in order; a few are worked on at once, and no more are held.

    ``pieces`` is taken from in the caller's thread. No work is left behind, however the iteration ends. While it goes
    on, matrices are multiplied in one thread each.
    """
    with _PRODUCTS.in_one_thread(), ThreadPoolExecutor(THREADS, thread_name_prefix="snapshot") as pool:
        waiting: deque[Future[Made]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Products:
    """How many threads of its own NumPy's BLAS takes for each product.

    Where several threads multiply, each product in as many threads again has them wait for each other: with two on two
    cores, packing takes half as long again and unpacking a quarter. The number is the whole process's. A thread that
    does nothing else sets it for the first that asks, and sets it back after the last: threadpoolctl wants both to be
    done by the same one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._done = threading.Event()
        self._keeper = threading.Thread()

    @contextmanager
    def in_one_thread(self) -> Iterator[None]:
        """Let each product be made in the thread that asks for it."""
        with self._lock:
            if not self._asking:
                self._begin()
            self._asking += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    self._done.set()
                    self._keeper.join()

    def _begin(self) -> None:
        begun, self._done = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=_keep, args=(begun, self._done), name="products", daemon=True)
        self._keeper.start()
        begun.wait()


def _keep(begun: threading.Event, done: threading.Event) -> None:
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            begun.set()
            done.wait()
    finally:
        begun.set()


_PRODUCTS = _Products()


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # of those that are loaded, which takes some milliseconds
