"""What a notebook is: an ordered selection of notes that the model reads once, and the order that keeps that cheap."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quietmind.notes.document import Passage

SourceKind = Literal["path", "query", "tag", "auto"]


@dataclass(frozen=True)
class Source:
    """Where a notebook's notes come from: all below a path, what a query finds, what bears a tag, or a division."""

    kind: SourceKind
    value: str


@dataclass(frozen=True)
class Member:
    """A note of a notebook, whole or from ``first_line`` to ``last_line``."""

    path: Path
    first_line: int | None = None
    last_line: int | None = None


@dataclass(frozen=True)
class Version:
    """The state of a member's file: the SHA-256 of its bytes, and when it was written, in nanoseconds."""

    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Reading:
    """What was read of a notebook, and when.

    ``fingerprint`` is the digest of the run that read it, ``content`` of the blocks that it was made of. Reading its
    ``tokens`` from nothing takes ``seconds``.
    """

    fingerprint: str
    content: str
    tokens: int
    seconds: float
    when: str  # ISO 8601, UTC


@dataclass(frozen=True)
class Notebook:
    """A notebook as it is kept. ``members`` are in the order in which they are read."""

    name: str
    source: Source
    members: tuple[Member, ...]
    made: str
    reading: Reading | None = None


@dataclass(frozen=True)
class Block:
    """A passage as it stands in a notebook, under the number by which the model may cite it."""

    number: int
    passage: Passage

    @property
    def text(self) -> str:
        """What the model reads of it."""
        passage = self.passage
        said = f" ({passage.speaker}, {passage.when})" if passage.speaker and passage.when else ""
        return f"[{self.number}] {passage.place}{said}\n{passage.text.strip()}\n"


def arranged(before: Sequence[tuple[Member, str]], now: Mapping[Member, Version]) -> tuple[Member, ...]:
    """Return the members of ``now`` in the order that makes reading them again cheapest.

    A cache serves up to the first token that differs. So what has not changed since it was read keeps its place, and
    what is new or was changed goes to the end, the longest unchanged first: what was edited once is likely to be edited
    again, and then nothing stands behind it. ``before`` is the order of the last reading with each member's SHA-256.
    """
    kept = [member for member, sha256 in before if member in now and now[member].sha256 == sha256]
    others = sorted(
        now.keys() - set(kept),
        key=lambda member: (now[member].mtime_ns, str(member.path), member.first_line or 0),
    )
    return (*kept, *others)


def digest_of(blocks: Sequence[Block]) -> str:
    """Return a digest of what the model would read: equal when every block is, in the same order."""
    whole = hashlib.sha256()
    for block in blocks:
        whole.update(hashlib.sha256(block.text.encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()
