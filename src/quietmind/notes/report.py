"""What bringing the index into step with the files did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quietmind.notes.scan import Skipped


@dataclass(frozen=True)
class RepairedFile:
    """A file whose text had been decoded wrongly once by ``codec``, in ``lines`` lines."""

    path: Path
    lines: int
    codec: str


@dataclass(frozen=True)
class OtherEncoding:
    """A file that is not in UTF-8."""

    path: Path
    encoding: str


@dataclass(frozen=True)
class Report:
    """What an update did. The counts are files, but ``passages``: those of the files read by this update.

    A renamed file counts once as removed and once as added. ``skipped`` are there but not indexed (or, when they
    could only not be read now, indexed as they were before).
    """

    root: Path
    added: int
    changed: int
    removed: int
    unchanged: int
    passages: int
    repaired: tuple[RepairedFile, ...]
    other_encodings: tuple[OtherEncoding, ...]
    skipped: tuple[Skipped, ...]
    seconds: float


@dataclass(frozen=True)
class Forgotten:
    """What forgetting ``root`` took out of the index: so many documents. ``kept`` lie below other roots as well."""

    root: Path
    removed: int
    kept: int
