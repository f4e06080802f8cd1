"""After memory ran out the next run is smaller where it ran out, by the mildest change that helps."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from quietmind.machine.load import load_machine
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan.ask import Ask
from quietmind.plan.ladder import LEAST_CONTEXT, LEAST_FREED, LEAST_MICRO_BATCH, Side, next_rung
from quietmind.plan.plan import Plan, plan


@pytest.fixture(scope="module")
def desk() -> Machine:
    return load_machine("rtx-pro-6000-192")


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return open_card("Qwen3-235B-A22B", quant="Q4_K_M")


def descend(machine: Machine, card: ModelCard, ask: Ask, side: Side | None) -> list[tuple[Ask, Plan, str]]:
    steps = [(ask, plan(machine, card, ask), "")]
    while (rung := next_rung(machine, card, steps[-1][0], steps[-1][1], side)) is not None:
        steps.append((rung.ask, plan(machine, card, rung.ask), rung.change))
        assert len(steps) < 100
    return steps


def held(planned: Plan, machine: Machine, side: Side | None) -> int:
    accelerators = {device.key for device in machine.accelerators}
    return sum(
        use.needed_bytes
        for use in planned.devices
        if side is None or (use.device in accelerators) == (side == "accelerator")
    )


@pytest.mark.parametrize("side", ["accelerator", "host", None])
def test_every_rung_frees_memory_where_it_ran_out_until_none_is_left(
    desk: Machine, card: ModelCard, side: Side | None
) -> None:
    steps = descend(desk, card, Ask(context=65_536, micro_batch=4096, batch=4096), side)
    sizes = [held(planned, desk, side) for _, planned, _ in steps]
    assert len(sizes) > 4
    for before, after in pairwise(sizes):
        assert after <= before * (1 - LEAST_FREED)


def test_on_a_card_speed_is_given_up_before_quality_and_quality_before_the_context(
    desk: Machine, card: ModelCard
) -> None:
    steps = descend(desk, card, Ask(context=65_536, micro_batch=4096, batch=4096), "accelerator")
    changes = " | ".join(change for _, _, change in steps[1:])
    order = [changes.find(word) for word in ("micro-batch", "KV type q8_0", "experts of", "KV type q4_0", "context")]
    assert -1 not in order
    assert order == sorted(order)


def test_a_host_without_a_card_is_never_offered_experts_on_the_host(card: ModelCard) -> None:
    server = load_machine("2x-epyc-9575f-1.5tb")
    changes = [change for _, _, change in descend(server, card, Ask(context=131_072), "host")[1:]]
    assert changes
    assert not any("experts" in change for change in changes)


def test_no_rung_goes_below_what_is_of_any_use(desk: Machine, card: ModelCard) -> None:
    last, planned, _ = descend(desk, card, Ask(context=16_384, micro_batch=2048), None)[-1]
    assert planned.micro_batch >= LEAST_MICRO_BATCH
    assert planned.context >= LEAST_CONTEXT
    assert last.context == planned.context


def test_without_flash_attention_the_cache_is_not_quantized(desk: Machine, card: ModelCard) -> None:
    steps = descend(desk, card, Ask(context=16_384, flash_attention=False), None)
    assert {planned.kv_type for _, planned, _ in steps} == {"f16"}


def test_a_context_left_to_the_plan_is_held_fast(desk: Machine, card: ModelCard) -> None:
    first = plan(desk, card, Ask())
    rung = next_rung(desk, card, Ask(), first)
    assert rung is not None
    assert rung.ask.context == first.context


def test_the_change_says_what_it_frees(desk: Machine, card: ModelCard) -> None:
    ask = Ask(context=32_768, micro_batch=2048)
    rung = next_rung(desk, card, ask, plan(desk, card, ask), "accelerator")
    assert rung is not None
    assert re.fullmatch(r".+, which frees [\d.,]+ [KMG]iB", rung.change)
    assert rung.freed > 0
