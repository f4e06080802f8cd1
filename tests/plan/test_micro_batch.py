"""The micro-batch that a plan chooses: quicker prefills, at no cost worth naming."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quietmind.machine.load import load_machine
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan.ask import Ask
from quietmind.plan.coresident import Resident, plan_together
from quietmind.plan.ladder import next_rung
from quietmind.plan.micro_batch import DECODE_KEPT, NEARLY_AS_FAST, SIZES, worth_trying
from quietmind.plan.plan import plan
from quietmind.plan.record import Plan
from quietmind.plan.search import search


@pytest.fixture(scope="module")
def desk() -> Machine:
    """A GPU of 96 GB, which does not hold the model."""
    return load_machine("rtx-pro-6000-128")


@pytest.fixture(scope="module")
def mixture() -> ModelCard:
    """235 billion parameters in 4 bits, 133 GiB."""
    return open_card("qwen3-235b-a22b-2507", "Q4_K_M")


def rates(planned: Plan) -> tuple[float, float]:
    """Return the middles of prefill and decode."""
    speed = planned.speed
    assert speed is not None
    assert speed.prefill is not None
    assert speed.decode is not None
    return speed.prefill.mid, speed.decode.mid


@pytest.mark.parametrize("context", [4096, 32_768, 131_072, 262_144])
def test_with_experts_on_the_host_the_prefill_is_nearly_the_fastest_there_is(
    desk: Machine, mixture: ModelCard, context: int
) -> None:
    chosen, default = plan(desk, mixture, Ask(context)), plan(desk, mixture, Ask(context, micro_batch=512))
    every = [plan(desk, mixture, Ask(context, micro_batch=size, batch=size)) for size in SIZES]
    free = [it for it in every if it.verdict == default.verdict and rates(it)[1] >= DECODE_KEPT * rates(default)[1]]
    assert rates(chosen)[0] >= NEARLY_AS_FAST * max(rates(it)[0] for it in free)
    assert rates(chosen)[0] > 1.5 * rates(default)[0]
    assert rates(chosen)[1] >= DECODE_KEPT * rates(default)[1]
    assert chosen.verdict == default.verdict


def test_the_engine_is_told_a_batch_that_holds_the_micro_batch(desk: Machine, mixture: ModelCard) -> None:
    planned = plan(desk, mixture, Ask(131_072))
    told = dict(zip(planned.flags, planned.flags[1:], strict=False))
    assert int(told["-ub"]) == planned.micro_batch > 512
    assert int(told["-b"]) == planned.batch >= planned.micro_batch


@pytest.mark.parametrize("size", [64, 512, 2048])
def test_a_micro_batch_that_was_given_stays(desk: Machine, mixture: ModelCard, size: int) -> None:
    assert plan(desk, mixture, Ask(32_768, micro_batch=size)).micro_batch == size


def test_a_batch_below_the_default_bounds_it(desk: Machine, mixture: ModelCard) -> None:
    planned = plan(desk, mixture, Ask(32_768, batch=300))
    assert (planned.batch, planned.micro_batch) == (300, 300)


def test_a_short_context_is_no_micro_batch_larger_than_itself(desk: Machine, mixture: ModelCard) -> None:
    planned = plan(desk, mixture, Ask(1024))
    assert planned.micro_batch <= planned.batch <= 1024


def test_where_nothing_is_gained_the_engine_keeps_its_default() -> None:
    dense = open_card("qwen3-32b", "Q4_K_M")
    assert plan(load_machine("rtx-pro-6000-128"), dense, Ask(32_768)).micro_batch == 512


def test_a_context_left_to_the_plan_is_no_shorter_for_it(desk: Machine, mixture: ModelCard) -> None:
    assert plan(desk, mixture, Ask()).context == plan(desk, mixture, Ask(micro_batch=512)).context


def test_a_machine_of_unknown_speed_keeps_the_default(mixture: ModelCard, desk: Machine) -> None:
    blank = replace(desk, devices=tuple(replace(device, bandwidth_bytes_per_s=None) for device in desk.devices))
    assert plan(blank, mixture, Ask(32_768)).micro_batch == 512


def test_what_a_larger_micro_batch_costs_is_never_why_a_demand_is_missed(desk: Machine, mixture: ModelCard) -> None:
    default = rates(plan(desk, mixture, Ask(131_072, micro_batch=512)))[1]
    chosen = rates(plan(desk, mixture, Ask(131_072)))[1]
    assert chosen < default  # or this tests nothing
    demanded = (chosen + default) / 2
    found = search(desk, [mixture], min_decode=demanded, min_context=131_072, kv_types=("f16",))
    assert found.chosen is not None
    assert found.chosen.plan.micro_batch == 512


def test_after_memory_ran_out_the_micro_batch_is_the_first_to_give(desk: Machine, mixture: ModelCard) -> None:
    ask = Ask(131_072)
    planned = plan(desk, mixture, ask)
    rung = next_rung(desk, mixture, ask, planned, "accelerator")
    assert rung is not None
    assert rung.ask.micro_batch == planned.micro_batch // 2


def test_a_draft_computes_as_many_at_once_as_its_model(desk: Machine, mixture: ModelCard) -> None:
    draft = Resident("draft", open_card("qwen3-0.6b", "Q8_0"))
    found = plan_together(desk, [Resident("main", mixture, Ask(32_768)), draft])
    assert found.micro_batch == found.companions[0].micro_batch


def test_the_wanted_size_comes_first_then_smaller_ones_that_still_gain() -> None:
    assert worth_trying({512: 100, 1024: 180, 2048: 300, 4096: 310}) == (2048, 1024)
    assert worth_trying({512: 100, 1024: 105, 2048: 108, 4096: 109}) == ()
    assert worth_trying({512: 1000, 1024: 1050, 2048: 1200, 4096: 1500}) == (4096, 2048)


def test_nobody_waits_minutes_for_one_micro_batch() -> None:
    assert worth_trying({512: 5, 1024: 8, 2048: 10, 4096: 12}) == ()
    assert worth_trying({512: 30, 1024: 60, 2048: 110, 4096: 200}) == (2048, 1024)
