"""Learning a model's basis from the person's own notes, so that its snapshots take a tenth or a twentieth.

Some notes from all over the archive are read as notebooks are. Their caches give the principal components; gradients
of the same model, or noise in one of them, what errors cost where, and so how coarse each level may be; and a piece
that neither has seen checks what the levels promise. Nothing is left behind but the basis, whole or not at all.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quietmind.base.errors import DiskFull, EngineError, SnapshotError, WorkspaceError
from quietmind.base.paths import shown_path
from quietmind.base.progress import SILENT, Progress
from quietmind.base.units import format_bytes
from quietmind.engine.port import Engine, probing
from quietmind.kvstore.basis import MOST_WIDTH, Basis, grouped, of_model, widths_of
from quietmind.kvstore.codec.transform import FORMS, Transform
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.gathering import LEAST_TOKENS_A_CHANNEL, SINKS, Gathering, Sensitivity
from quietmind.kvstore.rotation import Rotation, rotation_of
from quietmind.kvstore.store import Store
from quietmind.machine.probe import hardware
from quietmind.plan.kv import bytes_per_token, kv_type
from quietmind.plan.yarn import yarn_for
from quietmind.workspace.damage import FACTS, SUBJECTS, Damage, Probes
from quietmind.workspace.fisher import ByGradients, Costs, Told
from quietmind.workspace.launch import Start
from quietmind.workspace.layout import Layout
from quietmind.workspace.levels import BOUNDS, NEAR, SMALL, Floor
from quietmind.workspace.sampling import Sample, blocks_within, sampled
from quietmind.workspace.sensitivity import Roundings, roundings_of, runs_of, sensitivity_of
from quietmind.workspace.stepping import losses_for
from quietmind.workspace.store import free_bytes
from quietmind.workspace.trial import Trial, read_exactly
from quietmind.workspace.workspace import Workspace

LEAST_TOKENS = 4096
TOKENS = 32_768

_FINEST = 1e-6  # a step that no component is too small for
_NEAR_OF_SMALL = 0.6  # near keeps answers word for word: finer than small by so much at least
_LOOKED_AGAIN, _FINER = 2, 0.7  # how often, and to what, a step is made finer that costs too much when chosen
_ROUNDING_VARIANCE = 1 / 12  # of whole numbers
_RUNS_A_PART = 1.4  # attempts to find the right size of noise
_TOLD = {NEAR: 0.23, SMALL: 0.12}  # of a level's bound, where gradients tell what small errors cost
_PROSE_SOUGHT = 0.6  # of its bound for answers in the model's own words, where it is sought by few of them
_PREFILLS_A_GRADIENT = 2.0  # what gradients take, in times of the engine's prefill of the same tokens
_OTHER_RUNS = 14  # probes that are not of a part: floors and steps


@dataclass(frozen=True)
class Effort:
    """How much is read and tried.

    The statistics come from ``tokens`` in pieces of up to ``piece``; what errors cost, by gradients from the first
    ``tried`` of ``contexts`` of these, or by noise in those of the first, in each ``every``-th part of the cache; steps
    are tried on ``held_out`` others. Fewer than ``least`` tokens in all are too few. ``subjects``, ``facts``, ``lines``
    and ``continued`` are of the probes; ``width`` is the most channels of a group.
    """

    tokens: int = TOKENS
    piece: int = 4096
    tried: int = 1280
    held_out: int = 1536
    least: int = LEAST_TOKENS
    contexts: int = 8
    every: int = 1
    subjects: int = SUBJECTS
    facts: int = FACTS
    lines: int = 4
    continued: int = 12
    width: int = MOST_WIDTH


@dataclass(frozen=True)
class Tried:
    """A level on the piece that was held out: a file ``ratio`` times smaller than the engine's, and its damage."""

    level: str
    step: float
    ratio: float
    damage: Damage


@dataclass(frozen=True)
class Calibration:
    """A basis that was learned and lies at ``path``, and what was measured: ``floor`` is the engine's own rounding.

    ``removed`` earlier bases of the model were of no more use. ``by_noise`` says why noise had to tell what errors cost
    and not gradients; empty where these did.
    """

    basis: Basis
    path: Path
    tokens: int
    seconds: float
    floor: float
    levels: tuple[Tried, ...]
    removed: int
    by_noise: str = ""


