"""Steps are found from few measurements that are off, also where what is allowed is too little to be measured."""

from __future__ import annotations

import random

import pytest

from quietmind.workspace.stepping import MARGIN, Looked, law_of, losses_for

BOUNDS = (0.0005, 0.005)


def test_where_costs_are_what_is_lost_the_losses_are_the_bounds() -> None:
    found = losses_for(lambda loss: loss, BOUNDS, first=0.3, floor=0.0)
    assert found == pytest.approx([MARGIN * bound for bound in BOUNDS], rel=0.01)


def test_a_constant_factor_is_found() -> None:
    found = losses_for(lambda loss: 7 * loss, BOUNDS, first=0.005, floor=0.0)
    assert found == pytest.approx([MARGIN * bound / 7 for bound in BOUNDS], rel=0.01)


def test_a_law_that_bends_is_followed_in_part() -> None:
    def bent(loss: float) -> float:
        return float(0.2 * loss**0.9)

    found = losses_for(bent, BOUNDS, first=0.005, floor=0.0)
    for loss, bound in zip(found, BOUNDS, strict=True):
        assert 0.4 * bound < bent(loss) < bound


@pytest.mark.parametrize("seed", range(20))
def test_measurements_that_are_off_and_lie_on_a_floor_keep_the_bounds_about(seed: int) -> None:
    chance, floor = random.Random(seed), 0.003

    def measured(loss: float) -> float:
        return 3 * loss * chance.lognormvariate(0, 0.3) + floor * chance.gauss(0, 0.4)

    for loss, bound in zip(losses_for(measured, BOUNDS, 0.005, floor), BOUNDS, strict=True):
        assert bound / 4 < 3 * loss < 2 * bound


def test_what_costs_nothing_at_all_is_no_error() -> None:
    assert all(loss > 0 for loss in losses_for(lambda _loss: 0.0, BOUNDS, 0.005, 0.001))


def test_measurements_below_the_floor_weigh_little() -> None:
    clear = [Looked(0.01, 0.03), Looked(0.02, 0.06)]
    alone = law_of(clear, 0.003)
    beside = law_of([*clear, Looked(0.0001, 0.002)], 0.003)
    assert beside.loss(0.0005) == pytest.approx(alone.loss(0.0005), rel=0.5)
