"""Automatic notebooks: the archive, or a part of it, divided so that each notebook fits the context.

What a note takes is estimated from its characters, by script; a note that is larger than a notebook is split into
stretches of whole passages, which the division sees as files of a folder of the note's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from quietmind.base.errors import ContextOverflow
from quietmind.engine.port import Engine
from quietmind.notes.document import Passage
from quietmind.notes.outlines import Outline, Size
from quietmind.workspace.divide import FILLED, Note, divide
from quietmind.workspace.laid import reserve_of
from quietmind.workspace.layout import NOTES, SYSTEM
from quietmind.workspace.notebook import Block, Member

# "[123] " before a passage, and the line ends around its heading and after it.
_FRAME_CHARS = 8
# The template's own tokens around the system's and the person's turn.
_TEMPLATE_TOKENS = 32
# An estimate may be so wrong without a notebook overflowing.
_SURE = 0.95

# Staying as they were may cost so many times the notebooks that a new division would need.
_STABLE_AT_MOST = 1.5


@dataclass(frozen=True)
class Rates:
    """Tokens for each character of Cyrillic, and of anything else; ``basis`` says where the numbers are from."""

    cyrillic: float
    other: float
    basis: str

    def tokens(self, sizes: Sequence[Size]) -> int:
        """Return the tokens that passages of these sizes take in a notebook."""
        cyrillic = sum(size.cyrillic for size in sizes)
        other = sum(size.other + _FRAME_CHARS for size in sizes)
        return round(self.cyrillic * cyrillic + self.other * other)


# Of the vocabularies of 100,000 tokens and more that today's models have, on notes with their markup; on the side of
# too many. Older vocabularies that know no Russian take up to one token for each Cyrillic letter: calibrate those.
ASSUMED = Rates(0.45, 0.30, "assumed for a vocabulary of today")


@dataclass(frozen=True)
class Part:
    """A notebook of a division. ``tokens`` is an estimate."""

    name: str
    members: tuple[Member, ...]
    notes: int
    tokens: int


@dataclass(frozen=True)
class Division:
    """An archive divided. ``split`` are the notes that no notebook holds whole, each with its number of stretches.

    ``too_large`` are the notes with a passage that alone takes more than a notebook may: it is left out, and the whole
    note where it has no other.
    """

    parts: tuple[Part, ...]
    budget: int
    split: tuple[tuple[Path, int], ...] = ()
    too_large: tuple[Path, ...] = ()


def size_of(passage: Passage) -> Size:
    """Return the size of ``passage`` as a notebook shows it."""
    return Size.of(passage.first_line, passage.place + passage.text)


def calibrated(engine: Engine, passages: Sequence[Passage]) -> Rates:
    """Return the rates of this engine's own tokenizer by least squares over some passages."""
    points = []
    for passage in passages:
        shown = size_of(passage)
        points.append((shown.cyrillic, shown.other + _FRAME_CHARS, len(engine.tokenize(Block(100, passage).text))))
    cc = sum(c * c for c, _, _ in points)
    co = sum(c * o for c, o, _ in points)
    oo = sum(o * o for _, o, _ in points)
    ct = sum(c * t for c, _, t in points)
    ot = sum(o * t for _, o, t in points)
    determinant = cc * oo - co * co
    if determinant > 1e-6 * cc * oo:
        cyrillic, other = (ct * oo - ot * co) / determinant, (ot * cc - ct * co) / determinant
    else:  # one script alone, or both always in the same proportion
        cyrillic = other = sum(t for _, _, t in points) / max(1, sum(c + o for c, o, _ in points))
    if cyrillic <= 0 or other <= 0:  # no texts, or too odd ones
        return ASSUMED
    return Rates(cyrillic, other, f"measured with the model's tokenizer on {len(points):,} passages")


def room_in(context: int, rates: Rates) -> int:
    """Return the tokens of notes that a notebook may hold in ``context``."""
    head = Size(1, 0, len(SYSTEM) + len(NOTES))
    return int(_SURE * (context - reserve_of(context) - _TEMPLATE_TOKENS - rates.tokens([head])))


def divided(
    notes: Sequence[Outline],
    rates: Rates,
    context: int,
    existing: Mapping[str, Sequence[Member]] | None = None,
    taken: Collection[str] = (),
) -> Division:
    """Return ``notes`` divided into notebooks for ``context``. ``existing`` are those of the division before.

    No new one gets a name that is ``taken``. Raises ContextOverflow where not even the smallest passage fits.
    """
    budget = room_in(context, rates)
    smallest = min((rates.tokens([size]) for note in notes for size in note.sizes), default=0)
    if smallest > budget:
        raise ContextOverflow(
            f"a context of {context:,} leaves {max(budget, 0):,} tokens for notes beside question and answer, and the "
            f"smallest passage takes about {smallest:,}; give a larger --context",
            needed=smallest,
            context=context,
        )
    pieces: dict[Path, tuple[Member, int]] = {}
    units: list[Note] = []
    for outline in notes:
        fitting = replace(outline, sizes=tuple(size for size in outline.sizes if rates.tokens([size]) <= budget))
        if not fitting.sizes:  # a notebook of it could never be read
            continue
        for key, member, tokens in _pieces(fitting, rates, int(FILLED * budget), budget):
            pieces[key] = member, tokens
            units.append(Note(key, tokens, outline.links, outline.words))
    before = {name: [_key(member) for member in members] for name, members in (existing or {}).items()}
    named = divide(units, budget, before)
    if before and len(named) > 1 + _STABLE_AT_MOST * len(fresh := divide(units, budget)):
        named = fresh  # the context has grown, or many notes are gone
    names = {name: _free(name, {*taken, *named}) if name in taken else name for name in named}
    parts = [
        Part(
            names[name],
            tuple(pieces[key][0] for key in keys),
            len({pieces[key][0].path for key in keys}),
            sum(pieces[key][1] for key in keys),
        )
        for name, keys in named.items()
    ]
    stretches = Counter(member.path for member, _ in pieces.values() if member.first_line is not None)
    return Division(
        tuple(sorted(parts, key=lambda part: part.name)),
        budget,
        tuple(stretches.items()),
        tuple(note.path for note in notes if any(rates.tokens([size]) > budget for size in note.sizes)),
    )


def _pieces(outline: Outline, rates: Rates, stretch: int, budget: int) -> Iterator[tuple[Path, Member, int]]:
    """Yield a note whole if it fits, else in stretches; the last one is open, so that the note may grow."""
    whole = rates.tokens(outline.sizes)
    if whole <= budget:
        yield outline.path, Member(outline.path), whole
        return
    taken: list[Size] = []
    for size in outline.sizes:
        if taken and size.first_line > taken[-1].first_line and rates.tokens([*taken, size]) > stretch:
            member = Member(outline.path, taken[0].first_line, size.first_line - 1)
            yield _key(member), member, rates.tokens(taken)
            taken = []
        taken.append(size)
    member = Member(outline.path, taken[0].first_line)
    yield _key(member), member, rates.tokens(taken)


def _free(name: str, taken: Collection[str]) -> str:
    return next(free for n in count(2) if (free := f"{name} {n}") not in taken)


def _key(member: Member) -> Path:
    """Return the path by which the division knows a member: of a stretch, a file in a folder of the note's name."""
    return member.path if member.first_line is None else member.path / f"{member.first_line:09}"
