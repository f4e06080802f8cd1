"""How finely each kind of tokens is written: what noise in its tokens costs, through the engine."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quietmind.base.progress import SILENT, Progress
from quietmind.kvstore.basis import Basis
from quietmind.kvstore.gathering import SINKS, Sensitivity, vectors
from quietmind.kvstore.kinds import Grades, Kinds, grades_for
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import Plane, rows
from quietmind.workspace.sensitivity import FIRST_SIZE, LEAST, MOST, Part, Stretch, shake, usual_cells
from quietmind.workspace.trial import Trial

# The cost of a kind with few tokens says little: so many of usual cost are added to it.
_USUAL = 16

_TOGETHER = MOST / 2  # what noise in all tokens costs: each kind's is then seen, and still small
_ATTEMPTS, _FURTHER = 5, 4.0
_LEAST = LEAST / 64  # that a kind is held to cost: what is less cannot be measured


def graded(
    basis: Basis,
    trial: Trial,
    rotation: Rotation,
    sensitivity: Sensitivity,
    floor: float,
    progress: Progress = SILENT,
) -> Kinds | None:
    """Return the kinds of ``basis`` with the grades that they are to have; None where it has none.

    The noise is the same in all tokens, and small even where all have it at once: larger noise in tokens that matter
    little would make them matter. ``floor`` is what rounding costs everywhere.
    Raises what a trial raises.
    """
    kinds = basis.kinds
    if kinds is None:
        return None
    members = _members(kinds, basis, trial)
    noise = _noise(trial, rotation, sensitivity)
    progress.begin("measuring which tokens matter", len(members))
    size = _size(trial, Part(noise, usual_cells(trial.rows)), floor)
    costs = np.zeros(len(members))
    for kind, cells in enumerate(members):
        if len(cells):
            found = trial.damage(partial(shake, part=Part(noise, cells), size=size)).everywhere - floor
            costs[kind] = max(found, floor / 2, _LEAST)
        progress.advance()
    return kinds.graded(grades(costs, np.array([len(cells) for cells in members])))


def grades(costs: NDArray[np.float64], counts: NDArray[np.intp]) -> Grades:
    """Return the grades of kinds of which all ``counts`` tokens together cost ``costs``."""
    usual = costs.sum() / counts.sum()
    return grades_for((costs + usual * _USUAL) / (counts + _USUAL))


def _size(trial: Trial, part: Part, floor: float) -> float:
    """Return the size of noise in ``part`` that costs about _TOGETHER: its cost grows faster than its variance."""
    size, tried = FIRST_SIZE, []
    for _ in range(_ATTEMPTS):
        cost = max(trial.damage(partial(shake, part=part, size=size)).everywhere - floor, _LEAST)
        tried.append((size, cost))
        if _TOGETHER / 2 <= cost <= _TOGETHER * 2:
            break
        size *= min(_FURTHER, max(1 / _FURTHER, (_TOGETHER / cost) ** (1 / 3)))
    return min(tried, key=lambda one: abs(math.log(one[1] / _TOGETHER)))[0]


def _noise(trial: Trial, rotation: Rotation, sensitivity: Sensitivity) -> list[Stretch]:
    """Return noise as a codec makes it: it costs alike in every channel, and is nowhere more than what is there.

    In all tokens it costs about what is aimed at first.
    """
    content, planes = trial.file.read_bytes(), trial.rows.planes
    weights = [_weights(plane, rotation, sensitivity) for plane in planes]
    variance = math.sqrt(LEAST * MOST) / sum(map(len, weights))
    return [
        Stretch(
            plane,
            np.arange(plane.width),
            np.minimum(np.sqrt(variance / weight), rows(content, plane, SINKS).std(axis=0)) / FIRST_SIZE,
        )
        for plane, weight in zip(planes, weights, strict=True)
    ]


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
