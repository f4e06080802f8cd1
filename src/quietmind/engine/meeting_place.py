"""A folder of ours alone in which a child and we meet: its Unix socket, and files that it reads secrets from."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from quietmind.base.errors import EngineStartFailed
from quietmind.base.paths import shown_path

_LONGEST_FOLDER = 70  # a socket's path takes 104 bytes on macOS, 108 on Linux (unix(7)); ours adds 30


class MeetingPlace:
    """A new folder that goes away with this object; one that a killed process left goes away with the next.

    Raises EngineStartFailed where no folder can be made, or somebody else has made ours.
    """

    def __init__(self) -> None:
        self._secrets: list[Path] = []
        try:
            parent = _parent()
            with _Locked(parent):  # nobody sweeps between the making and the locking below
                _sweep(parent)
                self.folder = Path(tempfile.mkdtemp(dir=parent))
                held = os.open(self.folder, os.O_RDONLY)
                fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            raise EngineStartFailed(
                f"no private folder for the engine's socket ({error}); see $XDG_RUNTIME_DIR and $TMPDIR"
            ) from error
        self._finalizer = weakref.finalize(self, _remove, self.folder, held, os.getpid())

    @property
    def socket(self) -> Path:
        """Where the child listens; llama.cpp knows a socket by this ending."""
        return self.folder / "engine.sock"

    def secret(self, name: str, text: str) -> Path:
        """Write ``text`` to a file that only this user reads, and return its path; see :meth:`forget`."""
        path = self.folder / name
        self._secrets.append(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def forget(self) -> None:
        """Remove the secrets: the child has read them."""
        while self._secrets:
            self._secrets.pop().unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder. Calling it again does nothing."""
        self._finalizer()


class _Locked:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._held = os.open(self._folder, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._held)


def _parent() -> Path:
    """Return the folder of all such folders of this user. Raises OSError when it is not his alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    temporary = tempfile.gettempdir()
    for base in (runtime, temporary, "/tmp"):  # noqa: S108  # below, the folder is checked to be ours
        folder = Path(base) / f"quietmind-{os.geteuid()}"
        if base and len(os.fsencode(folder)) <= _LONGEST_FOLDER and os.access(base, os.W_OK | os.X_OK):
            break
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(f"{shown_path(folder)} is not this user's alone: remove it")
    return folder


def _sweep(parent: Path) -> None:
    for folder in parent.iterdir():
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as its process lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _remove(folder: Path, held: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork, whose parent still meets its child there
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(held)
