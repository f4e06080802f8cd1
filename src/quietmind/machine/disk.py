"""The disk that holds the models."""

from __future__ import annotations

import shutil
from pathlib import Path

from quietmind.machine.machine import Disk


def disk_of(folder: Path) -> Disk:
    """Return the disk of ``folder``, which need not exist yet: then its nearest parent that does is looked at."""
    place = existing(folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        free = None
    return Disk(path=str(place), free_bytes=free)


def existing(folder: Path) -> Path:
    """Return ``folder``, or its nearest parent that exists."""
    folder = folder.expanduser().absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
