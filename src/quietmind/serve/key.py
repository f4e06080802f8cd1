"""The file that holds the key which clients must show."""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import UsageError
from quietmind.base.paths import shown_path

_LARGEST = 4096  # bytes
_LEAST = 16  # characters; a shorter one can be guessed by trying


@dataclass(frozen=True)
class Key:
    """A key; ``new`` if it was made just now, which is the one time to show it."""

    text: str
    new: bool


def key_of(file: Path) -> Key:
    """Return the key in ``file``, which is created with a new one, for its owner alone, if it is not there.

    Raises UsageError for a file that others may read, with the command that closes it, and for one that holds no key.
    """
    shown = shown_path(file)
    new = False
    try:
        with suppress(FileExistsError):
            created = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(created, "w", encoding="ascii") as made:
                made.write(secrets.token_urlsafe(32) + "\n")
            new = True
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{shown}: the key cannot be read ({error.strerror}); name another --key-file") from error
    if mode & 0o077:
        raise UsageError(
            f"{shown}: others may read this key (mode {mode:04o}); close it with `chmod 600 {shlex.quote(shown)}`"
        )
    key = content.decode("ascii", "replace").strip()
    if not _LEAST <= len(key) <= _LARGEST or not all(33 <= ord(character) <= 126 for character in key):
        raise UsageError(f"{shown}: holds no key of {_LEAST} or more plain characters; remove it and a new one is made")
    return Key(key, new)
