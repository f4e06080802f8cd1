"""How finely each kind of tokens is written: what noise in its tokens costs, through the engine."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray

from quietmind.base.progress import SILENT, Progress
from quietmind.kvstore.basis import Basis
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
    members = _members(kinds, basis, trial)
    progress.begin("measuring which tokens matter", len(members))
    costs, counts = np.zeros(len(members)), np.array([len(cells) for cells in members])
    for kind, cells in enumerate(members):
        if len(cells):
            noise = _noise(trial, cells, rotation, sensitivity)
            size, cost = cost_of(trial, Part(noise, cells), FIRST_SIZE, floor)
            costs[kind] = cost / size**2  # of a token: the noise is the stronger, the fewer they are
        progress.advance()
    usual = float(costs @ counts / counts.sum())
    return kinds.graded(grades(costs, counts, usual))


def grades(costs: NDArray[np.float64], counts: NDArray[np.intp], usual: float) -> Grades:
    """Return the grades of kinds with ``counts`` tokens, of which each costs ``costs``, and a token ``usual``."""
    return grades_for((costs * counts + usual * _USUAL) / (counts + _USUAL))


def _members(kinds: Kinds, basis: Basis, trial: Trial) -> list[NDArray[np.intp]]:
    """Return the cells of each kind, of those that are not at the ends."""
    group, layout = basis.groups[kinds.group], trial.rows
    source = io.BytesIO(trial.file.read_bytes())
    found = kinds.of(vectors(source, 0, layout, basis.rotation, (group.first, group.last), 0, layout.cells))
    cells = usual_cells(layout)
    return [cells[found[cells] == kind] for kind in range(len(kinds.grades))]


def _noise(trial: Trial, cells: NDArray[np.intp], rotation: Rotation, sensitivity: Sensitivity) -> list[Stretch]:
    """Return noise as a codec makes it: it costs alike in every channel, and is nowhere more than what is there.

    Its variance is the larger, the fewer ``cells`` there are, so that it costs about what is aimed at.
    """
    content, planes = trial.file.read_bytes(), trial.rows.planes
    weights = [_weights(plane, rotation, sensitivity) for plane in planes]
    share = len(cells) / len(usual_cells(trial.rows))
    variance = math.sqrt(LEAST * MOST) / (share * sum(map(len, weights)))
    stretches = []
    for plane, weight in zip(planes, weights, strict=True):
        most = rows(content, plane, SINKS).std(axis=0)
        deviation = np.minimum(np.sqrt(variance / weight), most).astype(np.float32) / np.float32(FIRST_SIZE)
        stretches.append(Stretch(plane, np.arange(plane.width), deviation))
    return stretches


def _weights(plane: Plane, rotation: Rotation, sensitivity: Sensitivity) -> NDArray[np.float64]:
    """Return the sensitivity of each channel of ``plane``, in the order of the engine."""
    if plane.part == "v":
        values = sensitivity.values[plane.layer]
        return np.repeat(values, plane.width // len(values))
    keys = sensitivity.keys[plane.layer]
    turning = np.tile(keys, 2) if rotation.pairs is Pairs.HALVES else np.repeat(keys, 2, axis=1)
    resting = rotation.head_length - rotation.dimensions
    return np.concatenate([turning, np.repeat(keys.mean(axis=1, keepdims=True), resting, axis=1)], axis=1).reshape(-1)
