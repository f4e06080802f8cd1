"""What errors cost is found where it is known: of a model whose answers move exactly with the errors in its cache."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.kvstore import arrays
from quietmind.kvstore.gathering import SINKS, Sensitivity
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import Plane, SlotLayout, rows
from quietmind.workspace.damage import Damage
from quietmind.workspace.sensitivity import MOST, roundings_of, runs_of, sensitivity_of, smoothed
from quietmind.workspace.trial import Trial

HEADS, LENGTH, CELLS = 2, 32, 200
WIDTH = HEADS * LENGTH
HALVES = Rotation(Pairs.HALVES, LENGTH, LENGTH, 1e4)
NEIGHBOURS = Rotation(Pairs.NEIGHBOURS, LENGTH, LENGTH, 1e4)


@dataclass
class Known:
    """A trial whose damage is the sum over all channels of ``cost`` times the variance of the error."""

    file: Path
    rows: SlotLayout
    cost: Callable[[Plane], NDArray[np.float64]]
    rounding: float = 0.0
    asked: int = 0

    def damage(self, change: Callable[[memoryview], None]) -> Damage:
        before = self.file.read_bytes()
        after = bytearray(before)
        change(memoryview(after))
        self.asked += 1
        total = self.rounding
        for plane in self.rows.planes:
            errors = rows(bytes(after), plane) - rows(before, plane)
            assert not errors[:SINKS].any(), "tokens that stay exact were touched"
            total += float((self.cost(plane) * (errors[SINKS:] ** 2).mean(axis=0)).sum())
        return Damage(total, total, 1, 1, 1)


def known(tmp_path: Path, layers: int, cost: Callable[[Plane], NDArray[np.float64]], rounding: float = 0.0) -> Known:
    chance = np.random.default_rng(1)
    file = tmp_path / "exact"
    shape = arrays.Shape(CELLS, CELLS, "f32", ((WIDTH, WIDTH),) * layers)

    def made() -> NDArray[np.float32]:
        return chance.normal(0, 1.5, (CELLS, WIDTH)).astype(np.float32)

    with file.open("wb") as sink:
        arrays.write(sink, shape, range(CELLS), range(CELLS), ((made(), made()) for _ in range(layers)))
    return Known(file, arrays.layout_of(io.BytesIO(file.read_bytes())), cost, rounding)


def measured(trial: Known, rotation: Rotation, *, every: int = 1) -> Sensitivity:
    given = cast(Trial, trial)
    return sensitivity_of(given, rotation, roundings_of(given).mean, every=every)


def costs(plane: Plane, rotation: Rotation) -> NDArray[np.float64]:
    """Return what channels cost: more in later layers, in K of the second head, and in pairs that turn quickly."""
    head = np.where(np.arange(WIDTH) < LENGTH, 1.0, 4.0)
    within = np.arange(WIDTH) % LENGTH
    pair = within % (LENGTH // 2) if rotation.pairs is Pairs.HALVES else within // 2
    profile = np.where(pair < 4, 3.0, 1.0) if plane.part == "k" else np.ones(WIDTH)
    return 0.001 * 10.0**plane.layer * head * profile


@pytest.mark.parametrize("rotation", [HALVES, NEIGHBOURS], ids=["halves", "neighbours"])
def test_costs_are_found_for_every_head_and_band(tmp_path: Path, rotation: Rotation) -> None:
    found = measured(known(tmp_path, 3, lambda plane: costs(plane, rotation)), rotation)
    assert [weights.shape for weights in found.keys] == [(HEADS, LENGTH // 2)] * 3
    assert [weights.shape for weights in found.values] == [(HEADS,)] * 3
    keys, values = np.stack(list(found.keys)), np.stack(list(found.values))
    # Pulled a little towards the mean: a tenfold comes out somewhat less.
    assert np.all((keys[1:] / keys[:-1] > 6) & (keys[1:] / keys[:-1] < 10.5))
    assert np.all((values[1:] / values[:-1] > 6) & (values[1:] / values[:-1] < 10.5))
    assert np.all((keys[:, 1] / keys[:, 0] > 3) & (keys[:, 1] / keys[:, 0] < 4.2))
    profile = keys[0, 0] / keys[0, 0].mean()
    assert np.all(profile[:4] / profile[4:8].mean() > 2.3)
    assert np.ptp(profile[4:]) < 0.4


def test_the_scale_is_that_of_a_channel(tmp_path: Path) -> None:
    found = measured(known(tmp_path, 2, lambda _plane: np.full(WIDTH, 0.02)), HALVES)
    everything = np.concatenate([np.ravel(each) for each in (*found.keys, *found.values)])
    assert everything == pytest.approx(0.02, rel=0.3)


def test_of_many_parts_each_layer_is_measured_whole(tmp_path: Path) -> None:
    layers = 40
    trial = known(tmp_path, layers, lambda plane: np.full(WIDTH, 0.002 * (1 + plane.layer)))
    assert runs_of(trial.rows, HALVES) == 2 * layers + 8
    found = measured(trial, HALVES)
    assert [weights.shape for weights in found.keys] == [(HEADS, LENGTH // 2)] * layers
    assert found.values[-1][0] > 15 * found.values[0][0]


def test_only_some_parts_are_measured_where_that_is_asked_for(tmp_path: Path) -> None:
    trial = known(tmp_path, 8, lambda _plane: np.full(WIDTH, 0.02))
    measured(trial, HALVES)
    whole, trial.asked = trial.asked, 0
    found = measured(trial, HALVES, every=4)
    assert trial.asked < whole / 2
    assert np.concatenate([np.ravel(each) for each in found.values]) == pytest.approx(0.02, rel=0.3)


def test_what_costs_nothing_is_cheap_and_never_free(tmp_path: Path) -> None:
    def cost(plane: Plane) -> NDArray[np.float64]:
        return np.full(WIDTH, 0.0 if plane.layer == 0 and plane.part == "v" else 0.02)

    found = measured(known(tmp_path, 3, cost, rounding=0.001), HALVES)
    assert np.all(found.values[0] > 0)
    assert np.all(found.values[0] < found.values[1] / 20)


def test_the_floor_is_what_rounding_shows(tmp_path: Path) -> None:
    floor = roundings_of(cast(Trial, known(tmp_path, 2, lambda _plane: np.full(WIDTH, 0.02), rounding=0.003)))
    assert floor.mean == pytest.approx(0.003, rel=0.01)
    assert floor.mean <= floor.most < MOST


def test_weights_are_pulled_towards_their_mean_and_keep_their_order() -> None:
    found = smoothed([1.0, 10.0, 100.0])
    assert 1.0 < found[0] < found[1] < found[2] < 100.0
    assert found[1] == pytest.approx(10.0)
