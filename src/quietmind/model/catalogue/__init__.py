"""Models that are known by name: public ones, each a file beside this one, and those that Python packages carry.

An entry holds the numbers of the model's own ``config.json``, so that a plan can be made before anything is fetched.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

from quietmind.model.catalogue.packaged import CATALOGUE, Packaged
from quietmind.model.config import shape_of
from quietmind.model.shape import Shape

__all__ = ["CATALOGUE", "Entry", "Packaged", "entries", "entry"]


@dataclass(frozen=True)
class Entry:
    """A public model. ``source`` is the file on the Hugging Face hub that ``config`` is from: OWNER/NAME/config.json.

    ``basis`` is what the numbers rest on where they are not of that file, "" where they are.
    ``documented_context`` is what its makers promise without an extension, None where that is the native context: what
    the configuration says, and engines go by.
    ``parameters`` is the published total of the language model, None where only a rounded one is published.
    ``quantizations`` are those commonly published, the usual one first.
    """

    name: str
    aliases: tuple[str, ...]
    source: str
    licence: str
    quantizations: tuple[str, ...]
    config: Mapping[str, object]
    parameters: int | None = None
    note: str = ""
    basis: str = ""
    documented_context: int | None = None

    @cached_property
    def shape(self) -> Shape:
        """The shape that the configuration describes."""
        return shape_of(self.config, self.name, Path(f"{self.name}/config.json"))


@cache
def entries() -> tuple[Entry, ...]:
    """Return the public models, by name."""
    folder = files(__name__)
    found = [_entry(item.read_text(encoding="utf-8")) for item in folder.iterdir() if item.name.endswith(".toml")]
    return tuple(sorted(found, key=lambda entry: entry.name.casefold()))


def entry(name: str) -> Entry | None:
    """Return the public model of that name or alias, whatever its case; None if there is none."""
    wanted = name.strip().casefold()
    for model in entries():
        if wanted in (model.name.casefold(), *(alias.casefold() for alias in model.aliases)):
            return model
    return None


def _entry(text: str) -> Entry:
    facts = tomllib.loads(text)
    facts["aliases"], facts["quantizations"] = tuple(facts["aliases"]), tuple(facts["quantizations"])
    return Entry(**facts)
