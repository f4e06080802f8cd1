"""Which machine, and which single upgrade, would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan import Ask, Plan, plan
from quietmind.plan.hardware import hardware, hardware_to_json, render_hardware
from quietmind.plan.interval import Interval
from quietmind.plan.speed import Speed

Cards = Callable[..., ModelCard]
Machines = Callable[..., Machine]

GIB = 1 << 30


def faster_with_more_memory(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
    planned = plan(machine, card, ask)
    rate = (machine.cpu.memory_bytes or 0) / GIB + 100.0 * len(machine.accelerators)
    interval = Interval(rate / 2, rate, rate * 2)
    return replace(planned, speed=Speed(planned.context, interval, interval, "memory"))


def test_what_does_comes_first_and_fastest_first_and_the_rest_says_what_it_lacks(
    machine_of: Machines, card_of: Cards
) -> None:
    machines = [
        replace(machine_of(memory=size, free=None), name=name)
        for name, size in (("small", GIB // 8), ("middle", 16 * GIB), ("large", 64 * GIB))
    ]
    answer = hardware(card_of(), Ask(context=4096), 10.0, None, machines, planner=faster_with_more_memory)
    assert [(each.name, each.enough) for each in answer.candidates] == [
        ("large", True),
        ("middle", True),
        ("small", False),
    ]
    assert "takes" in answer.candidates[-1].lacks
    slow = hardware(card_of(), Ask(context=4096), 32.0, None, machines, planner=faster_with_more_memory)
    assert next(each for each in slow.candidates if each.name == "middle").lacks.startswith("decodes 16")


def test_upgrades_of_this_machine_are_one_thing_each_and_the_least_memory_that_does(
    machine_of: Machines, card_of: Cards
) -> None:
    gpu = Device("cuda", "Own GPU", 8 * GIB, key="cuda0")
    other = Device("cuda", "Other GPU", 96 * GIB, key="cuda0")
    here = machine_of(memory=16 * GIB, gpus=(gpu,))
    answer = hardware(card_of(), Ask(context=4096), 220.0, here, [], [gpu, other], faster_with_more_memory)
    names = {each.name: each for each in answer.candidates}
    assert answer.candidates[0].kind == "here"
    assert not answer.candidates[0].enough
    assert names["one more Own GPU"].lacks.startswith("decodes 216")
    assert not names["64 GB of RAM, as fast as now"].enough
    assert names["128 GB of RAM, as fast as now"].enough
    assert "192 GB of RAM, as fast as now" not in names
    assert "Other GPU, in place of the GPUs now" in names
    assert not any(name.startswith("Own GPU,") for name in names)


def test_this_machine_under_another_name_is_not_listed_twice(machine_of: Machines, card_of: Cards) -> None:
    same = replace(machine_of(), name="the same in the catalogue")
    answer = hardware(card_of(), Ask(context=4096), None, machine_of(), [same])
    assert [each.kind for each in answer.candidates] == ["here"]


def test_a_machine_that_does_needs_no_more_memory(machine_of: Machines, card_of: Cards) -> None:
    answer = hardware(card_of(), Ask(context=4096), None, machine_of(), [])
    assert [(each.kind, each.enough) for each in answer.candidates] == [("here", True)]


def test_unified_memory_has_no_upgrades(machine_of: Machines, card_of: Cards) -> None:
    mac = machine_of(gpus=(Device("metal", "Apple", 12 * GIB, key="metal", unified=True),))
    answer = hardware(card_of(), Ask(context=4096), None, mac, [])
    assert [each.kind for each in answer.candidates] == ["here"]


def test_a_context_must_be_named_and_demands_must_make_sense(machine_of: Machines, card_of: Cards) -> None:
    with pytest.raises(UsageError, match="which context"):
        hardware(card_of(), Ask(), None, machine_of(), [])
    with pytest.raises(UsageError, match="makes no sense"):
        hardware(card_of(), Ask(context=4096), -1.0, machine_of(), [])


def test_text_and_json_agree(machine_of: Machines, card_of: Cards) -> None:
    answer = hardware(card_of(), Ask(context=4096), 1e5, machine_of(), [], planner=faster_with_more_memory)
    assert "none of these does" in render_hardware(answer)
    document = hardware_to_json(answer)
    assert [each["name"] for each in document["candidates"]] == [each.name for each in answer.candidates]
    assert document["candidates"][0]["decode"] == {"low": 8.0, "mid": 16.0, "high": 32.0}


def test_a_model_that_is_refused_is_refused_on_every_machine(machine_of: Machines, card_of: Cards) -> None:
    odd = replace(card_of(), key_length=80, value_length=80)
    answer = hardware(odd, Ask(context=4096, kv_type="q8_0"), None, machine_of(), [])
    assert not any(each.enough for each in answer.candidates)
    assert "multiple" in answer.candidates[0].lacks
    assert "multiple" in render_hardware(answer)


def test_a_machine_that_does_not_hold_the_model_has_no_speed(machine_of: Machines, card_of: Cards) -> None:
    small = replace(machine_of(memory=GIB // 8, free=None), name="small")
    answer = hardware(card_of(), Ask(context=4096), None, small, [], planner=faster_with_more_memory)
    assert answer.candidates[0].plan is not None
    assert answer.candidates[0].plan.speed is not None  # computed as if it did
    assert answer.candidates[0].speed is None
    assert hardware_to_json(answer)["candidates"][0]["decode"] is None


def test_what_to_do_about_an_unknown_bandwidth_is_said_once(machine_of: Machines, card_of: Cards) -> None:
    said = render_hardware(hardware(card_of(), Ask(context=4096), 1.0, machine_of(), []))
    assert "no speed can be predicted: memory of unknown bandwidth" in said
    assert said.count("`quietmind machine --measure`") == 1