@dataclass(frozen=True)
class Calibrator:
    """A running model of which a basis is learned. ``token_bytes`` is what the engine saves of a token.

    ``by_gradients`` is how its weights can tell what errors cost; where it is None or cannot be done noise does.
    ``forecast`` is told once, as soon as it can be known, how many seconds are still to come.
    """

    engine: Engine
    rotation: Rotation
    fingerprint: Fingerprint
    store: Store
    token_bytes: float
    effort: Effort = Effort()
    by_gradients: ByGradients | None = None
    progress: Progress = SILENT
    forecast: Callable[[float], None] = lambda _seconds: None

    def run(self, archive: Workspace) -> Calibration:
        """Learn the basis from the notes of ``archive`` and keep it in the store.

        Raises NothingIndexed, WorkspaceError where there are too few notes, DiskFull, EngineError, SnapshotError.
        """
        began = time.monotonic()
        probing(self.engine)
        self._require_room(archive.folder)
        self.progress.begin("choosing notes", None)
        effort = self.effort
        sample = sampled(
            self.engine,
            archive,
            tokens=effort.tokens,
            piece=effort.piece,
            held_out=effort.held_out,
            least=effort.least,
        )
        with self.store.scratch() as folder, _on_disk(folder.parent):
            trial, other, gathering = self._read(sample, folder)
            # From here on the engine holds caches that were changed: nothing more is read.
            self.progress.begin("measuring what rounding costs", None)
            floor = roundings_of(other)
            costs, by_noise = self._costs(trial, sample)
            self.progress.begin("finding the components", None)
            whole = gathering.basis(costs.sensitivity, fingerprint=self.fingerprint, steps={NEAR: _FINEST})
            whole = replace(whole, importance=costs.importance)
            levels = self._levels(_Losses(whole, costs.sensitivity), other, floor, costs.told)
            seconds = time.monotonic() - began
            note = _note(levels, floor, gathering.tokens, seconds)
            basis = whole.with_steps({each.level: each.step for each in levels}, note)
            path = _kept(basis, folder, self.store.bases)
            removed = forget_older(self.store, path, self.fingerprint)
        return Calibration(basis, path, gathering.tokens, seconds, floor.most, levels, removed, by_noise)

    def _gradients_prevented(self) -> str:
        """Say why gradients cannot tell what errors cost; nothing where they may."""
        if self.by_gradients is None:
            return "nothing is known of the model's file"
        return self.by_gradients.prevented(hardware().cpu.free_bytes)

    def _costs(self, trial: Trial, sample: Sample) -> tuple[Costs, str]:
        """Return what errors cost, by gradients where they can tell; else by noise, and why."""
        prevented = self._gradients_prevented()
        effort, progress = self.effort, self.progress
        if self.by_gradients is not None and not prevented:
            progress.begin("computing what errors cost", None)
            try:
                return self.by_gradients.costs(trial, sample.pieces, effort.tried, effort.contexts, effort.width), ""
            except EngineError as error:
                prevented = str(error)
        everywhere = roundings_of(trial).everywhere
        sensitivity = sensitivity_of(trial, self.rotation, everywhere, every=effort.every, progress=progress)
        return Costs(sensitivity, None, None), prevented

    def _require_room(self, folder: Path) -> None:
        """Raise DiskFull where the files along the way would find no room: an engine does not say so in words."""
        effort, free = self.effort, free_bytes(folder)
        needed = int(self.token_bytes * (effort.piece + 2 * effort.tried + 2 * effort.held_out))
        if needed > free:
            raise DiskFull(
                f"{shown_path(folder)}: calibrating takes {format_bytes(needed)} of the disk for a while, and "
                f"{format_bytes(free)} are free; free some"
            )

    def _read(self, sample: Sample, folder: Path) -> tuple[Trial, Trial, Gathering]:
        """Read the sample; return what noise and what steps are tried on, and what is known of the pieces."""
        other = self._trial(sample.held_out, self.effort.held_out, folder / "other", lines=0)
        self._require_tokens(sample.tokens - SINKS * len(sample.pieces), other)
        # What a line costs that is written out is no bound of a level, but says the most of where errors hurt.
        trial = self._trial(sample.pieces[0], self.effort.tried, folder / "tried", lines=self.effort.lines)
        gathering = Gathering(trial.rows, self.rotation, self.effort.width)
        began, left = time.monotonic(), sample.tokens
        self.progress.begin("reading notes", left)
        for number, piece in enumerate(sample.pieces):
            tokens, file = len(piece.prefix_tokens()), folder / "piece"
            read_exactly(self.engine, piece.prefix(), tokens, file)
            with file.open("rb") as source:
                gathering.add(source)
            file.unlink()
            left -= tokens
            self.progress.advance(tokens)
            if number == 0:
                each = (time.monotonic() - began) / max(1, tokens - trial.rows.cells)
                self.progress.begin("reading notes", left)
                self.forecast(each * left + self._seconds_of_costs(each, trial) + _OTHER_RUNS * trial.seconds)
        return trial, other, gathering

    def _seconds_of_costs(self, each: float, trial: Trial) -> float:
        """Return about how long it takes to know what errors cost, where a token is read in ``each`` seconds."""
        if not self._gradients_prevented():
            return _PREFILLS_A_GRADIENT * self.effort.contexts * self.effort.tried * each
        return _RUNS_A_PART * runs_of(trial.rows, self.rotation) / self.effort.every * trial.seconds

    def _trial(self, layout: Layout, tokens: int, file: Path, lines: int) -> Trial:
        blocks = blocks_within(layout, tokens)
        effort = self.effort
        probes = Probes.of(
            layout, blocks, subjects=effort.subjects, facts=effort.facts, lines=lines, tokens=effort.continued
        )
        return Trial.of(self.engine, layout, blocks, file, probes)

    def _require_tokens(self, tokens: int, trial: Trial) -> None:
        """Raise WorkspaceError where a basis of caches of this shape takes more: known only once one is there."""
        widths = widths_of(trial.rows)
        widest = max(sum(map(sum, widths[first:last])) for first, last in grouped(widths, self.effort.width))
        needed = int(LEAST_TOKENS_A_CHANNEL * widest)
        if tokens < needed:
            raise WorkspaceError(
                f"{tokens:,} tokens of notes are there to learn from, and this model takes {needed:,}; index more, or "
                "give more --tokens"
            )

    def _levels(self, losses: _Losses, trial: Trial, floor: Roundings, told: Told | None) -> tuple[Tried, ...]:
        """Return what each level's step is and does to the piece that was held out."""
        self.progress.begin("choosing steps", None)
        if told is None:
            found = self._losses_found(losses, trial, Floor(floor.mean, prose=floor.prose))
        else:
            found = losses_told(told)
        steps = dict(zip(BOUNDS, map(losses.step, found), strict=True))
        steps[NEAR] = min(steps[NEAR], _NEAR_OF_SMALL * steps[SMALL])
        most = Floor(floor.most, prose=floor.prose)
        basis = losses.basis.with_steps(steps)  # without what is left out for these steps, or nearly so for finer ones
        levels = []
        for level, bound in BOUNDS.items():
            tried = self._tried(level, basis, trial, steps[level])
            for _ in range(_LOOKED_AGAIN):
                if not bound.passed_by(tried.damage, most):
                    break
                tried = self._tried(level, basis, trial, _FINER * tried.step)
            levels.append(tried)
        return tuple(levels)

    def _losses_found(self, losses: _Losses, trial: Trial, floor: Floor) -> list[float]:
        """Return the loss of each level, sought by what steps do to the piece that was held out."""
        whole = BOUNDS[SMALL]

        def cost(loss: float) -> float:
            damage = self._tried("", losses.basis, trial, losses.step(loss)).damage
            return whole.kl * whole.used_by(damage, floor, _PROSE_SOUGHT)

        bounds = [bound.kl for bound in BOUNDS.values()]
        return losses_for(cost, bounds, max(bounds), floor.kl)

    def _tried(self, level: str, basis: Basis, trial: Trial, step: float) -> Tried:
        codec = Transform(basis, step)
        with trial.file.open("rb") as source:
            blocks = list(codec.encode(source, trial.rows.size))
        damage = trial.damage(lambda target: codec.decode(blocks, target))
        self.progress.advance()
        return Tried(level, step, trial.rows.size / sum(map(len, blocks)), damage)


