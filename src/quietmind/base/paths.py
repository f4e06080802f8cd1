"""Where things live on this computer. Nothing here creates a folder; whoever writes does.

Where no home folder is known, every function that needs one raises UsageError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import platformdirs

from quietmind.base.errors import UsageError

_APP = "quietmind"
_LOST_SLASH = re.compile(r"^(https?:)/(?!/)")


def expanded(path: str) -> Path:
    """Return ``path`` with a leading ``~`` put in full. Raises UsageError where no such home folder is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{shown_path(path)}: no home folder is known for the ~ in it; write the path in full, or set $HOME"
        ) from error


def default_workspace(setting: str | None = None) -> Path:
    """Return the workspace folder: ``$QUIETMIND_WORKSPACE``, else what the settings say, else in the user's data."""
    given = os.environ.get("QUIETMIND_WORKSPACE") or setting
    return expanded(given) if given else _own(platformdirs.user_data_dir) / "workspace"


def models_folder() -> Path:
    """Return the folder that ``quietmind pull`` puts models in: ``$QUIETMIND_MODELS``, or the user's data."""
    given = os.environ.get("QUIETMIND_MODELS")
    return expanded(given) if given else _own(platformdirs.user_data_dir) / "models"


def measured_machines_file() -> Path:
    """Return the file that remembers what was measured on machines: ``$QUIETMIND_MEASURED``, or the user's data."""
    given = os.environ.get("QUIETMIND_MEASURED")
    return expanded(given) if given else _own(platformdirs.user_data_dir) / "machines.json"


def settings_file() -> Path:
    """Return the user's settings file: ``$QUIETMIND_SETTINGS``, or the user's configuration folder."""
    given = os.environ.get("QUIETMIND_SETTINGS")
    return expanded(given) if given else _own(platformdirs.user_config_dir) / "settings.toml"


def _own(folder: Callable[[str], str]) -> Path:
    try:
        return expanded(folder(_APP))
    except RuntimeError as error:
        raise UsageError(f"no home folder is known for this user ({error}); set $HOME to a folder of yours") from error


def shown_path(path: Path | str) -> str:
    """Return ``path`` as a person at this prompt would type it: relative below the current folder, else whole.

    A name that is not UTF-8 (Python carries its bytes as lone surrogates) is shown with those bytes escaped, and
    control characters (a newline in a file name) likewise, so that one path is always one line. An address on the web
    keeps the two slashes that a path would lose.
    """
    whole = Path(path)
    try:
        shown = str(whole.relative_to(Path.cwd())) if whole.is_absolute() else str(whole)
    except (ValueError, OSError):  # outside the current folder, or the current folder is gone
        shown = str(whole)
    shown = _LOST_SLASH.sub(r"\1//", shown)
    shown = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
