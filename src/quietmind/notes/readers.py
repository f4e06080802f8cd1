"""Reading files for the index, many at a time: one process for each core, where there is enough to read.

What is read comes in the order in which it was asked for, so that an index does not depend on the number of readers.
A reader that dies is done without: what it was reading is read here.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Self

from quietmind.base.units import MIB
from quietmind.notes.intake import Refused, Same, Taken, Wanted, take
from quietmind.notes.scan import Skipped

_WORTH_BYTES = 3 * MIB  # takes one core about 3 s; a reader takes half a second of it to load its libraries
_FILE_BYTES = 256  # in the time that a file takes besides what it holds, so much is read
_MOST_READERS = 6  # what they give is written by one process, which has enough to do with so many
_BUNDLE_BYTES = 256 << 10  # of files: a quarter of a second, so that a bundle costs little and no reader waits long
_BUNDLE_FILES = 64
# Of the paths in a bundle. A reader may hold a bundle that it has not read yet while its results are not read either:
# what is written to it must then fit into the pipe (16 KiB on some systems), or both would wait for ever.
_BUNDLE_NAMES = 6 << 10
_AHEAD = 2  # bundles that a reader has to do: while one is written, it goes on with the next

Item = Taken | Same | Refused | Skipped


def readers_for(files: int, size: int) -> int:
    """Return how many processes should read so many files of ``size`` bytes in all; 0: this one does it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_READERS) if cores > 1 and size + files * _FILE_BYTES >= _WORTH_BYTES else 0


def read_all(wanted: Sequence[tuple[Wanted, int]], readers: int) -> Generator[Item, None, None]:
    """Yield what each of the ``wanted`` files, which come with their sizes, gives; in order, by so many processes."""
    if not readers:
        for each, _ in wanted:
            yield take(each)
        return
    bundles = _bundles(wanted)
    waiting: deque[tuple[_Reader, list[Wanted]]] = deque()
    with ExitStack() as stack:
        for reader in _started(readers, stack) * _AHEAD:
            if bundle := next(bundles, None):
                reader.ask(bundle)
                waiting.append((reader, bundle))
        while waiting:
            reader, bundle = waiting.popleft()
            items = reader.answer()
            if items is not None and (following := next(bundles, None)):
                reader.ask(following)
                waiting.append((reader, following))
            yield from map(take, bundle) if items is None else items
        for bundle in bundles:  # no reader is left
            yield from map(take, bundle)


def _started(count: int, stack: ExitStack) -> list[_Reader]:
    """Return ``count`` readers, or as many as the system lets us have; ``stack`` ends them."""
    readers: list[_Reader] = []
    with suppress(OSError):
        while len(readers) < count:
            readers.append(stack.enter_context(_Reader()))
    return readers


def _bundles(wanted: Iterable[tuple[Wanted, int]]) -> Iterator[list[Wanted]]:
    """Yield ``wanted`` in bundles; none is empty."""
    bundle: list[Wanted] = []
    size = names = 0
    for each, bytes_ in wanted:
        name = len(os.fsencode(each.path))
        full = size + bytes_ > _BUNDLE_BYTES or names + name > _BUNDLE_NAMES or len(bundle) == _BUNDLE_FILES
        if bundle and full:
            yield bundle
            bundle, size, names = [], 0, 0
        bundle.append(each)
        size, names = size + bytes_, names + name
    if bundle:
        yield bundle


class _Reader:
    """A process that reads. What it is asked is answered in the same order."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: without it, a json.py in the folder that the person happens to be in would be run.
            [sys.executable, "-P", "-m", "quietmind.notes.reader_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what went wrong there goes wrong here again, and is told of then
            start_new_session=True,  # Ctrl-C on the terminal is ours to act on
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()  # it holds nothing that could be lost
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()

    def ask(self, bundle: list[Wanted]) -> None:
        """Have it read ``bundle``."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: there will be no answer
            pickle.dump(bundle, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()

    def answer(self) -> list[Item] | None:
        """Return what the bundle gave that it was asked for first, None if the process died over it."""
        assert self._process.stdout is not None
        try:
            items: list[Item] = pickle.load(self._process.stdout)  # noqa: S301 - from a process that we started
        except (EOFError, pickle.UnpicklingError):
            return None
        return items
