"""Asking the metadata of a model's file for a fact: by key, with its kind and range checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quietmind.base.errors import ModelFileDamaged
from quietmind.base.paths import shown_path

SHOWN = 40  # characters of a value that a message repeats
LARGEST = 1 << 31  # no count or width of a model comes near


class Facts:
    """The metadata of a file, asked by key. A value of the wrong kind is damage, and so is a missing one.

    ``noun`` is what the file's kind calls an entry, ``remedy`` what to do about a missing one.
    """

    def __init__(
        self,
        metadata: Mapping[str, object],
        path: Path,
        noun: str = "metadata",
        remedy: str = "fetch another conversion of the model",
    ) -> None:
        self._metadata = metadata
        self._path = path
        self._noun = noun
        self._remedy = remedy

    @property
    def path(self) -> Path:
        """The file that the facts are from."""
        return self._path

    @property
    def source(self) -> str:
        """What a message calls that file."""
        return shown_path(self._path)

    def __contains__(self, key: str) -> bool:
        return key in self._metadata

    def damaged(self, what: str) -> ModelFileDamaged:
        """Return the error to raise: the file, and ``what`` is wrong with it."""
        return ModelFileDamaged(f"{shown_path(self._path)}: {what}")

    def _impossible(self, key: str, value: object) -> ModelFileDamaged:
        said = ascii(value)
        shown = said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
        return self.damaged(f"{self._noun} {key} is not a number that a model could have: {shown}; fetch it again")

    def get(self, key: str) -> object:
        """Return the raw value, None where the key is missing."""
        return self._metadata.get(key)

    def text(self, key: str) -> str | None:
        """Return a text, None where the key is missing."""
        value = self._metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self.damaged(f"{self._noun} {key} is not a text; fetch it again")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number from 0 (from 1 where the key has no default) up; ``default`` if it is missing."""
        value = self._metadata.get(key, default)
        if value is None:
            raise self.damaged(f"lacks the {self._noun} {key}; {self._remedy}")
        if value == default and key not in self._metadata:
            return int(default or 0)
        least = 1 if default is None else 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < LARGEST:
            raise self._impossible(key, value)
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number that is not negative; ``default`` if it is missing."""
        value = self._metadata.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise self._impossible(key, value)
        return float(value)

    def per_layer(self, key: str, layers: int, default: int | None = None) -> tuple[int, ...]:
        """Return one count a layer, from an array or from one number for all."""
        value = self._metadata.get(key)
        if not isinstance(value, tuple):
            return (self.count(key, default),) * layers
        if len(value) != layers:
            raise self.damaged(f"{self._noun} {key} has {len(value):,} entries for {layers:,} layers; fetch it again")
        if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < LARGEST for item in value):
            raise self.damaged(f"{self._noun} {key} holds a number that no model could have; fetch it again")
        return tuple(int(item) for item in value)