def rotation_for(start: Start) -> Rotation:
    """Return how K are rotated in the run that ``start`` has planned. Raises SnapshotNotUnderstood, with the reason."""
    return rotation_of(start.card, yarn_for(start.card, start.plan.context))


def calibrator(
    start: Start,
    engine: Engine,
    fingerprint: Fingerprint,
    store: Store,
    effort: Effort = Effort(),
    *,
    progress: Progress = SILENT,
    forecast: Callable[[float], None] = lambda _seconds: None,
) -> Calibrator:
    """Return the calibrator of ``engine``, which runs as ``start`` has planned and saves under ``fingerprint``.

    Raises SnapshotNotUnderstood for a model whose caches are not.
    """
    return Calibrator(
        engine,
        rotation_for(start),
        fingerprint,
        store,
        bytes_per_token(start.card, kv_type(start.plan.kv_type)),
        effort,
        ByGradients(start.card.path, start.card.parameters, rotation_of(start.card), start.plan.threads),
        progress,
        forecast,
    )


def losses_told(told: Told) -> list[float]:
    """Return the loss of each level as gradients tell it: a share of what is allowed, by facts or by prose.

    Gradients tell what small errors cost. Of what errors as large as those of levels did to answers they say a half, or
    less the larger they are (docs/log.md).
    """
    return [
        share * min(BOUNDS[level].kl / told.facts, BOUNDS[level].prose / told.prose) for level, share in _TOLD.items()
    ]


