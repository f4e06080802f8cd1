"""What the log may say while questions are answered: where something happened, and never what it was about.

Messages of libraries quote what they were given (a validation error its input, a parser the line), which is what
somebody has asked or noted. So of a record that is none of ours only its place is written, and of an exception its
type and the way to it.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

LOG = logging.getLogger("quietmind.serve")

# asyncio warns of every client that goes away in a burst of tokens, uvicorn of every request that the end cuts short.
_QUIETER = {"asyncio": logging.ERROR, "uvicorn.error": logging.CRITICAL}


class Discreet(logging.Formatter):
    """Writes a record in lines that quote nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of ``record``; our own messages are constants, and stand there as they are."""
        said = record.getMessage() if record.name == LOG.name else f"{record.levelname.lower()} of {record.name}"
        lines = [f"{said} ({record.module}:{record.lineno})"]
        if record.exc_info and record.exc_info[0] is not None:
            lines += way_to(record.exc_info[0], record.exc_info[2])
        return "\n".join(lines)


def way_to(kind: type[BaseException], trace: TracebackType | None) -> list[str]:
    """Return the type of an exception and the lines of code that it came through, without its message."""
    frames = traceback.extract_tb(trace)
    return [f"  {kind.__qualname__}", *(f"    {each.filename}:{each.lineno} in {each.name}" for each in frames)]


@contextmanager
def discretion() -> Iterator[None]:
    """Have everything that is logged within it go to standard error, warnings and worse, and quote nothing."""
    told = logging.StreamHandler(sys.stderr)
    told.setLevel(logging.WARNING)
    told.setFormatter(Discreet())
    told.addFilter(lambda each: (each.name, each.levelno) != ("asyncio", logging.WARNING))  # of clients that go away
    root, in_threads = logging.getLogger(), threading.excepthook
    before = root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in _QUIETER}

    def in_thread(ended: threading.ExceptHookArgs) -> None:
        LOG.error("a thread ended", exc_info=(ended.exc_type, ended.exc_value or ended.exc_type(), ended.exc_traceback))

    root.handlers[:] = [told]
    threading.excepthook = in_thread
    for name, level in _QUIETER.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        root.handlers[:] = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        threading.excepthook = in_threads
