"""How far a context may be stretched past the native one, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard, Rope
from quietmind.model.catalogue import entries
from quietmind.model.open import open_card
from quietmind.plan.hardware import hardware
from quietmind.plan.plan import Ask, plan
from quietmind.plan.search import search
from quietmind.plan.yarn import LARGEST_FACTOR, Yarn, documented_context, yarn_for

MakeCard = Callable[..., ModelCard]
MakeMachine = Callable[..., Machine]


def warning(card: ModelCard, machine: Machine, context: int) -> str:
    return next(said for said in plan(machine, card, Ask(context)).warnings if "YaRN" in said)


def test_a_factor_that_makers_document_is_not_called_unknown(card_of: MakeCard, machine_of: MakeMachine) -> None:
    assert "nothing is known" not in warning(card_of(), machine_of(), 131_072)


def test_past_what_anybody_documents_the_warning_says_so(card_of: MakeCard, machine_of: MakeMachine) -> None:
    said = warning(card_of(native_context=4096), machine_of(), 1 << 20)
    assert "a factor of 256.00" in said
    assert "nothing is known to work past a factor of 4.00" in said


def test_large_factors_have_separators(card_of: MakeCard, machine_of: MakeMachine) -> None:
    with pytest.raises(UsageError, match="is 524,288 times the 4,096"):
        yarn_for(card_of(native_context=4096), 1 << 31)


def test_what_a_model_was_trained_with_counts_as_known(card_of: MakeCard, machine_of: MakeMachine) -> None:
    trained = card_of(native_context=163_840, rope=Rope(1e4, 64, "yarn", 40.0, 4096))
    assert yarn_for(trained, 327_680) == Yarn(80.0, 4096, known=40.0)
    assert "past the 40.00 that it was trained with" in warning(trained, machine_of(), 327_680)


def test_a_stretch_on_top_of_another_scaling_counts_from_the_native_context(
    card_of: MakeCard, machine_of: MakeMachine
) -> None:
    llama = card_of(native_context=131_072, rope=Rope(5e5, 128, "llama3", 8.0, 8192))
    assert yarn_for(llama, 262_144) == Yarn(2.0, 131_072, known=1.0)
    assert "on top of the llama3 scaling" in warning(llama, machine_of(), 262_144)
    gemma = card_of(native_context=131_072, rope=Rope(1e6, 128, "linear", 8.0))
    assert "takes the place of the linear scaling" in warning(gemma, machine_of(), 262_144)


def test_past_every_publication_is_refused(card_of: MakeCard, machine_of: MakeMachine) -> None:
    card, most = card_of(native_context=4096), LARGEST_FACTOR * 4096
    assert plan(machine_of(), card, Ask(most)).context == most
    for refused in (
        lambda: plan(machine_of(), card, Ask(most + 256)),
        lambda: search(machine_of(), [card], "quality", None, most + 256),
        lambda: hardware(card, Ask(most + 256), None, machine_of(), [machine_of()]),
    ):
        with pytest.raises(UsageError, match=f"give at most {most:,}"):
            refused()


def test_native_is_what_the_file_says_and_what_makers_document_is_said_where_it_is_passed(
    card_of: MakeCard, machine_of: MakeMachine
) -> None:
    card = card_of(native_context=163_840, documented_context=131_072)
    assert not plan(machine_of(), card, Ask(131_072)).warnings
    (said,) = plan(machine_of(), card, Ask(163_840)).warnings
    assert "within the native 163,840 of the model's file, but past the 131,072 that its makers document" in said


def test_the_catalogue_and_the_plan_call_the_same_number_native() -> None:
    for entry in entries():
        card = open_card(entry.name, entry.quantizations[0])
        assert card.native_context == entry.shape.native_context
        assert documented_context(card) == (entry.documented_context or card.native_context)


def test_numbers_that_are_not_of_the_models_own_file_are_called_so(machine_of: MakeMachine) -> None:
    said = plan(machine_of(), open_card("qwen3.5-35b-a3b", "Q4_K_M"), Ask(4096)).warnings
    assert any("class defaults of transformers" in warning for warning in said)
