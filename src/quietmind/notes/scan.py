"""Walking a folder, or the part of it that changed, for files that may be notes. Nothing is opened or read."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.notes.reading import ENDINGS, FileState, largest, too_large

_FETCHED = frozenset({"__pycache__", "bower_components", "node_modules", "site-packages"})


@dataclass(frozen=True, slots=True)
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
    """What a walk found, each in the order of the paths' bytes.

    ``mounts`` are the folders inside ``root`` that lie on another disk than the folder around them.
    """

    root: Path
    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]
    mounts: tuple[str, ...] = ()


def scan(root: Path) -> Scan:
    """Walk ``root`` for notes, by their endings. Hidden folders, and those that package managers fill, are passed over,
    folders behind links not entered.

    A link to a file counts as that file, once for each real file. Raises NotesError when ``root`` does not exist, is
    no folder, cannot be listed or holds no notes.
    """
    root = real_folder(root)
    skipped: list[Skipped] = []
    mounts: list[str] = []
    files, links = _looked_at(_entries(str(root), skipped, mounts), skipped)
    known = {found.state.inode for found in files}
    for link in sorted(links, key=_order):
        if link.state.inode not in known:
            known.add(link.state.inode)
            files.append(link)
    if not files and not skipped:
        endings = " ".join(sorted(ENDINGS))
        raise NotesError(f"{shown_path(root)}: holds no notes (files that end with {endings}); choose another folder")
    return Scan(root, tuple(sorted(files, key=_order)), tuple(sorted(skipped, key=_order)), tuple(sorted(mounts)))


def look(root: Path, paths: Collection[str]) -> Scan | None:
    """Look for notes at ``paths`` and below them only, as :func:`scan` would come by them.

    What is not there, or lies outside of ``root`` or in a hidden folder, is not found. None where a link or ``root``
    itself is among them: what counts then, only a walk of the whole of ``root`` tells. Raises NotesError as
    :func:`real_folder`.
    """
    root = real_folder(root)
    if str(root) in paths:
        return None
    skipped: list[Skipped] = []
    chosen: list[os.DirEntry[str]] = []
    for folder, names in _by_folder(root, paths).items():
        if os.path.realpath(folder) != folder:
            continue  # behind a link now
        try:
            # Listed and not asked for by name: where names differ in case only, it is the listing that counts.
            with os.scandir(folder) as listing:
                chosen += [entry for entry in listing if entry.name in names]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            skipped.append(_not_listed(folder, error))
    entries: list[os.DirEntry[str]] = []
    for entry in chosen:
        if not entry.is_dir(follow_symlinks=False):
            entries += [entry] if _may_be_note(entry.name) else []
        elif not passed_over(entry.name):
            entries += _entries(entry.path, skipped, [])
    files, links = _looked_at(entries, skipped)
    if links or any(skip.path.is_symlink() for skip in skipped):
        return None
    unique = {found.path: found for found in files}  # a folder and a file in it may both have been named
    return Scan(root, tuple(sorted(unique.values(), key=_order)), tuple(sorted(set(skipped), key=_order)))


def may_matter(root: str, path: str) -> bool:
    """Say whether a change at ``path`` can concern the notes below ``root``: a note by its ending, or a folder.

    What is gone may have been either. Anything else, and what lies in hidden folders, does not matter.
    """
    inside = os.path.join(root, "")  # noqa: PTH118 - a Path has no trailing separator
    if path == root:
        return True
    if not path.startswith(inside):
        return False
    *folders, name = Path(path[len(inside) :]).parts
    if any(map(passed_over, folders)):
        return False
    if _may_be_note(name):
        return True
    return not passed_over(name) and (os.path.isdir(path) or not os.path.lexists(path))  # noqa: PTH112


def passed_over(folder: str) -> bool:
    """Say whether a folder of this name holds no one's notes: a hidden one, or what a package manager has fetched."""
    return folder.startswith(".") or folder in _FETCHED


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


def _by_folder(root: Path, paths: Iterable[str]) -> dict[str, set[str]]:
    """Return the names to look for in each folder: of ``paths`` inside ``root`` and in no hidden folder."""
    wanted: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if may_matter(str(root), path):
            wanted.setdefault(folder, set()).add(name)
    return wanted


def _entries(root: str, skipped: list[Skipped], mounts: list[str]) -> Iterator[os.DirEntry[str]]:
    """Yield the entries below ``root`` whose names end like notes and that are not themselves folders."""
    folders: list[tuple[str, int | None]] = [(root, None)]
    while folders:
        folder, device_around = folders.pop()
        try:
            device = os.stat(folder).st_dev  # noqa: PTH116 - see Found
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            skipped.append(_not_listed(folder, error))
            continue
        if device_around not in (None, device):
            mounts.append(folder)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not passed_over(entry.name):
                    folders.append((entry.path, device))
            elif _may_be_note(entry.name):
                yield entry


def _looked_at(entries: Iterable[os.DirEntry[str]], skipped: list[Skipped]) -> tuple[list[Found], list[Found]]:
    """Return the files among ``entries``, and what links lead to; add to ``skipped``."""
    files: list[Found] = []
    links: list[Found] = []
    for entry in entries:
        try:
            status = entry.stat()  # of a link's target
        except OSError as error:
            reason = "a link that leads nowhere" if entry.is_symlink() else _why(error)
            skipped.append(Skipped(Path(entry.path), reason, transient=True))
            continue
        if not stat.S_ISREG(status.st_mode):
            continue  # a pipe, a socket, a folder behind a link
        if status.st_size > largest(entry.name):
            skipped.append(Skipped(Path(entry.path), too_large(status.st_size, entry.name)))
            continue
        (links if entry.is_symlink() else files).append(Found(entry.path, FileState.of(status)))
    return files, links


def _may_be_note(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122 - see Found


def _not_listed(folder: str, error: OSError) -> Skipped:
    return Skipped(Path(folder), f"the folder cannot be listed ({_why(error)})", transient=True)


def _order(item: Found | Skipped) -> bytes:
    return os.fsencode(item.path)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
