"""How much of a cache may be lost when it is stored: levels, what each promises, and what was measured of a snapshot.

Of the levels, finest first, ``exact`` keeps every bit. What the others lose is measured each time, by what the model
then answers (see workspace/keeping.py): Kullback-Leibler divergence of the next token, in nats, and greedy answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from quietmind.base.errors import SnapshotNotUnderstood, UsageError
from quietmind.kvstore.codec.port import Codec
from quietmind.kvstore.container import Header
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Snapshot, Store
from quietmind.model.card import ModelCard
from quietmind.plan.yarn import yarn_for
from quietmind.workspace.damage import Damage
from quietmind.workspace.identity import can_go_back

if TYPE_CHECKING:
    from quietmind.kvstore.basis import Basis
    from quietmind.kvstore.rotation import Rotation

EXACT, NEAR, SMALL = "exact", "near", "small"
LEVELS = (EXACT, NEAR, SMALL)

# What a snapshot's note says, by its key.
_LEVEL, _BEFORE, _PROSE, _PROSE_POSITIONS = "level", "kl_before", "kl_prose", "prose_positions"
_FLOOR, _FLOOR_SAME, _FLOOR_PROSE = "floor", "floor_same", "floor_prose"

_FINER, _FINEST = 0.75, 0.5  # of a step

# On the same cache the divergence over text in many words is 2 to 6 times that over facts (docs/log.md), and a few
# places of fifty make up most of it.
_PROSE_TO_FACTS = 10.0


@dataclass(frozen=True)
class Floor:
    """What the engine shows when K and V change in their last bits; less than that cannot be told from it.

    The mean divergence ``kl`` where facts are said, ``prose`` where the model uses its own words and, where these very
    probes were asked, how many facts were the ``same``.
    """

    kl: float = 0.0
    same: int | None = None
    prose: float = 0.0


@dataclass(frozen=True)
class Bound:
    """What a level promises: a mean divergence of at most ``kl`` nats beyond the floor, and ``same`` of the facts.

    Of the facts that the last bits alone leave the same: the others hang on a hair. The divergence is that where facts
    are said; in answers in the model's own words, where several ways to go on are equally good, it may be ``prose``.
    """

    kl: float
    same: float

    @property
    def prose(self) -> float:
        """The mean divergence that answers in the model's own words may have, in nats beyond the floor."""
        return _PROSE_TO_FACTS * self.kl

    def used_by(self, damage: Damage, floor: Floor, prose: float = 1.0) -> float:
        """Return how much of what is allowed ``damage`` takes: 1 is all of it, of facts or of prose, whichever more.

        Of what prose is allowed, only the share ``prose`` counts.
        """
        facts = (damage.mean - floor.kl) / self.kl
        return facts if damage.prose is None else max(facts, (damage.prose - floor.prose) / (prose * self.prose))

    def passed_by(self, damage: Damage, floor: Floor) -> str:
        """Say which divergence of ``damage`` is too large; nothing where none is."""
        if damage.mean > self.kl + floor.kl:
            return f"a divergence of {damage.mean:.5f}, past {self.kl:g}{_excused(floor.kl)}"
        if damage.prose is not None and damage.prose > self.prose + floor.prose:
            where = "in the model's own words"
            return f"a divergence of {damage.prose:.5f} {where}, past {self.prose:g}{_excused(floor.prose)}"
        return ""

    def broken_by(self, damage: Damage, floor: Floor) -> str:
        """Say which promise ``damage`` breaks; nothing where it breaks none."""
        if passed := self.passed_by(damage, floor):
            return passed
        if damage.same < self.same * (damage.probes if floor.same is None else floor.same):
            return f"{damage.same} of {damage.probes} answers the same"
        return ""


BOUNDS: Mapping[str, Bound] = {NEAR: Bound(0.0005, 1.0), SMALL: Bound(0.005, 0.95)}


@dataclass(frozen=True)
class Packing:
    """How a run stores what it reads: with the first of ``codecs``, coarse to fine, that keeps what ``level`` promises.

    Losslessly where none does. ``basis`` is the digest of the basis of those codecs, empty where they need none, and
    ``floor`` what calibration has measured of its model's floor. ``remark`` says, once a run,
    why snapshots are larger than they could be.
    """

    level: str = EXACT
    codecs: tuple[Codec, ...] = ()
    basis: str = ""
    floor: Floor | None = None
    remark: str = ""

    def goes_on_from(self, header: Header) -> bool:
        """Say whether a reading at this level may go on from a snapshot of a notebook's beginning.

        What is read on a beginning that was kept with loss takes that loss into what is kept of it: within the level's
        own bound it may. Losslessly is losslessly from the first token on.
        """
        stored = Measured.of(header)
        if stored.level == EXACT and not stored.before:
            return True
        loss = stored.loss
        floor = stored.floor.kl if stored.floor else 0.0
        return self.level in BOUNDS and loss is not None and loss <= BOUNDS[self.level].kl + floor


LOSSLESS = Packing()


