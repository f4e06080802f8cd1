"""Which notebooks should be read, and why: what is stored of each, held against its notes and against the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Snapshot
from quietmind.notes.document import Passage
from quietmind.workspace.notebook import Block, Notebook, digest_of
from quietmind.workspace.store import snapshots_of

# What people call the parts of a fingerprint.
_PARTS = {"weights": "model", "kv": "KV type", "experts": "number of experts", "rope": "position embedding"}

_CUT_AT = " cut at "


@dataclass(frozen=True)
class Standing:
    """How a notebook stands. ``stored`` are its snapshots, the longest first.

    ``due`` says why it should be read, and is empty where there is no need to. ``usable`` says whether something of it
    serves meanwhile: the beginning that did not change, or a reading that was broken off.
    """

    notebook: Notebook
    stored: tuple[Snapshot, ...]
    due: str
    usable: bool

    @property
    def bytes(self) -> int:
        """What its snapshots take on the disk."""
        return sum(snapshot.bytes for snapshot in self.stored)

    @property
    def pinned(self) -> bool:
        """Whether its snapshots are kept from eviction."""
        return any(snapshot.pinned for snapshot in self.stored)


def standing(
    notebook: Notebook,
    passages: Sequence[Passage],
    snapshots: Sequence[Snapshot],
    expected: Mapping[str, str] | None = None,
    context: int | None = None,
) -> Standing:
    """Say how ``notebook`` stands, which holds ``passages`` now, given all snapshots of the store.

    ``expected`` has the parts of the fingerprint of the run that would read it, as far as they are known (see
    :func:`parts_of`); without an engine that may be the model alone. ``context`` is that run's, where it is known.
    """
    stored = snapshots_of(snapshots, notebook.name)
    wanted = expected or {}
    usable = any(not _differing(snapshot.header.fingerprint, wanted) for snapshot in stored)
    return Standing(notebook, stored, _why(notebook, passages, stored, wanted, context), usable)


def parts_of(fingerprint: Fingerprint) -> dict[str, str]:
    """Return a fingerprint as :func:`standing` takes it."""
    return asdict(fingerprint)


def content_of(passages: Sequence[Passage], cut_at: int | None = None) -> str:
    """Return what a reading of ``passages`` notes as its content: the digest of all that the notebook holds.

    Where not all of it had room, ``cut_at`` is the context: in a larger one there is more to read.
    """
    whole = digest_of([Block(number, passage) for number, passage in enumerate(passages, 1) if passage.text.strip()])
    return whole if cut_at is None else f"{whole}{_CUT_AT}{cut_at}"


def in_reading_order(standings: Sequence[Standing], sizes: Mapping[str, int]) -> list[Standing]:
    """Return what is due in the order in which it is best read; ``sizes`` are of each notebook, in any unit.

    What nothing is stored of comes first: it answers nothing yet, while one whose notes changed still serves with what
    did not change. Then the small before the large, so that a night that ends early has made the most notebooks ready.
    """
    return sorted(
        (each for each in standings if each.due),
        key=lambda each: (each.usable, sizes[each.notebook.name], each.notebook.name),
    )


def _why(
    notebook: Notebook,
    passages: Sequence[Passage],
    stored: Sequence[Snapshot],
    wanted: Mapping[str, str],
    context: int | None,
) -> str:
    reading = notebook.reading
    if reading is None:
        return f"read in part ({stored[0].header.tokens:,} tokens)" if stored else "never read"
    content, _, cut_at = reading.content.partition(_CUT_AT)
    if content != content_of(passages):
        return "its notes have changed"
    of_reading = [each for each in stored if each.header.fingerprint.digest == reading.fingerprint]
    if not any(each.header.tokens >= reading.tokens for each in of_reading):
        return "what was read is gone (evicted, damaged or removed)"
    if differing := _differing(of_reading[0].header.fingerprint, wanted):
        return f"read with another {' and another '.join(_PARTS.get(part, part) for part in differing)}"
    if cut_at and context is not None and context > int(cut_at):
        return f"it was cut at a context of {int(cut_at):,}, and {context:,} holds more"
    return ""


def _differing(fingerprint: Fingerprint, wanted: Mapping[str, str]) -> list[str]:
    """Return the parts that differ; the weights alone where they do, since another model has the rest of its own."""
    differing = [part for part, value in wanted.items() if getattr(fingerprint, part) != value]
    return ["weights"] if "weights" in differing else differing
