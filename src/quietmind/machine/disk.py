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
    """Return ``folder``, or its nearest parent that exists and may be looked at."""
    try:
        folder = folder.expanduser().absolute()
    except (OSError, RuntimeError):  # the current folder is gone, or there is no such home
        return folder
    while not _is_folder(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # below a folder that we may not enter
        return False
