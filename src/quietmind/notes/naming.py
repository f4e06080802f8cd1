"""Which note a link means, by the rules that editors of linked notes share; and what is called nearly so."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from quietmind.notes.links import note_name, without_ending

_GRAM = 3
_COMMON = 50  # a trigram of more names than this, and of more than one in so many, tells nothing
_LOOKED_AT = 20  # names with the most trigrams in common
_ALIKE = 0.6  # of difflib's ratio: a letter or two of a short word, an ending of a long one


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A path as links spell it: whole, and without the ending of a page."""

    whole: str
    bare: str

    @classmethod
    def of(cls, path: str) -> _Spelling:
        return cls(path, without_ending(path))


@dataclass(frozen=True, slots=True)
class _Note:
    path: Path
    exact: _Spelling
    folded: _Spelling


class Names:
    """Finds notes by what links call them; an answer is remembered, since links repeat."""

    def __init__(self, paths: Iterable[Path], roots: Sequence[Path]) -> None:
        self._roots = sorted((os.path.join(root, "") for root in roots), key=len, reverse=True)  # noqa: PTH118
        self._named: dict[str, list[_Note]] = {}
        for path in paths:
            spelled = unicodedata.normalize("NFC", str(path))
            note = _Note(path, _Spelling.of(spelled), _Spelling.of(spelled.casefold()))
            self._named.setdefault(note_name(spelled), []).append(note)
        self._found: dict[tuple[str, str, bool], tuple[Path, ...]] = {}

    def meant(self, origin: Path, target: str, *, from_here: bool) -> tuple[Path, ...]:
        """Return the notes that ``target`` may mean in the note ``origin``: none, one, or all that are called so.

        In turn: the path from the root, or from the note, whichever ``from_here`` says first, then the other; then a
        name (or the end of a path) that only one note has, of the same root before others. All of this by the exact
        letters, then again without case. Endings may be left out; with several, Markdown is meant.
        """
        folder = os.path.dirname(origin)  # noqa: PTH120 - strings: a million of Paths would be most of the time
        key = (folder, target, from_here)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._look(folder, target, from_here=from_here)
        return found

    def root(self, path: Path | str) -> str:
        """Return the innermost root that ``path`` lies in, with a slash at its end; empty where there is none."""
        return next((root for root in self._roots if str(path).startswith(root)), "")

    def _look(self, folder: str, target: str, *, from_here: bool) -> tuple[Path, ...]:
        candidates = self._named.get(note_name(target), [])
        if not candidates or "\0" in target:
            return ()
        wanted = unicodedata.normalize("NFC", target).strip("/")
        if len(candidates) == 1 and candidates[0].folded.bare.endswith("/" + without_ending(wanted).casefold()):
            return (candidates[0].path,)  # whichever rule applies
        root = self.root(os.path.join(folder, ""))  # noqa: PTH118
        inside = [folder, root] if from_here and target[0] != "/" else [root, folder]
        places = [os.path.normpath(os.path.join(place, wanted)) for place in inside if place]  # noqa: PTH118
        tail = "/" + os.path.normpath(wanted)
        for folds in (False, True):
            spelled = [(note, note.folded if folds else note.exact) for note in candidates]
            for place in places:
                wish = _Spelling.of(place.casefold() if folds else place)
                if same := [(note, own) for note, own in spelled if own.bare == wish.bare]:
                    return _likeliest(same, wish)
            wish = _Spelling.of(tail.casefold() if folds else tail)
            ends = [(note, own) for note, own in spelled if own.bare.endswith(wish.bare)]
            near = [(note, own) for note, own in ends if self.root(note.path) == root]
            if ends:
                return _likeliest(near or ends, wish)
        return ()


def _likeliest(found: Sequence[tuple[_Note, _Spelling]], wish: _Spelling) -> tuple[Path, ...]:
    """Return the notes with the very ending of ``wish``, else those in Markdown, else all."""
    very = [note.path for note, own in found if own.whole.endswith(wish.whole)]
    markdown = [note.path for note, own in found if own.whole.lower().endswith((".md", ".markdown"))]
    return tuple(very or markdown or [note.path for note, _ in found])


class Alike:
    """Finds the note whose name or title is closest to a name that no note has."""

    def __init__(self, titles: Mapping[Path, str]) -> None:
        self._names: list[tuple[str, Path]] = []
        for path, title in titles.items():
            names = dict.fromkeys((note_name(str(path)), note_name(title.replace("/", " "))))
            self._names += [(name, path) for name in names if name]
        self._holding: dict[str, list[int]] = {}
        for number, (name, _) in enumerate(self._names):
            for gram in _grams(name):
                self._holding.setdefault(gram, []).append(number)
        self._found: dict[str, Path | None] = {}

    def closest(self, target: str) -> Path | None:
        """Return the note that ``target`` was likeliest meant to be, or None where nothing is called nearly so."""
        name = note_name(target)
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def _look(self, name: str) -> Path | None:
        holding = sorted((self._holding.get(gram, []) for gram in _grams(name)), key=len)
        telling = [held for held in holding if held and len(held) <= max(_COMMON, len(self._names) // _COMMON)]
        shared = Counter(number for held in telling or holding[:1] for number in held)
        likely = sorted(shared, key=lambda number: -shared[number] / (len(self._names[number][0]) + len(name)))
        best, least = None, _ALIKE
        for number in likely[:_LOOKED_AT]:
            ratio = SequenceMatcher(None, name, self._names[number][0], autojunk=False).ratio()
            if ratio > least:
                best, least = self._names[number][1], ratio
        return best


def _grams(name: str) -> set[str]:
    padded = f" {name} "
    return {padded[at : at + _GRAM] for at in range(len(padded) - _GRAM + 1)}
