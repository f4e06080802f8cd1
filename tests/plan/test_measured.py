"""How measurements of real runs correct predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.compare import render_side_by_side, side_by_side
from quietmind.plan.interval import Interval
from quietmind.plan.measured import Measurement, machine_id, run_id
from quietmind.plan.placement import everything_on
from quietmind.plan.plan import Ask, plan
from quietmind.plan.render import render, to_json
from quietmind.plan.search import shortfall
from quietmind.plan.speed import Speed, predict
from quietmind.plan.svg import draw

PLACEMENT = everything_on("cpu", 4)
SETTINGS: dict[str, Any] = {"kv_type": "f16", "micro_batch": 512}

Card = Callable[..., ModelCard]
MachineOf = Callable[..., Machine]


@pytest.fixture
def machine(machine_of: MachineOf) -> Machine:
    plain = machine_of()
    return replace(plain, devices=(replace(plain.cpu, bandwidth_bytes_per_s=50e9),))


def told(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


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
    after = predicted(machine, card, 1000, shown(machine, card, told(before.decode).mid / 2))
    assert told(after.decode).mid == pytest.approx(told(before.decode).mid / 2)
    assert told(after.decode).high / told(after.decode).low < told(before.decode).high / told(before.decode).low
    assert after.prefill == before.prefill
    assert after.basis[-1] == "decode corrected by 1 measured on this machine with these settings"


def test_a_nearer_depth_weighs_more(machine: Machine, card_of: Card) -> None:
    card = card_of()
    plain = [told(predicted(machine, card, depth).decode).mid for depth in (0, 30_000)]
    runs = (shown(machine, card, plain[0], 0), shown(machine, card, plain[1] / 2, 30_000))
    near, far = predicted(machine, card, 0, *runs), predicted(machine, card, 30_000, *runs)
    assert told(near.decode).mid > 0.9 * plain[0]
    assert told(far.decode).mid < 0.6 * plain[1]


def test_another_model_on_the_same_machine_only_shifts_it(machine: Machine, card_of: Card) -> None:
    card = card_of()
    before = predicted(machine, card)
    other = shown(machine, card, 5.0, plan_id="another", predicted=20.0)
    after = predicted(machine, card, 1000, other)
    assert told(after.decode).mid == pytest.approx(told(before.decode).mid / 2)  # a quarter, by half in the logarithm
    assert told(after.decode).high / told(after.decode).low == pytest.approx(
        told(before.decode).high / told(before.decode).low
    )
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


@pytest.fixture
def silent(machine: Machine) -> Machine:
    """A machine that says nothing of its memory's bandwidth."""
    return replace(machine, devices=(replace(machine.cpu, bandwidth_bytes_per_s=None),))


def test_without_a_bandwidth_the_run_that_was_measured_is_what_is_known(silent: Machine, card_of: Card) -> None:
    card = card_of()
    assert predict(silent, card, PLACEMENT, depth=1000, **SETTINGS) is None
    found = predicted(silent, card, 1000, shown(silent, card, 20.0))
    assert told(found.decode).mid == pytest.approx(20.0)
    assert told(found.decode).low < 20.0 < told(found.decode).high
    assert found.prefill is None
    assert found.limit == ""
    assert found.basis == ("decode measured, not predicted: 1 run with these settings at 1,000 tokens",)


def test_without_a_bandwidth_seconds_a_token_lie_on_a_line_over_the_depth(silent: Machine, card_of: Card) -> None:
    card = card_of()
    runs = (shown(silent, card, 20.0, 0), shown(silent, card, 10.0, 10_000))

    def rate(depth: int) -> Interval:
        return told(predicted(silent, card, depth, *runs).decode)

    assert rate(5_000).mid == pytest.approx(1 / 0.075)
    assert rate(20_000).mid == pytest.approx(1 / 0.15)  # continued
    assert rate(20_000).high / rate(20_000).low > rate(10_000).high / rate(10_000).low


def test_noise_never_makes_a_deeper_context_faster(silent: Machine, card_of: Card) -> None:
    card = card_of()
    runs = (shown(silent, card, 10.0, 0), shown(silent, card, 11.0, 1000))
    assert told(predicted(silent, card, 100_000, *runs).decode).mid == pytest.approx(11.0)


def test_without_a_bandwidth_another_run_says_nothing(silent: Machine, card_of: Card) -> None:
    card = card_of()
    other = shown(silent, card, 5.0, plan_id="another", predicted=20.0)
    assert predict(silent, card, PLACEMENT, depth=1000, measured=[other], **SETTINGS) is None


def test_every_view_shows_what_is_measured_and_says_that_the_rest_is_unknown(silent: Machine, card_of: Card) -> None:
    card, ask = card_of(), Ask(4096, micro_batch=512)
    run = run_id(silent, card, PLACEMENT, threads=6, **SETTINGS)
    measured = [Measurement(run, "prefill", 300.0, "tok/s", "2026-01-01T00:00:00+00:00", machine_id(silent), 4096)]
    found = plan(silent, card, ask, measured)
    assert "prefill 300 (273-330) tokens/s, decode unknown" in render(found)
    assert "measured, not predicted" in render(found)
    assert to_json(found)["speed"]["decode"] is None
    assert "unknown" in render_side_by_side(side_by_side(silent, [card], ask))
    assert "no speed can be predicted" in shortfall(silent, found, 3.0)
    assert "decode unknown, prefill 300 (273-330) tokens/s" in draw(found, ())
