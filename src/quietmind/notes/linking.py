"""Where links lead: to notes, to headings in them, to the definitions of requirement ids and of code.

Decided when asked, from what the index holds at that moment.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from quietmind.base.errors import NotesError
from quietmind.base.paths import shown_path
from quietmind.notes.headings import Headings
from quietmind.notes.linked import Rows
from quietmind.notes.links import Definition, Reference, Via, note_name
from quietmind.notes.naming import Alike, Names

_FAMILY = 3  # ids of one sort that are defined somewhere: fewer may be chance, like UTF-8
_MOST_LINKED = 10


class Outcome(StrEnum):
    """What became of a link."""

    FOUND = "found"
    AMBIGUOUS = "ambiguous"  # several notes, or several definitions, are called so
    BROKEN = "broken"  # no note is called so
    NO_HEADING = "no such heading"  # the note is there
    UNDEFINED = "undefined"  # an id of which others are defined
    FILE = "file"  # there, and no note of the index


WRONG = frozenset({Outcome.AMBIGUOUS, Outcome.BROKEN, Outcome.NO_HEADING, Outcome.UNDEFINED})


@dataclass(frozen=True, slots=True)
class Place:
    """A note, or a line of it."""

    path: Path
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """A link: where it stands, what it says, and where it ``leads``: if ambiguous, to one of several places."""

    source: Place
    via: Via
    target: str
    anchor: str
    outcome: Outcome
    leads: tuple[Place, ...]

    @property
    def written(self) -> str:
        """The link as it is written, in short."""
        whole = f"{self.target}#{self.anchor}" if self.anchor else self.target
        if self.via is Via.WIKI:
            return f"[[{whole}]]"
        if self.via is Via.CODE:
            return f"`{whole}`"
        return {Via.EMBED: f"![[{whole}]]", Via.MARKDOWN: f"]({whole})"}.get(self.via, whole)


@dataclass(frozen=True)
class Orphan:
    """A note that no other leads to, and how many others it leads to itself."""

    path: Path
    title: str
    leads_to: int


@dataclass(frozen=True)
class Named:
    """An id or identifier: its definitions (the best first; more than one is a doubt), other lines that look like one,
    and where it is used.
    """

    name: str
    defined: tuple[Place, ...]
    elsewhere: tuple[Place, ...]
    used: tuple[Place, ...]


@dataclass(frozen=True)
class Summary:
    """The links of the archive: how many of each sort and outcome, and the notes that most others lead to."""

    notes: int
    counts: dict[tuple[Via, Outcome], int]
    orphans: int
    most_linked: tuple[tuple[Path, int], ...]


class Linking:
    """The links of the notes in an open database, as they are now: make another to see what has changed since.

    Everything raises ArchiveLocked, ArchiveDamaged or WorkspaceError.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._rows = Rows(connection)
        self._names = Names(self._rows.titles, self._rows.roots())
        self._headings = Headings(self._rows.text)
        self._defined: dict[tuple[Via, str], list[tuple[Path, Definition]]] | None = None
        self._is_file: dict[tuple[str, str], bool] = {}

    @property
    def unread(self) -> int:
        """How many notes were indexed before links were looked for: an update of the index reads them again."""
        return self._rows.unread()

    def note(self, given: str) -> Path:
        """Return the note that ``given`` means: a path, or what a link would call it. Raises NotesError if not one."""
        path = Path(os.path.realpath(given))
        if path in self._rows.titles:
            return path
        found = self._names.meant(path, given, from_here=True) if given else ()
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(map(shown_path, found[:5])) + (", ..." if found[5:] else "")
            raise NotesError(f"{shown_path(given)}: {len(found)} notes are called so; write the path of one: {several}")
        near = self.suggestion(given)
        hint = f"did you mean {shown_path(near)}?" if near else "check the name, or index its folder"
        raise NotesError(f"{shown_path(given)}: no note of the index is called so; {hint}")

    def of(self, path: Path) -> list[Edge]:
        """Return the links of the note at ``path``, by their lines."""
        found = self._rows.of(path)
        self._define(reference.name for _, reference in found)
        return [edge for source, reference in found if (edge := self._edge(source, reference))]

    def to(self, path: Path) -> list[Edge]:
        """Return what leads from other notes to the one at ``path``, or may lead there, by path and line."""
        names = {note_name(str(path)), *(definition.name for definition in self._rows.defined_in(path))}
        found = [(source, reference) for source, reference in self._rows.naming(names) if source != path]
        self._define(names)
        edges = (edge for source, reference in found if (edge := self._edge(source, reference)))
        here = [edge for edge in edges if any(place.path == path for place in edge.leads)]
        return sorted(here, key=lambda edge: (os.fsencode(edge.source.path), edge.source.line or 0))

    def edges(self) -> Iterator[Edge]:
        """Yield all links of all notes."""
        self._define(None)
        for source, reference in self._rows.between_notes():
            if edge := self._edge(source, reference):
                yield edge

    def wrong(self) -> list[Edge]:
        """Return the links that lead nowhere, or in doubt where to; identifiers of code are never among them."""
        found = [edge for edge in self.edges() if edge.outcome in WRONG and edge.via is not Via.CODE]
        return sorted(found, key=lambda edge: (os.fsencode(edge.source.path), edge.source.line or 0))

    def suggestion(self, target: str) -> Path | None:
        """Return the note whose name or title is closest to ``target``, if one is close."""
        return self._alike.closest(target)

    def orphans(self) -> list[Orphan]:
        """Return the notes that no other note leads to, by path."""
        leads_to: Counter[Path] = Counter()
        reached: set[Path] = set()
        for source, target in self._pairs():
            leads_to[source] += 1
            reached.add(target)
        titles = self._rows.titles
        return [Orphan(path, titles[path], leads_to[path]) for path in titles if path not in reached]

    def summary(self) -> Summary:
        """Count the links of all notes."""
        counts: Counter[tuple[Via, Outcome]] = Counter()
        pairs: set[tuple[Path, Path]] = set()
        for edge in self.edges():
            if edge.via is not Via.CODE or edge.outcome not in WRONG:
                counts[edge.via, edge.outcome] += 1
            pairs.update(_pairs(edge))
        reached = Counter(target for _, target in pairs)
        most = sorted(reached.items(), key=lambda item: (-item[1], os.fsencode(item[0])))[:_MOST_LINKED]
        return Summary(len(self._rows.titles), dict(counts), len(self._rows.titles) - len(reached), tuple(most))

    def named(self, name: str) -> Named:
        """Return where the id or identifier ``name`` is defined and used, by path and line."""
        found = self._rows.defining([name])
        best = min((definition.rank for _, definition in found), default=0)
        defined = [Place(path, definition.line) for path, definition in found if definition.rank == best]
        others = [Place(path, definition.line) for path, definition in found if definition.rank > best]
        used = [Place(path, use.line) for path, use in self._rows.naming([name]) if use.via in (Via.ID, Via.CODE)]
        return Named(name, *(tuple(sorted(places, key=_order)) for places in (defined, others, used)))

    def _pairs(self) -> set[tuple[Path, Path]]:
        return {pair for edge in self.edges() for pair in _pairs(edge)}

    @cached_property
    def _alike(self) -> Alike:
        return Alike(self._rows.titles)

    @cached_property
    def _families(self) -> frozenset[str]:
        """The letters of the ids of which enough are defined for one without a definition to be a slip."""
        names = {found.name for _, found in self._rows.defining() if found.via is Via.ID and found.rank < 2}
        families = Counter(_family(name) for name in names)
        return frozenset(family for family, count in families.items() if count >= _FAMILY)

    def _define(self, names: Iterable[str] | None) -> None:
        """Look up who defines ``names``, or everything, before edges are made."""
        self._defined = {}
        for path, definition in self._rows.defining(None if names is None else set(names)):
            self._defined.setdefault((definition.via, definition.name), []).append((path, definition))

    def _edge(self, source: Path, reference: Reference) -> Edge | None:
        """Return where ``reference`` leads; None of a word that is no link: nobody defines it or any of its sort."""
        if reference.via in (Via.ID, Via.CODE):
            found = self._definition(source, reference)
        else:
            found = self._note(source, reference)
        if found is None:
            return None
        outcome, leads = found
        place = Place(source, reference.line)
        return Edge(place, reference.via, reference.target, reference.anchor, outcome, leads)

    def _definition(self, source: Path, use: Reference) -> tuple[Outcome, tuple[Place, ...]] | None:
        found = (self._defined or {}).get((use.via, use.name), [])
        if not found:
            slip = use.via is Via.ID and _family(use.name) in self._families
            return (Outcome.UNDEFINED, ()) if slip else None
        own = [(path, definition) for path, definition in found if path == source]
        best = min(definition.rank for _, definition in found)
        chosen = own or [(path, definition) for path, definition in found if definition.rank == best]
        places = tuple(Place(path, definition.line) for path, definition in chosen)
        return (Outcome.FOUND if len(places) == 1 else Outcome.AMBIGUOUS), places

    def _note(self, source: Path, link: Reference) -> tuple[Outcome, tuple[Place, ...]]:
        from_here = link.via is Via.MARKDOWN
        found = self._names.meant(source, link.target, from_here=from_here) if link.target else (source,)
        if not found:
            return (Outcome.FILE if self._file(source, link.target) else Outcome.BROKEN), ()
        if len(found) > 1:
            return Outcome.AMBIGUOUS, tuple(map(Place, found))
        if not link.anchor:
            return Outcome.FOUND, (Place(found[0]),)
        line = self._headings.line(found[0], link.anchor)
        return (Outcome.NO_HEADING if line is None else Outcome.FOUND), (Place(found[0], line),)

    def _file(self, source: Path, target: str) -> bool:
        """Say whether ``target`` is a file beside the notes, by its path from the note or the root, or by its name."""
        folder, root = os.path.dirname(source), self._names.root(source)  # noqa: PTH120 - strings, as in naming
        key = (folder, target)
        if key not in self._is_file:
            inside = (os.path.join(place, target.lstrip("/")) for place in (folder, root) if place)  # noqa: PTH118
            self._is_file[key] = any(map(_exists, inside)) or (
                "/" not in target and "." in target and target.casefold() in self._files(root)
            )
        return self._is_file[key]

    def _files(self, root: str) -> Collection[str]:
        if root not in self._beside:
            self._beside[root] = {name.casefold() for _, _, names in os.walk(root) for name in names} if root else set()
        return self._beside[root]

    @cached_property
    def _beside(self) -> dict[str, set[str]]:
        return {}


def _pairs(edge: Edge) -> Iterator[tuple[Path, Path]]:
    """Yield the source and the target of a link that leads to one other note."""
    if edge.outcome in (Outcome.FOUND, Outcome.NO_HEADING) and edge.leads[0].path != edge.source.path:
        yield edge.source.path, edge.leads[0].path


def _family(name: str) -> str:
    return re.sub(r"-[\d.]+\Z", "", name)


def _order(place: Place) -> tuple[bytes, int]:
    return os.fsencode(place.path), place.line or 0


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)  # noqa: PTH110 - see above
    except ValueError:  # a NUL
        return False