@dataclass(frozen=True)
class Measured:
    """What a snapshot's header says of its level and of what was measured; None: nothing was.

    ``before`` is the divergence of the beginning that the rest was read on, 0 where that was lossless.
    """

    level: str | None
    damage: Damage | None = None
    floor: Floor | None = None
    before: float | None = 0.0
    basis: str = ""

    @property
    def loss(self) -> float | None:
        """The mean divergence of all that happened to it, None where that is not known."""
        if self.before is None or self.level is None:
            return None
        if self.level == EXACT:
            return self.before
        return None if self.damage is None else self.before + self.damage.mean

    @classmethod
    def of(cls, header: Header) -> Self:
        """Return what ``header`` says; nothing but its level where its note is not one of ours."""
        note = header.note
        level = note.get(_LEVEL)
        if level is None and header.codec.startswith("exact-"):
            level = EXACT
        if level not in LEVELS:
            return cls(None, before=None)
        before = _number(note, _BEFORE) if _BEFORE in note else 0.0
        return cls(str(level), _damage(note), _floor(note), before, str(note.get("basis", "")))

    def note(self, ratio: float | None = None) -> dict[str, float | str]:
        """Return what a header notes of it; ``ratio`` is how many times smaller it is than what the engine saved."""
        found: dict[str, float | str] = {_LEVEL: self.level or ""}
        if ratio is not None:
            found["ratio"] = round(ratio, 2)
        if self.damage is not None:
            found |= {
                "kl_mean": self.damage.mean,
                "kl_worst": self.damage.worst,
                "positions": self.damage.positions,
                "same": self.damage.same,
                "of": self.damage.probes,
            }
            if self.damage.prose is not None:
                found |= {_PROSE: self.damage.prose, _PROSE_POSITIONS: self.damage.prose_positions}
        if self.floor is not None:
            found |= {_FLOOR: self.floor.kl, _FLOOR_PROSE: self.floor.prose}
            if self.floor.same is not None:
                found[_FLOOR_SAME] = self.floor.same
        if self.before:
            found[_BEFORE] = self.before
        return found | ({"basis": self.basis} if self.basis else {})


def require_level(level: str) -> str:
    """Return ``level`` if it is one. Raises UsageError."""
    if level not in LEVELS:
        raise UsageError(f"{level!r} is no level of snapshots; give {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return level


def packing_for(level: str, card: ModelCard, context: int, fingerprint: Fingerprint, store: Store) -> Packing:
    """Return how a run of ``card`` with room for ``context`` tokens stores at ``level``.

    Raises UsageError for a level that is none.
    """
    from quietmind.kvstore.basis import find
    from quietmind.kvstore.rotation import rotation_of

    if require_level(level) == EXACT:
        return LOSSLESS
    lossless = Packing(level)
    try:
        rotation = rotation_of(card, yarn_for(card, context))
    except SnapshotNotUnderstood as error:
        return replace(lossless, remark=str(error))
    if not can_go_back(card):  # probing would leave nothing of what it asks
        return replace(lossless, remark=f"{card.name}: its caches cannot be cut back; they are kept losslessly")
    basis = find(store.bases, fingerprint)
    if basis is None:
        return Packing(level, _without_basis(level, rotation), remark=_no_basis(card))
    return Packing(level, _with_basis(level, basis), basis.digest, _floor(basis.note))


def _with_basis(level: str, basis: Basis) -> tuple[Codec, ...]:
    """Return what ``basis`` gives: its own steps as far as ``level`` goes, coarse to fine, and finer ones of each.

    A notebook that just misses a level's bound is not to pay for the whole way to the next.
    """
    from quietmind.kvstore.codec.transform import Transform

    steps = [basis.steps[each] for each in ((SMALL, NEAR) if level == SMALL else (NEAR,)) if each in basis.steps]
    tried = [step * finer for step in steps for finer in (1, _FINER)] + [step * _FINEST for step in steps[-1:]]
    return tuple(Transform(basis, step) for step in tried)


def _without_basis(level: str, rotation: Rotation) -> tuple[Codec, ...]:
    """Return what needs no basis, coarse to fine: on notes 4.6, 3.4 and 2.7 times smaller than 16 bits."""
    from quietmind.kvstore.codec.perchannel import LEVELS as BITS
    from quietmind.kvstore.codec.perchannel import Level, PerChannel

    steps = [BITS["4"], Level(0.05, 0.07)]
    return tuple(PerChannel(rotation, step) for step in ([BITS["3"], *steps] if level == SMALL else steps))


def bytes_per_token(level: str, fingerprint: Fingerprint, snapshots: Iterable[Snapshot]) -> float | None:
    """Return the most that a token of what was stored at ``level`` has taken, None where nothing was."""
    return max(
        (
            each.bytes / each.header.tokens
            for each in snapshots
            if each.header.fingerprint == fingerprint and Measured.of(each.header).level == level and each.header.tokens
        ),
        default=None,
    )


def _no_basis(card: ModelCard) -> str:
    return f"no basis for {card.name}: `quietmind calibrate` makes its snapshots less than half as large"


def _excused(floor: float) -> str:
    return f" and a floor of {floor:.5f}" if floor else ""


def _damage(note: Mapping[str, float | str]) -> Damage | None:
    """Return the damage that a note tells of; None where it tells of none, or not as numbers."""
    mean, worst, *counts = (_number(note, key) for key in ("kl_mean", "kl_worst", "positions", "same", "of"))
    positions, same, probes = (None if count is None else int(count) for count in counts)
    if mean is None or worst is None or positions is None or same is None or probes is None:
        return None
    prose_positions = _number(note, _PROSE_POSITIONS)
    return Damage(mean, worst, positions, same, probes, _number(note, _PROSE), int(prose_positions or 0))


def _floor(note: Mapping[str, float | str]) -> Floor | None:
    kl, same, prose = (_number(note, key) for key in (_FLOOR, _FLOOR_SAME, _FLOOR_PROSE))
    return None if kl is None else Floor(kl, None if same is None else int(same), prose or 0.0)


def _number(note: Mapping[str, float | str], key: str) -> float | None:
    value = note.get(key)
    return None if value is None or isinstance(value, str) else float(value)
