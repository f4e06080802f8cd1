"""Which tokens matter is found where it is known: of a model whose answers move with the errors of some of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.kvstore import arrays
from quietmind.kvstore.basis import Basis
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.gathering import Gathering, Sensitivity, vectors
from quietmind.kvstore.kinds import between
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import SlotLayout, rows
from quietmind.workspace.damage import Damage
from quietmind.workspace.grading import graded, grades
from quietmind.workspace.trial import Trial

CELLS, WIDTH, LAYERS = 600, 64, 2
INNER = between(CELLS)


@dataclass
class Known:
    """A trial whose damage is the sum over cells of ``costs`` [cells] times the square of the error."""

    file: Path
    rows: SlotLayout
    costs: NDArray[np.float64]

    def damage(self, change: Callable[[memoryview], None]) -> Damage:
        before = self.file.read_bytes()
        after = bytearray(before)
        change(memoryview(after))
        total = 0.0
        for plane in self.rows.planes:
            errors = rows(bytes(after), plane) - rows(before, plane)
            assert not np.delete(errors, INNER, axis=0).any(), "tokens at the ends were touched"
            total += float(self.costs @ np.square(errors).sum(axis=1))
        return Damage(total, total, 1, 1, 1)


def case(tmp_path: Path, rotation: Rotation) -> tuple[Known, Basis, Sensitivity, NDArray[np.intp]]:
    """Return a trial of two sorts of tokens, a basis of it, and the cells of one sort."""
    chance = np.random.default_rng(8)
    sort = np.arange(CELLS) % 3 == 0
    both = np.where(sort[:, None], 1.0, -1.0) * chance.normal(0, 3, WIDTH) + chance.normal(0, 0.5, (CELLS, WIDTH))
    rotated = rotation.turned(both.astype(np.float32).reshape(CELLS, -1, 32), rotation.phases(range(CELLS)))
    file = tmp_path / "exact"
    with file.open("wb") as sink:
        planes = ((rotated.reshape(CELLS, WIDTH), both.astype(np.float32)) for _ in range(LAYERS))
        arrays.write(
            sink, arrays.Shape(CELLS, CELLS, "f32", ((WIDTH, WIDTH),) * LAYERS), [0] * CELLS, range(CELLS), planes
        )
    layout = arrays.layout_of(io.BytesIO(file.read_bytes()))
    gathering = Gathering(layout, rotation)
    gathering.add(io.BytesIO(file.read_bytes()))
    chance_weights = [chance.uniform(0.001, 0.01, (2, 16)) for _ in range(LAYERS)]
    sensitivity = Sensitivity(chance_weights, [weights.mean(axis=1) for weights in chance_weights])
    basis = gathering.basis(sensitivity, fingerprint=Fingerprint(*"abcdef"), steps={"near": 1.0})
    return Known(file, layout, np.full(CELLS, 1e-4)), basis, sensitivity, np.flatnonzero(sort)


@pytest.mark.parametrize("pairs", list(Pairs))
def test_the_kinds_of_tokens_that_cost_more_are_written_more_finely(tmp_path: Path, pairs: Pairs) -> None:
    rotation = Rotation(pairs, 32, 32, 1e4)
    trial, basis, sensitivity, dear = case(tmp_path, rotation)
    trial.costs[dear] *= 50
    kinds = graded(basis, cast(Trial, trial), rotation, sensitivity, floor=0.0)
    assert kinds is not None
    assert basis.kinds is not None
    group = basis.groups[kinds.group]
    with trial.file.open("rb") as source:
        found = kinds.of(vectors(source, 0, trial.rows, rotation, (group.first, group.last), 0, CELLS))[INNER]
    is_dear = np.isin(INNER, dear)
    of_dear, of_others = set(found[is_dear]), set(found[~is_dear])
    assert not of_dear & of_others
    assert min(kinds.grades[list(of_dear)]) >= max(kinds.grades[list(of_others)]) + 3


def test_where_all_cost_alike_the_grades_do(tmp_path: Path) -> None:
    rotation = Rotation(Pairs.HALVES, 32, 32, 1e4)
    trial, basis, sensitivity, _ = case(tmp_path, rotation)
    kinds = graded(basis, cast(Trial, trial), rotation, sensitivity, floor=0.0)
    assert kinds is not None
    assert np.abs(kinds.grades).max() <= 1


def test_a_kind_of_few_tokens_is_held_to_be_usual() -> None:
    dear = 100.0
    many, few = np.array([500, 500, 500]), np.array([1, 500, 500])
    assert grades(np.array([dear, 1, 1]) * few, few)[0] < grades(np.array([dear, 1, 1]) * many, many)[0]
    assert grades(np.array([0.0, 1.0]), np.array([0, 100])).tolist() == [0, 0]


def test_a_basis_without_kinds_has_nothing_to_grade(tmp_path: Path) -> None:
    rotation = Rotation(Pairs.HALVES, 32, 32, 1e4)
    trial, basis, sensitivity, _ = case(tmp_path, rotation)
    assert graded(replace(basis, kinds=None), cast(Trial, trial), rotation, sensitivity, floor=0.0) is None
