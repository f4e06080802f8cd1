"""Disk space, who may read what is private, and whether the workspace opens."""

from __future__ import annotations

import shlex
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from quietmind.base.errors import NothingIndexed, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.machine.disk import existing
from quietmind.workspace.doctor.finding import Finding, better, fine, hinders
from quietmind.workspace.running import find
from quietmind.workspace.workspace import Workspace

# The index of 20,000 pages takes some hundred MiB, a small model some GiB.
_LEAST_FOR_WORKSPACE, _LEAST_FOR_MODELS = 1 << 30, 10 << 30


def disk_space(models: Path, workspace: Path) -> list[Finding]:
    """Say how much room there is for models and for the index."""
    return [
        *space(
            "models", models, _free(models), _LEAST_FOR_MODELS, "free some, or name another disk in $QUIETMIND_MODELS"
        ),
        *space(
            "workspace", workspace, _free(workspace), _LEAST_FOR_WORKSPACE, "free some, or choose another --workspace"
        ),
    ]


def space(subject: str, folder: Path, free: int | None, least: int, fix: str) -> list[Finding]:
    """Say how much room is left for ``folder``; nothing where that is not known."""
    if free is None:
        return []
    text = f"{format_bytes(free)} free for {shown_path(folder)}"
    return [fine(subject, text) if free >= least else better(subject, text, fix)]


def key_files(workspace: Path) -> list[Path]:
    """Return the file of the key that is in use now, if one is."""
    try:
        running = find(workspace)
    except WorkspaceError:
        return []
    return [Path(running.key_file)] if running is not None and running.key_file else []


def private(workspace: Path, keys: Sequence[Path]) -> list[Finding]:
    """Say where other users of this computer may read the notes' index, the logs or a key."""
    findings = []
    if reachable(workspace):
        text = f"others may look into {shown_path(workspace)}, which holds the text of the notes"
        findings.append(better("workspace", text, f"chmod 700 {shlex.quote(str(workspace))}"))
    for key in keys:
        mode = _mode(key)
        if mode is not None and mode & 0o077:
            text = f"others may read the key in {shown_path(key)}"
            findings.append(hinders("key", text, f"chmod 600 {shlex.quote(str(key))}"))
    return findings


def reachable(folder: Path) -> bool:
    """Say whether users outside the owner's group can list ``folder``: it and all above it must let them pass."""
    mode = _mode(folder)
    if mode is None or not mode & stat.S_IROTH:
        return False
    return all((_mode(each) or 0) & stat.S_IXOTH for each in (folder, *folder.absolute().parents))


def opens(workspace: Path) -> list[Finding]:
    """Say whether the index in ``workspace`` can be used, and what it holds."""
    try:
        with Workspace(workspace) as opened:
            roots = opened.roots()
    except NothingIndexed:
        return [fine("workspace", f"{shown_path(workspace)}: no notes are indexed yet", "quietmind index FOLDER")]
    except WorkspaceError as error:
        said, _, fix = str(error).rpartition("; ")
        return [hinders("workspace", said or str(error), fix if said else "choose another --workspace")]
    return [fine("workspace", f"{shown_path(workspace)}: notes of {_listed(roots)}"), *_missing(roots)]


def _missing(roots: Iterable[Path]) -> list[Finding]:
    return [
        better(
            "notes",
            f"{shown_path(root)} is not there",
            f"plug it in, or `quietmind index --forget {shlex.quote(str(root))}`",
        )
        for root in roots
        if not root.is_dir()
    ]


def _listed(roots: Sequence[Path]) -> str:
    return ", ".join(shown_path(root) for root in roots) or "no folder"


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(existing(folder)).free
    except OSError:
        return None


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
