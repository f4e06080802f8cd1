"""Calls that block, made from an event loop in threads of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


async def in_thread(call: Callable[[], _Answer], patience: float | None) -> _Answer:
    """Return what ``call`` returns in a thread that nothing waits for at the end of the program.

    Raises what ``call`` raises, and TimeoutError after ``patience`` seconds; None waits for as long as it takes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Answer] = loop.create_future()

    def settle(answer: _Answer | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(answer)  # type: ignore[arg-type]  # there is an answer where there is no error

    def run() -> None:
        answer, error = None, None
        try:
            answer = call()
        except BaseException as raised:  # handed on, whatever it is
            error = raised
        try:
            loop.call_soon_threadsafe(settle, answer, error)
        except RuntimeError:  # the loop has ended meanwhile
            return

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wait_for(done, patience)
