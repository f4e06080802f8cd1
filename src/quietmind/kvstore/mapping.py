"""A file's content as memory that several threads may fill. That the disk is full is found out before."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

_ZEROS = 1 << 20


@contextmanager
def mapped(file: BinaryIO, size: int) -> Iterator[memoryview]:
    """Give the content of ``file``, which is empty and open both ways, as ``size`` writable bytes.

    All of the room is taken first: a page that finds no space when it is written to ends the process (SIGBUS). Raises
    OSError, of which ENOSPC says that the disk is too full.
    """
    if size == 0:
        yield memoryview(bytearray())  # nothing cannot be mapped
        return
    _take_room(file, size)
    memory = mmap.mmap(file.fileno(), size)
    try:
        yield memoryview(memory)
    finally:
        with suppress(BufferError):  # an error that is on its way may still hold a piece; it goes with the error
            memory.close()


def _take_room(file: BinaryIO, size: int) -> None:
    state = os.fstatvfs(file.fileno())
    known = state.f_blocks > 0  # some network disks say nothing of themselves
    if known and size > state.f_bavail * state.f_frsize:  # else a hostile size fills the disk before it is too large
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what disks say that cannot take room ahead
                raise
    for start in range(0, size, _ZEROS):
        file.write(bytes(min(_ZEROS, size - start)))
    file.flush()
