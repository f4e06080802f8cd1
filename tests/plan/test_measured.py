"""How measurements of real runs correct predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.measured import Measurement, machine_id, run_id
from quietmind.plan.placement import everything_on
from quietmind.plan.speed import Speed, predict

PLACEMENT = everything_on("cpu", 4)
SETTINGS: dict[str, Any] = {"kv_type": "f16", "micro_batch": 512}

Card = Callable[..., ModelCard]
MachineOf = Callable[..., Machine]


@pytest.fixture
def machine(machine_of: MachineOf) -> Machine:
    plain = machine_of()
    return replace(plain, devices=(replace(plain.cpu, bandwidth_bytes_per_s=50e9),))


def predicted(machine: Machine, card: ModelCard, depth: int = 1000, *measured: Measurement) -> Speed:
    speed = predict(machine, card, PLACEMENT, depth=depth, measured=measured, **SETTINGS)
    assert speed is not None
    return speed


def shown(machine: Machine, card: ModelCard, value: float, depth: int = 1000, **changes: Any) -> Measurement:
    run = run_id(machine, card, PLACEMENT, **SETTINGS)
    made = Measurement(run, "decode", value, "tok/s", "2026-01-01T00:00:00+00:00", machine_id(machine), depth)
    return replace(made, **changes)


def test_the_same_run_measured_becomes_the_prediction(machine: Machine, card_of: Card) -> None:
    card = card_of()
    before = predicted(machine, card)
    after = predicted(machine, card, 1000, shown(machine, card, before.decode.mid / 2))
    assert after.decode.mid == pytest.approx(before.decode.mid / 2)
    assert after.decode.high / after.decode.low < before.decode.high / before.decode.low
    assert after.prefill == before.prefill
    assert after.basis[-1] == "decode corrected by 1 measured on this machine with these settings"


def test_a_nearer_depth_weighs_more(machine: Machine, card_of: Card) -> None:
    card = card_of()
    plain = [predicted(machine, card, depth).decode.mid for depth in (0, 30_000)]
    runs = (shown(machine, card, plain[0], 0), shown(machine, card, plain[1] / 2, 30_000))
    near, far = predicted(machine, card, 0, *runs), predicted(machine, card, 30_000, *runs)
    assert near.decode.mid > 0.9 * plain[0]
    assert far.decode.mid < 0.6 * plain[1]


def test_another_model_on_the_same_machine_only_shifts_it(machine: Machine, card_of: Card) -> None:
    card = card_of()
    before = predicted(machine, card)
    other = shown(machine, card, 5.0, plan_id="another", predicted=20.0)
    after = predicted(machine, card, 1000, other)
    assert after.decode.mid == pytest.approx(before.decode.mid / 2)  # a quarter, by half in the logarithm
    assert after.decode.high / after.decode.low == pytest.approx(before.decode.high / before.decode.low)
    assert "with other models" in after.basis[-1]


def test_another_machine_says_nothing(machine: Machine, card_of: Card) -> None:
    card = card_of()
    foreign = replace(shown(machine, card, 1.0, plan_id="another", predicted=20.0), machine="elsewhere")
    assert predicted(machine, card, 1000, foreign) == predicted(machine, card)


def test_a_run_is_another_when_anything_that_costs_time_differs(machine: Machine, card_of: Card) -> None:
    card = card_of()
    one = run_id(machine, card, PLACEMENT, **SETTINGS)
    assert one == run_id(machine, replace(card, name="renamed"), PLACEMENT, **SETTINGS)
    others = {
        run_id(machine, card, PLACEMENT, kv_type="q8_0", micro_batch=512),
        run_id(machine, card, PLACEMENT, kv_type="f16", micro_batch=64),
        run_id(machine, card, PLACEMENT, threads=1, **SETTINGS),
        run_id(machine, card_of(quantization="Q4_0"), PLACEMENT, **SETTINGS),
        run_id(machine, card, everything_on("cuda0", 4), **SETTINGS),
        run_id(replace(machine, host=replace(machine.host, cpu="Another")), card, PLACEMENT, **SETTINGS),
    }
    assert one not in others
    assert len(others) == 6
