"""How long an engine may be silent: by the speeds of its plan, and without a limit where these are not known."""

from __future__ import annotations

from dataclasses import replace

from quietmind.machine.load import load_machine
from quietmind.model.open import open_card
from quietmind.plan.ask import Ask
from quietmind.plan.plan import Plan, plan
from quietmind.serve.patience import Patience


def planned(context: int) -> Plan:
    return plan(load_machine("rtx-pro-6000-128"), open_card("qwen3-235b-a22b-2507", "Q4_K_M"), Ask(context=context))


def test_a_long_context_may_take_longer_than_a_short_one() -> None:
    short, long = (Patience.of(planned(context)) for context in (4096, 131072))
    assert short.first is not None
    assert long.first is not None
    assert long.first > short.first
    assert long.whole is not None
    assert long.whole > long.first


def test_a_prompt_that_is_read_as_slowly_as_planned_is_no_hang() -> None:
    a_plan = planned(131072)
    assert a_plan.speed is not None
    assert a_plan.speed.prefill is not None
    first = Patience.of(a_plan).first
    assert first is not None
    assert first > 131072 / a_plan.speed.prefill.low


def test_where_no_speed_is_known_a_prompt_may_take_as_long_as_it_takes() -> None:
    patience = Patience.of(replace(planned(4096), speed=None))
    assert (patience.first, patience.whole) == (None, None)
    assert patience.between is not None
