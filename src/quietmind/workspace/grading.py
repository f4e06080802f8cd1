"""How finely each kind of tokens is written: what noise in its tokens costs, through the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quietmind.base.progress import SILENT, Progress
from quietmind.kvstore.basis import Basis
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import SINKS, Sensitivity, vectors
from quietmind.kvstore.kinds import Grades, Kinds, grades_for
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import Plane, rows
from quietmind.workspace.sensitivity import FIRST_SIZE, LEAST, MOST, Part, Stretch, cost_of, usual_cells
from quietmind.workspace.trial import Trial

# The cost of a kind with few tokens says little: so many of usual cost are added to it.
_USUAL = 16


def graded(
    basis: Basis,
    trial: Trial,
    rotation: Rotation,
    sensitivity: Sensitivity,
    floor: float,
    progress: Progress = SILENT,
) -> Kinds | None:
    """Return the kinds of ``basis`` with the grades that they are to have; None where it has none.

    ``floor`` is what rounding costs everywhere. Raises what a trial raises.
    """
    kinds = basis.kinds
    if kinds is None:
        return None
    members, noise = _members(kinds, basis, trial), _Noise.of(trial, rotation, sensitivity)
    progress.begin("measuring which tokens matter", len(members))
    costs, counts = np.zeros(len(members)), np.array([len(cells) for cells in members])
    for kind, cells in enumerate(members):
        if len(cells):
            size, cost = cost_of(trial, noise.at(cells), FIRST_SIZE, floor)
            costs[kind] = cost / size**2  # of a token: the noise is the stronger, the fewer they are
        progress.advance()
    usual = float(costs @ counts / counts.sum())
    return kinds.graded(grades(costs, counts, usual))


def grades(costs: NDArray[np.float64], counts: NDArray[np.intp], usual: float) -> Grades:
    """Return the grades of kinds with ``counts`` tokens, of which each costs ``costs``, and a token ``usual``."""
    return grades_for((costs * counts + usual * _USUAL) / (counts + _USUAL))


@dataclass(frozen=True)
class _Noise:
    """Noise as a codec makes it: it costs alike in every channel, and is nowhere more than what is there.

    ``deviations`` are float64 [width] of each plane, for noise in all ``cells`` that costs what is aimed at, and
    ``most`` how far the numbers of each channel lie apart.
    """

    planes: Sequence[Plane]
    deviations: Sequence[NDArray[np.float64]]
    most: Sequence[Floats]
    cells: int

    @classmethod
    def of(cls, trial: Trial, rotation: Rotation, sensitivity: Sensitivity) -> Self:
        """Return the noise that costs alike by ``sensitivity``."""
        content, planes = trial.file.read_bytes(), trial.rows.planes
        weights = [_weights(plane, rotation, sensitivity) for plane in planes]
        variance = math.sqrt(LEAST * MOST) / sum(map(len, weights))
        deviations = [np.sqrt(variance / weight) for weight in weights]
        most = [rows(content, plane, SINKS).std(axis=0) for plane in planes]
        return cls(planes, deviations, most, len(usual_cells(trial.rows)))

    def at(self, cells: NDArray[np.intp]) -> Part:
        """Return noise in ``cells`` alone: the larger, the fewer they are, so that it costs as much."""
        stronger = math.sqrt(self.cells / len(cells))
        stretches = [
            Stretch(plane, np.arange(plane.width), np.minimum(stronger * deviation, most) / FIRST_SIZE)
            for plane, deviation, most in zip(self.planes, self.deviations, self.most, strict=True)
        ]
        return Part(stretches, cells)


def _members(kinds: Kinds, basis: Basis, trial: Trial) -> list[NDArray[np.intp]]:
    """Return the cells of each kind, of those that are not at the ends."""
    group, layout = basis.groups[kinds.group], trial.rows
    with trial.file.open("rb") as source:
        found = kinds.of(vectors(source, 0, layout, basis.rotation, (group.first, group.last), 0, layout.cells))
    cells = usual_cells(layout)
    return [cells[found[cells] == kind] for kind in range(len(kinds.grades))]


def _weights(plane: Plane, rotation: Rotation, sensitivity: Sensitivity) -> NDArray[np.float64]:
    """Return the sensitivity of each channel of ``plane``, in the order of the engine."""
    if plane.part == "v":
        values = sensitivity.values[plane.layer]
        return np.repeat(values, plane.width // len(values))
    keys = sensitivity.keys[plane.layer]
    turning = np.tile(keys, 2) if rotation.pairs is Pairs.HALVES else np.repeat(keys, 2, axis=1)
    resting = rotation.head_length - rotation.dimensions
    return np.concatenate([turning, np.repeat(keys.mean(axis=1, keepdims=True), resting, axis=1)], axis=1).reshape(-1)
