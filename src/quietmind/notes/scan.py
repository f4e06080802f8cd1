"""Walking a folder for files that may be notes. Nothing is opened or read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.notes.reading import ENDINGS, MAX_FILE_BYTES, FileState, too_large


@dataclass(frozen=True)
class Found:
    """A file that may be a note. ``path`` is absolute; a name that is not UTF-8 carries its bytes as surrogates.

    It is a string because making and hashing Paths would be most of the time of a walk that finds nothing new.
    """

    path: str
    state: FileState


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why. ``transient``: it is there but could not be looked at now."""

    path: Path
    reason: str
    transient: bool = False


@dataclass(frozen=True)
class Scan:
    """What a walk found, each in the order of the paths' bytes."""

    root: Path
    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]


def scan(root: Path) -> Scan:
    """Walk ``root`` for notes, by their endings. Hidden folders are passed over, folders behind links not entered.

    A link to a file counts as that file, once for each real file. Raises NotesError when ``root`` does not exist, is
    no folder, cannot be listed or holds no notes.
    """
    root = real_folder(root)
    files: list[Found] = []
    links: list[Found] = []
    skipped: list[Skipped] = []
    for entry in _entries(root, skipped):
        try:
            status = entry.stat()  # of a link's target
        except OSError as error:
            reason = "a link that leads nowhere" if entry.is_symlink() else _why(error)
            skipped.append(Skipped(Path(entry.path), reason, transient=True))
            continue
        if not stat.S_ISREG(status.st_mode):
            continue  # a pipe, a socket, a folder behind a link
        if status.st_size > MAX_FILE_BYTES:
            skipped.append(Skipped(Path(entry.path), too_large(status.st_size)))
            continue
        (links if entry.is_symlink() else files).append(Found(entry.path, FileState.of(status)))
    known = {found.state.inode for found in files}
    for link in sorted(links, key=_order):
        if link.state.inode not in known:
            known.add(link.state.inode)
            files.append(link)
    if not files and not skipped:
        endings = " ".join(sorted(ENDINGS))
        raise NotesError(f"{shown_path(root)}: holds no notes (files that end with {endings}); choose another folder")
    return Scan(root, tuple(sorted(files, key=_order)), tuple(sorted(skipped, key=_order)))


def real_folder(root: Path) -> Path:
    """Return ``root`` with all links resolved, so that one folder has one name.

    Raises NotesError when ``root`` does not exist, is no folder or cannot be listed.
    """
    try:
        real = Path(os.path.realpath(root))
        with os.scandir(real):
            return real
    except FileNotFoundError as error:
        raise NotesError(f"{shown_path(root)}: there is no such folder; check the name") from error
    except NotADirectoryError as error:
        raise NotesError(f"{shown_path(root)}: is not a folder; name the folder that holds the notes") from error
    except OSError as error:
        raise NotesError(f"{shown_path(root)}: cannot be listed ({_why(error)}); check its permissions") from error
    except ValueError as error:  # a NUL in the name
        raise NotesError(f"{shown_path(root)}: is not a folder name ({error})") from error


def _entries(root: Path, skipped: list[Skipped]) -> Iterator[os.DirEntry[str]]:
    """Yield the entries below ``root`` whose names end like notes and that are not themselves folders."""
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            skipped.append(Skipped(Path(folder), f"the folder cannot be listed ({_why(error)})", transient=True))
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    folders.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in ENDINGS:  # noqa: PTH122 - see Found
                yield entry


def _order(item: Found | Skipped) -> bytes:
    return os.fsencode(item.path)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
