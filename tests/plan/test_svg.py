"""The picture of a plan."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan import Ask, DeviceUse, Ledger, Plan, Row, plan
from quietmind.plan.interval import Interval
from quietmind.plan.speed import Speed
from quietmind.plan.svg import Curve, _ticks, decode_curves, draw

Cards = Callable[..., ModelCard]
Machines = Callable[..., Machine]

SVG = "{http://www.w3.org/2000/svg}"


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)


def slower_when_longer(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
    planned = plan(machine, card, ask)
    rate = 1e6 / planned.context / (ask.experts_used or 1)
    interval = Interval(rate / 2, rate, rate * 2)
    return replace(planned, speed=Speed(planned.context, interval, interval, "memory"))


def mixture(card_of: Cards) -> ModelCard:
    return replace(card_of(), experts=32, experts_used=8, expert_feed_forward=64)


def test_the_parts_of_a_bar_are_in_proportion_and_inside_their_device(machine_of: Machines, card_of: Cards) -> None:
    planned = plan(machine_of(), card_of(), Ask(context=32_768))
    root = parsed(draw(planned, ()))
    parts = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    (frame,) = (rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "empty")
    widths = sum(float(part.get("width", "0")) for part in parts)
    whole = planned.devices[0]
    assert whole.capacity_bytes is not None
    assert widths / float(frame.get("width", "0")) == pytest.approx(whole.needed_bytes / whole.capacity_bytes, rel=0.02)
    edge = float(frame.get("x", "0")) + float(frame.get("width", "0"))
    assert all(float(part.get("x", "0")) + float(part.get("width", "0")) <= edge + 0.1 for part in parts)


def test_what_does_not_fit_leaves_its_frame(machine_of: Machines, card_of: Cards) -> None:
    planned = plan(machine_of(memory=1 << 26, free=1 << 26), card_of(), Ask(context=32_768))
    assert [rect.get("class") for rect in parsed(draw(planned, ())).iter(f"{SVG}rect")].count("over") == 1


def test_components_have_colours_of_their_own_that_any_reader_of_svg_knows(
    machine_of: Machines, card_of: Cards
) -> None:
    planned = plan(machine_of(), card_of())
    rows = tuple(Row("cpu", f"component {number}", 10 + number, "") for number in range(13))
    legend = [
        rect.get("fill", "")
        for rect in parsed(draw(replace(planned, ledger=Ledger(rows)), ())).iter(f"{SVG}rect")
        if rect.get("rx")
    ]
    assert len(set(legend)) == len(legend) == 13
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in legend)


def test_the_title_says_which_quantization(machine_of: Machines, card_of: Cards) -> None:
    document = draw(plan(machine_of(), replace(card_of(), quantization="Q5_K_S")), ())
    assert "Small Q5_K_S on here" in document


@given(st.text())
def test_any_name_is_escaped_and_the_document_stays_well_formed(name: str) -> None:
    curve = Curve(name, ((4096, Interval(1, 2, 3)), (8192, Interval(1, 1, 1))))
    planned = Plan(
        model=name,
        arch="llama",
        machine=name,
        engine="llama.cpp",
        verdict="fits",
        context=4096,
        kv_type="f16",
        micro_batch=512,
        batch=2048,
        threads=None,
        devices=(DeviceUse("cpu", name, None, None, 10),),
        ledger=Ledger((Row("cpu", name, 10, ""),)),
        warnings=(),
    )
    root = parsed(draw(planned, (curve,)))
    assert root.tag == f"{SVG}svg"


def test_a_hostile_name_is_text_and_nothing_else(machine_of: Machines, card_of: Cards) -> None:
    hostile = replace(card_of(), name='</title><script>alert("x")</script>\x00')
    root = parsed(draw(plan(machine_of(), hostile), ()))
    assert not list(root.iter(f"{SVG}script"))


def test_both_settings_of_the_reader_are_served(machine_of: Machines, card_of: Cards) -> None:
    document = draw(plan(machine_of(), card_of()), ())
    assert "prefers-color-scheme: dark" in document
    assert not re.search(r"https?://(?!www\.w3\.org)", document), "the picture asks for nothing from elsewhere"


def test_a_mixture_has_a_curve_for_half_its_experts_all_and_double(machine_of: Machines, card_of: Cards) -> None:
    card, ask = mixture(card_of), Ask(context=10_000)
    planned = slower_when_longer(machine_of(), card, ask)
    curves = decode_curves(machine_of(), card, ask, planned, slower_when_longer)
    assert [curve.label for curve in curves] == ["4 experts", "8 experts", "16 experts"]
    assert [tokens for tokens, _ in curves[0].points] == [4096, 8192, planned.context, 16_384, 32_768]
    root = parsed(draw(planned, curves))
    assert len(list(root.iter(f"{SVG}polygon"))) == len(list(root.iter(f"{SVG}polyline"))) == 3
    said = [text.text for text in root.iter(f"{SVG}text")]
    assert {"4 experts", "16 experts", "as planned", "32k"} <= set(said)


def test_a_dense_model_has_one_curve_and_an_unknown_speed_none(machine_of: Machines, card_of: Cards) -> None:
    machine, card, ask = machine_of(), card_of(), Ask(context=4096)
    planned = slower_when_longer(machine, card, ask)
    (curve,) = decode_curves(machine, card, ask, planned, slower_when_longer)
    assert curve.label == ""

    def unknown(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
        return replace(plan(machine, card, ask), speed=None)

    assert decode_curves(machine, card, ask, planned, unknown) == ()


@given(st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_reach_the_highest_value(highest: float) -> None:
    ticks = _ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert 3 <= len(ticks) <= 7