class _Losses:
    """What steps lose in ``basis``: the variance of rounding in each component, or all of its own where that is less.

    It is the cost in KL divergence, if ``sensitivity`` is right.
    """

    def __init__(self, basis: Basis, sensitivity: Sensitivity) -> None:
        self.basis = basis
        unit = float(basis.groups[0].scale[0]) ** 2 / float(sensitivity.keys[0][0, 0])
        self._variances = np.concatenate([group.spread.astype(np.float64) for group in basis.groups]) ** 2 / unit
        self._unit = math.sqrt(unit)

    def step(self, loss: float) -> float:
        """Return the step that loses so much, or nearly all that there is."""
        low, high = _FINEST, math.sqrt(float(self._variances.max()) / _ROUNDING_VARIANCE)
        while high > 1.001 * low:
            step = math.sqrt(low * high)
            lost = float(np.minimum(self._variances, step**2 * _ROUNDING_VARIANCE).sum())
            low, high = (step, high) if lost < loss else (low, step)
        return low * self._unit


def _note(levels: tuple[Tried, ...], floor: Roundings, tokens: int, seconds: float) -> dict[str, float | str]:
    """Return what is kept with a basis: plain numbers, to be read by people and by the self-check of a reading."""
    note: dict[str, float | str] = {
        "floor": floor.most,
        "floor_prose": floor.prose,
        "tokens": tokens,
        "seconds": round(seconds, 1),
    }
    for each in levels:
        note |= {f"{each.level} ratio": round(each.ratio, 2), f"{each.level} kl": each.damage.mean}
        if each.damage.prose is not None:
            note[f"{each.level} kl_prose"] = each.damage.prose
    return note


def _kept(basis: Basis, scratch: Path, bases: Path) -> Path:
    """Write ``basis`` to ``scratch``, which goes away with whatever is half done, and move it to ``bases`` whole."""
    written = basis.save(scratch)
    bases.mkdir(exist_ok=True)
    return written.replace(bases / written.name)


def forget_older(store: Store, newest: Path, fingerprint: Fingerprint) -> int:
    """Remove the earlier bases of a model that no snapshot is written in; return how many.

    The one before ``newest`` stays too: something may be reading with it just now.
    """
    older = [path for path in of_model(store.bases, fingerprint) if path != newest]
    snapshots = store.snapshots()
    named = {str(each.header.note.get("basis", ""))[: len(newest.stem)] for each in snapshots}
    if any(each.header.codec in FORMS and "basis" not in each.header.note for each in snapshots):
        return 0  # which one it needs stands only in its first block
    useless = [path for path in older[1:] if path.stem not in named]
    for path in useless:
        path.unlink(missing_ok=True)
    return len(useless)


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise SnapshotError(f"the engine's file has changed while it was read ({error}); calibrate again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{shown_path(folder)}: no space left for what calibrating writes; free some") from error
        raise SnapshotError(
            f"{shown_path(folder)}: cannot be used ({error.strerror or error}); see its rights"
        ) from error
