"""One change at a time against a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Device, Link, Machine
from quietmind.model.card import ModelCard
from quietmind.plan import Ask, Plan, plan
from quietmind.plan.compare import (
    Comparison,
    compare,
    comparison_to_json,
    render_comparison,
    render_side_by_side,
    side_by_side,
)
from quietmind.plan.interval import Interval
from quietmind.plan.speed import Speed
from quietmind.plan.table import device_columns
from quietmind.plan.upgrades import with_gpu, with_memory, with_one_more_gpu

Cards = Callable[..., ModelCard]
Machines = Callable[..., Machine]

GIB = 1 << 30
GPU = Device("cuda", "Big GPU", 96 * GIB, 90 * GIB, 1.8e12, key="cuda0")


def change(comparison: Comparison, label: str) -> Plan:
    (found,) = (each for each in comparison.changes if each.label == label)
    assert found.plan is not None, found.refused
    return found.plan


def test_each_change_differs_in_one_thing_and_keeps_the_context_that_was_found(
    machine_of: Machines, card_of: Cards
) -> None:
    card = replace(card_of(), quantization="Q8_0")
    comparison = compare(machine_of(), card, Ask(), cards=[card, replace(card, quantization="F16")])
    base = comparison.base
    assert base.context == 32_768
    assert change(comparison, "half the context: 16,384").context == 16_384
    assert change(comparison, "double the context: 65,536").context == 65_536
    quantized = change(comparison, "KV q4_0")
    assert (quantized.context, quantized.kv_type) == (base.context, "q4_0")
    assert quantized.ledger.component("KV") * 16 == base.ledger.component("KV") * 4.5
    larger = change(comparison, "micro-batch 4,096")
    assert (larger.context, larger.micro_batch, larger.batch) == (base.context, 4096, 4096)
    labels = [each.label for each in comparison.changes]
    assert "micro-batch 512" not in labels
    assert "weights F16" in labels
    assert "weights Q8_0" not in labels, "no change is no change"
    assert "KV f16" not in labels
    assert len(set(labels)) == len(labels)


def test_a_mixture_is_also_tried_with_other_numbers_of_experts_and_a_dense_model_is_not(
    machine_of: Machines, card_of: Cards
) -> None:
    mixture = replace(card_of(), experts=32, experts_used=8, expert_feed_forward=64)
    labels = [each.label for each in compare(machine_of(), mixture).changes]
    assert "16 experts" in labels
    assert "8 experts" not in labels
    assert not any("experts" in each.label for each in compare(machine_of(), card_of()).changes)


def test_a_change_that_is_refused_says_why_in_its_line(machine_of: Machines, card_of: Cards) -> None:
    odd = replace(card_of(), key_length=80, value_length=80)
    comparison = compare(machine_of(), odd)
    (refused,) = (each for each in comparison.changes if each.label == "KV q8_0")
    assert refused.plan is None
    assert "KV q8_0: " in render_comparison(comparison)
    document = comparison_to_json(comparison)
    (line,) = (each for each in document["changes"] if each["change"] == "KV q8_0")
    assert line["plan"] is line["change_bytes"] is None
    assert "multiple" in line["refused"]


def test_differences_are_those_of_the_plans(machine_of: Machines, card_of: Cards) -> None:
    comparison = compare(machine_of(), card_of(), Ask(context=8192))
    document = comparison_to_json(comparison)
    (half,) = (each for each in document["changes"] if each["change"].startswith("half"))
    own = change(comparison, "half the context: 4,096").devices[0].needed_bytes
    assert half["change_bytes"] == {"cpu": own - comparison.base.devices[0].needed_bytes}
    assert "-68.0 MiB" in next(line for line in render_comparison(comparison).splitlines() if line.startswith("half"))


def test_speeds_are_shown_beside_their_ratio(machine_of: Machines, card_of: Cards) -> None:
    def planner(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
        planned = plan(machine, card, ask)
        rate = 1e6 / planned.context
        interval = Interval(rate, rate, rate)
        return replace(planned, speed=Speed(planned.context, interval, interval, "memory"))

    comparison = compare(machine_of(), card_of(), Ask(context=8192), planner=planner)
    lines = render_comparison(comparison).splitlines()
    assert "x2.00" in next(line for line in lines if line.startswith("half"))
    assert "x0.50" in next(line for line in lines if line.startswith("double"))


def test_more_memory_and_one_more_gpu_change_only_that(machine_of: Machines) -> None:
    machine = replace(machine_of(gpus=(GPU,)), links=(Link("cpu", "cuda0", 5e10),))
    more = with_memory(machine, 64 * GIB)
    assert more.cpu.memory_bytes == 64 * GIB
    assert more.cpu.free_bytes == 60 * GIB, "what is in use stays in use"
    assert more.accelerators == machine.accelerators
    two = with_one_more_gpu(machine)
    assert two is not None
    assert [device.key for device in two.accelerators] == ["cuda0", "cuda1"]
    link = two.link("cpu", "cuda1")
    assert link is not None
    assert link.bandwidth_bytes_per_s == 5e10
    three = with_one_more_gpu(two)
    assert three is not None
    assert [device.key for device in three.accelerators] == ["cuda0", "cuda1", "cuda2"]


def test_built_in_memory_and_gpus_are_not_upgraded(machine_of: Machines, card_of: Cards) -> None:
    built_in = Device("metal", "Apple", 12 * GIB, key="metal", unified=True)
    machine = machine_of(gpus=(built_in,))
    assert with_one_more_gpu(machine) is None
    assert with_one_more_gpu(machine_of()) is None
    assert not any("RAM" in each.label for each in compare(machine, card_of()).changes)


def test_another_gpu_takes_the_place_and_the_link_of_those_that_are_there(machine_of: Machines) -> None:
    machine = replace(
        machine_of(gpus=(GPU, replace(GPU, key="cuda1"))),
        links=(Link("cpu", "cuda0", 5e10), Link("cpu", "cuda1", 1e10)),
    )
    changed = with_gpu(machine, Device("cuda", "Other", GIB, key="cuda3"))
    (gpu,) = changed.accelerators
    assert (gpu.name, gpu.key) == ("Other", "cuda0")
    (link,) = changed.links
    assert link.bandwidth_bytes_per_s == 5e10


def test_devices_of_another_machine_stand_elsewhere_and_many_alike_are_one_column(
    machine_of: Machines, card_of: Cards
) -> None:
    other = replace(machine_of(gpus=(GPU,)), name="other")
    comparison = compare(machine_of(), card_of(), Ask(context=8192), machines=[other])
    line = render_comparison(comparison).splitlines()[-1]
    assert line.startswith("on other")
    assert "cuda0 +" in line
    many = machine_of(gpus=tuple(replace(GPU, key=f"cuda{number}", memory_bytes=1 << 26) for number in range(8)))
    base = compare(many, card_of(), Ask(context=8192)).base
    columns = device_columns([use.device for use in base.devices])
    assert sum(len(keys) for keys in columns.values()) == len(base.devices)
    assert len(columns) <= 4


def test_two_models_stand_side_by_side_and_are_planned_at_once(machine_of: Machines, card_of: Cards) -> None:
    cards = [card_of(), replace(card_of(), name="Other")]
    both = side_by_side(machine_of(), cards, Ask(context=4096))
    text = render_side_by_side(both)
    assert "Small" in text
    assert "Other" in text
    assert "at once: fits" in text
    assert both.together.ledger.total() == sum(each.ledger.total() for each in both.alone)
    needed = both.alone[0].devices[0].needed_bytes
    crowded = side_by_side(machine_of(memory=needed * 3 // 2, free=None), cards, Ask(context=4096))
    assert [each.verdict for each in crowded.alone] == ["fits", "fits"]
    assert "at once: does not fit" in render_side_by_side(crowded)
    with pytest.raises(UsageError):
        side_by_side(machine_of(), [])


def test_models_that_do_not_fit_together_are_given_no_speed(machine_of: Machines, card_of: Cards) -> None:
    cards = [card_of(), replace(card_of(), name="Other")]
    known = machine_of(memory=300 << 20, free=300 << 20)
    machine = replace(known, devices=(replace(known.cpu, bandwidth_bytes_per_s=8e10, flops=1e12),))
    both = side_by_side(machine, cards, Ask(context=4096))
    assert both.together.verdict == "does not fit"
    assert "while the others rest" not in render_side_by_side(both)
