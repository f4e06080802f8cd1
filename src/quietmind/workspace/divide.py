"""Divides an archive into the fewest notebooks that fit a context, related notes together, and stays stable.

Pure: notes come as records. A folder that fits is not torn apart; small folders share a notebook with what they are
linked to or like. A note that was given a notebook stays there for as long as there is room, so that adding or editing
a note costs the reading of one notebook and not of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A new notebook is filled so far, so that its notes can grow without driving others out.
FILLED = 0.9

# What a shared folder, a link between two notes and a rare word that both hold count for.
_FOLDER, _LINK, _WORD = 4.0, 2.0, 1.0


@dataclass(frozen=True)
class Note:
    """A note as the division sees it: its size, the notes that it links to, and words that say what it is about."""

    path: Path
    tokens: int
    links: frozenset[Path] = frozenset()
    words: frozenset[str] = frozenset()


@dataclass(eq=False)
class _Bin:
    """A notebook in the making, for so many tokens."""

    name: str
    room: int
    notes: list[Note] = field(default_factory=list)
    tokens: int = 0
    folders: Counter[Path] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    linked: Counter[Path] = field(default_factory=Counter)

    def add(self, note: Note) -> None:
        self.notes.append(note)
        self.tokens += note.tokens
        self.folders[note.path.parent] += 1
        self.words.update(note.words)
        self.linked.update(note.links)
        self.linked[note.path] += 1

    def likeness(self, notes: Sequence[Note]) -> float:
        """Return how much ``notes`` have to do with what is here, for each of them on average."""
        shared = 0.0
        for note in notes:
            shared += _FOLDER * (self.folders[note.path.parent] / len(self.notes) if self.notes else 0.0)
            shared += _LINK * (sum(1 for link in note.links if link in self.linked) + (note.path in self.linked))
            if note.words:
                shared += _WORD * sum(word in self.words for word in note.words) / len(note.words)
        return shared / len(notes) if notes else 0.0


def divide(
    notes: Sequence[Note], budget: int, existing: Mapping[str, Sequence[Path]] | None = None
) -> dict[str, tuple[Path, ...]]:
    """Return the notebooks by their names, each with the paths of its notes. ``budget`` is tokens for each.

    ``existing`` is an earlier division: its notebooks keep their names and, as far as they have room, their notes. A
    note that is larger than ``budget`` gets a notebook of its own.
    """
    bins, left = _kept({note.path: note for note in notes}, budget, existing or {})
    # The largest first, as in first-fit-decreasing, whose number of bins is at most 11/9 of the fewest possible.
    units = sorted(_units(left, budget) if left else [], key=lambda unit: (-_size(unit), unit[0].path))
    least = _size(units[-1]) if units else 0
    names = _Names(each.name for each in bins)
    roomy = [each for each in bins if each.tokens + least <= each.room]
    for unit in units:
        chosen = _place(roomy, unit)
        if chosen is None:
            chosen = _Bin(names.new(unit), int(FILLED * budget))
            bins.append(chosen)
            roomy.append(chosen)
        for note in unit:
            chosen.add(note)
        if chosen.tokens + least > chosen.room:  # of thousands of notebooks, most are full most of the time
            roomy.remove(chosen)
    return {each.name: tuple(note.path for note in each.notes) for each in bins if each.notes}


def _kept(
    notes: Mapping[Path, Note], budget: int, existing: Mapping[str, Sequence[Path]]
) -> tuple[list[_Bin], list[Note]]:
    """Return the earlier notebooks with what stays in them, and the notes that have no place yet."""
    bins: list[_Bin] = []
    placed: set[Path] = set()
    for name in existing:
        kept = _Bin(name, budget)  # the room that was left to grow is for this
        for path in existing[name]:
            note = notes.get(path)
            if note is None or path in placed:
                continue
            if kept.tokens + note.tokens <= budget or not kept.notes:
                kept.add(note)
                placed.add(path)
        if kept.notes:
            bins.append(kept)
    return bins, [note for path, note in sorted(notes.items()) if path not in placed]


def _units(notes: Sequence[Note], budget: int) -> Iterator[list[Note]]:
    """Yield groups that belong together and fit: whole folders, the largest that do; else stretches of their notes."""
    root = Path(*_common_parts([note.path.parent for note in notes]))
    yield from _units_below(root, notes, int(FILLED * budget))


def _units_below(folder: Path, notes: Sequence[Note], room: int) -> Iterator[list[Note]]:
    if sum(note.tokens for note in notes) <= room:
        yield list(notes)
        return
    inside: dict[Path, list[Note]] = {}
    own: list[Note] = []
    for note in notes:
        parts = note.path.parent.relative_to(folder).parts
        (inside.setdefault(folder / parts[0], []) if parts else own).append(note)
    for child in sorted(inside):
        yield from _units_below(child, inside[child], room)
    yield from _stretches(own, room)


def _stretches(notes: Iterable[Note], room: int) -> Iterator[list[Note]]:
    """Yield the notes of one folder in the order of their names, in stretches that fit: dated notes stay together."""
    stretch: list[Note] = []
    for note in sorted(notes, key=lambda note: note.path):
        if stretch and sum(each.tokens for each in stretch) + note.tokens > room:
            yield stretch
            stretch = []
        stretch.append(note)
    if stretch:
        yield stretch


def _place(roomy: Sequence[_Bin], unit: Sequence[Note]) -> _Bin | None:
    """Return the notebook with room for a unit that it is most like, the fullest of several; None where none has."""
    size = _size(unit)
    return max(
        (each for each in roomy if each.tokens + size <= each.room),
        key=lambda each: (each.likeness(unit), each.tokens),
        default=None,
    )


def _size(unit: Sequence[Note]) -> int:
    return sum(note.tokens for note in unit)


class _Names:
    """Names new notebooks after the folder that their notes share, with a number where that is taken."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def new(self, unit: Sequence[Note]) -> str:
        shared = _common_parts([note.path.parent for note in unit])
        base = "".join(c if c.isalnum() or c in " _.-" else " " for c in shared[-1]).strip(" .-")[:60] or "notes"
        if not base[0].isalnum():
            base = f"notes {base}"
        name = base
        while name in self._taken:
            number = self._next[base] = self._next.get(base, 1) + 1
            name = f"{base} {number}"
        self._taken.add(name)
        return name


def _common_parts(folders: Sequence[Path]) -> tuple[str, ...]:
    shared = folders[0].parts
    for folder in folders[1:]:
        count = next(
            (n for n, (one, other) in enumerate(zip(shared, folder.parts, strict=False)) if one != other),
            min(len(shared), len(folder.parts)),
        )
        shared = shared[:count]
    return shared
