"""Where things live on this computer. Nothing here creates a folder; whoever writes does."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "quietmind"


def default_workspace() -> Path:
    """Return the workspace folder: ``$QUIETMIND_WORKSPACE``, or the user's data folder."""
    given = os.environ.get("QUIETMIND_WORKSPACE")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir(_APP)) / "workspace"


def models_folder() -> Path:
    """Return the folder that ``quietmind pull`` puts models in: ``$QUIETMIND_MODELS``, or the user's data."""
    given = os.environ.get("QUIETMIND_MODELS")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir(_APP)) / "models"


def measured_machines_file() -> Path:
    """Return the file that remembers what was measured on machines: ``$QUIETMIND_MEASURED``, or the user's data."""
    given = os.environ.get("QUIETMIND_MEASURED")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir(_APP)) / "machines.json"


def settings_file() -> Path:
    """Return the user's settings file: ``$QUIETMIND_SETTINGS``, or the user's configuration folder."""
    given = os.environ.get("QUIETMIND_SETTINGS")
    return Path(given).expanduser() if given else Path(platformdirs.user_config_dir(_APP)) / "settings.toml"


def shown_path(path: Path | str) -> str:
    """Return ``path`` as a person at this prompt would type it: relative below the current folder, else whole.

    A name that is not UTF-8 (Python carries its bytes as lone surrogates) is shown with those bytes escaped, and
    control characters (a newline in a file name) likewise, so that one path is always one line.
    """
    whole = Path(path)
    try:
        shown = str(whole.relative_to(Path.cwd())) if whole.is_absolute() else str(whole)
    except (ValueError, OSError):  # outside the current folder, or the current folder is gone
        shown = str(whole)
    shown = shown.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
