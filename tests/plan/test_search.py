"""The frontier of what a machine can do with a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan import Ask, Plan, plan
from quietmind.plan.interval import Interval
from quietmind.plan.search import (
    Frontier,
    Goal,
    bits_per_weight,
    frontier_to_json,
    goal_named,
    kv_penalty,
    render_frontier,
    search,
    weights_penalty,
)
from quietmind.plan.speed import Speed

Cards = Callable[..., ModelCard]
Machines = Callable[..., Machine]

BITS = {"q8_0": 8.5, "q6_k": 6.5625, "q4_k": 4.5, "q2_k": 2.625}
MIB = 1 << 20


def in_quantization(card: ModelCard, name: str) -> ModelCard:
    """The same model with every tensor in one type."""
    tensors = tuple(
        replace(tensor, bytes=int(BITS[name] * tensor.bytes / 8.5)) for tensor in card.tensors if tensor.type == "q8_0"
    )
    return replace(card, tensors=tensors, quantization=name.upper())


def as_fast_as_it_is_small(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
    """A plan whose speed is a bandwidth over the bytes of the weights and the cache."""
    planned = plan(machine, card, ask)
    read = card.weight_bytes + planned.ledger.component("KV cache")
    rate = 4e9 / read
    interval = Interval(rate * 0.8, rate, rate * 1.2)
    return replace(planned, speed=Speed(planned.context, interval, interval, "memory"))


@pytest.fixture
def family(card_of: Cards) -> list[ModelCard]:
    return [in_quantization(card_of(), name) for name in BITS]


def found(machine: Machine, family: list[ModelCard], **demands: Any) -> Frontier:
    return search(machine, family, planner=as_fast_as_it_is_small, **demands)


def test_on_a_large_machine_quality_takes_the_most_bits_the_best_cache_and_all_the_context(
    machine_of: Machines, family: list[ModelCard]
) -> None:
    chosen = found(machine_of(), family, goal="quality").chosen
    assert chosen is not None
    assert (chosen.quantization, chosen.plan.kv_type, chosen.plan.context) == ("Q8_0", "f16", 40_960)


def test_a_demanded_speed_is_met_by_every_choice_and_costs_bits_or_context(
    machine_of: Machines, family: list[ModelCard]
) -> None:
    frontier = found(machine_of(), family, goal="quality", min_decode=30.0, min_context=4096)
    assert frontier.choices
    assert all(choice.decode is not None and choice.decode.mid >= 30.0 for choice in frontier.choices)
    slowest = found(machine_of(), family, goal="quality", min_decode=1e5, min_context=4096)
    assert slowest.chosen is None
    assert len(slowest.rejected) == len(family) * 3
    assert slowest.rejected[0].reason.startswith("decodes ")


def test_the_goals_differ_in_what_they_give_up(machine_of: Machines, family: list[ModelCard]) -> None:
    chosen = {
        goal: found(machine_of(), family, goal=goal, min_decode=60.0, min_context=4096).chosen
        for goal in ("quality", "context", "speed")
    }
    quality, context, speed = (chosen[goal] for goal in ("quality", "context", "speed"))
    assert quality is not None
    assert context is not None
    assert speed is not None
    assert speed.decode is not None
    assert quality.decode is not None
    assert quality.bits >= max(context.bits, speed.bits)
    assert context.plan.context >= max(quality.plan.context, speed.plan.context)
    assert speed.decode.mid >= quality.decode.mid
    assert speed.bits > 4, "below four bits only if nothing else will do"


def test_no_choice_is_beaten_by_another_in_everything(machine_of: Machines, family: list[ModelCard]) -> None:
    choices = found(machine_of(), family, goal="speed", min_decode=5.0, min_context=4096).choices
    merits = [
        (-choice.penalty, choice.plan.context, choice.decode.mid) for choice in choices if choice.decode is not None
    ]
    assert len(merits) == len(choices) > 3
    for own in merits:
        assert not any(other != own and all(b >= a for a, b in zip(own, other, strict=True)) for other in merits)


def test_what_does_not_fit_says_by_how_much(machine_of: Machines, family: list[ModelCard]) -> None:
    frontier = found(machine_of(memory=100 * MIB, free=100 * MIB), family, goal="quality")
    assert frontier.chosen is None
    assert all("takes" in each.reason and "and there are 100.0 MiB" in each.reason for each in frontier.rejected)
    tiny = found(machine_of(memory=MIB, free=MIB), family, goal="quality")
    assert tiny.planned == 0, "weights that are larger than all memory need no plan"
    assert all("weights alone" in each.reason for each in tiny.rejected)
    text = render_frontier(frontier)
    assert "nothing does" in text
    assert "Q8_0 with KV f16, q8_0, q4_0: takes" in text


def test_what_only_just_fits_comes_after_what_fits(machine_of: Machines, family: list[ModelCard]) -> None:
    whole = found(machine_of(), family, goal="quality").choices[0]
    needed = whole.plan.devices[0].needed_bytes
    chosen = found(machine_of(memory=4 * needed, free=needed), family, goal="quality").chosen
    assert chosen is not None
    assert chosen.plan.verdict == "fits"
    assert chosen.penalty > whole.penalty or chosen.plan.context < whole.plan.context


def test_a_cache_type_that_the_heads_cannot_be_packed_into_is_a_reason_and_no_failure(
    machine_of: Machines, card_of: Cards
) -> None:
    odd = replace(card_of(), key_length=80, value_length=80, quantization="Q8_0")
    frontier = found(machine_of(), [odd], goal="quality")
    assert {each.kv_type for each in frontier.rejected} == {"q8_0", "q4_0"}
    assert frontier.chosen is not None


def test_without_a_predicted_speed_a_demanded_one_cannot_be_met(machine_of: Machines, family: list[ModelCard]) -> None:
    def unknown(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
        return replace(plan(machine, card, ask), speed=None)

    frontier = search(machine_of(), family, min_decode=3.0, planner=unknown)
    assert frontier.chosen is None
    assert "memory of unknown bandwidth" in frontier.rejected[0].reason
    assert search(machine_of(), family, planner=unknown).chosen is not None


@pytest.mark.parametrize(
    "demands",
    [{"min_decode": 0.0}, {"min_decode": -3.0}, {"min_decode": float("nan")}, {"min_context": 0}],
)
def test_absurd_demands_are_refused_in_one_line(
    machine_of: Machines, family: list[ModelCard], demands: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        search(machine_of(), family, **demands)


def test_goals_go_by_name() -> None:
    assert goal_named("speed") == "speed"
    with pytest.raises(UsageError, match="quality, context, speed"):
        goal_named("beauty")


def test_a_kv_type_that_is_fixed_is_the_only_one_tried(machine_of: Machines, family: list[ModelCard]) -> None:
    frontier = found(machine_of(), family, kv_types=["q5_1"])
    assert {choice.plan.kv_type for choice in frontier.choices} == {"q5_1"}
    assert kv_penalty("q8_0") < kv_penalty("q5_1") == kv_penalty("q4_0")


def test_nothing_to_choose_from_is_refused(machine_of: Machines) -> None:
    with pytest.raises(UsageError, match="no quantization"):
        search(machine_of(), [])


@given(st.floats(1, 32), st.floats(1, 32))
def test_more_bits_never_cost_quality(one: float, other: float) -> None:
    fewer, more = sorted((one, other))
    assert weights_penalty(more) <= weights_penalty(fewer)


def test_bits_per_weight_counts_the_scales(card_of: Cards) -> None:
    assert bits_per_weight(in_quantization(card_of(), "q4_k")) == pytest.approx(4.5, rel=1e-3)


@pytest.mark.parametrize("goal", ["quality", "context", "speed"])
def test_text_and_json_mark_the_same_choice(machine_of: Machines, family: list[ModelCard], goal: Goal) -> None:
    frontier = found(machine_of(), family, goal=goal)
    document = frontier_to_json(frontier)
    (marked,) = (choice for choice in document["choices"] if choice["chosen"])
    (line,) = (line for line in render_frontier(frontier).splitlines() if line.startswith(">"))
    assert marked["quantization"] in line
    assert f"{marked['context']:,}" in line
    assert document["planned"] == frontier.planned > 0
