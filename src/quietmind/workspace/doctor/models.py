"""The models that are here, and which of them are damaged."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from quietmind.base.errors import ModelFileDamaged, ModelNotFound, ModelNotUnderstood, QuietmindError
from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.model.gguf import read_card
from quietmind.model.locate import Installed, installed, locate
from quietmind.workspace.doctor.finding import Finding, better, fine, hinders


def check(wanted: str) -> list[Finding]:
    """Look at every model file that is found by name; ``wanted`` is the model of the settings."""
    there = installed()
    return [*listed(there), *(finding for model in there for finding in damaged(model)), *default(wanted)]


def listed(there: Sequence[Installed]) -> list[Finding]:
    """Say how many models there are, and where."""
    if not there:
        return [hinders("models", "none is here, so nothing can be asked", "quietmind pull tiny")]
    places = ", ".join(f"{count} in {source}" for source, count in Counter(model.source for model in there).items())
    return [fine("models", f"{places}; {format_bytes(sum(model.bytes for model in there))}")]


def damaged(model: Installed) -> list[Finding]:
    """Say what is wrong with a model's file, from its header and its size; the weights themselves are not read."""
    try:
        read_card(model.path)
    except (ModelFileDamaged, ModelNotFound) as error:
        said = str(error).removeprefix(f"{shown_path(model.path)}: ").partition("; ")[0]
        return [better("models", f"{shown_path(model.path)}: damaged: {said}", _fetch_again(model))]
    except ModelNotUnderstood as error:
        return [fine("models", f"cannot be planned: {error}")]
    except QuietmindError as error:
        return [better("models", str(error), "check its permissions")]
    return []


def default(wanted: str) -> list[Finding]:
    """Say where the model of the settings cannot be used."""
    try:
        read_card(locate(wanted))
    except QuietmindError as error:
        text = f"the model of the settings, {wanted}, cannot be used: {str(error).partition('; ')[0]}"
        known = isinstance(error, ModelNotFound)
        fix = f"quietmind pull {shlex.quote(wanted)}" if known else "name another model in settings.toml"
        return [hinders("models", text, fix)]
    return []


def _fetch_again(model: Installed) -> str:
    if model.source == "Ollama":
        return f"ollama pull {shlex.quote(model.name)}"
    return f"rm {shlex.quote(_plain(model.path))}, and fetch it again"


def _plain(path: Path) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
