"""What a mixture of experts holds and reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quietmind.model.card import ModelCard, Tensor
from quietmind.plan.moe import bytes_read, experts_of, experts_to_json, is_expert, render_experts

Cards = Callable[..., ModelCard]


def f16(name: str, *shape: int) -> Tensor:
    elements = 1
    for extent in shape:
        elements *= extent
    return Tensor(name, shape, "f16", 2 * elements)


def mixture(card_of: Cards, experts: int = 8, used: int = 2, output: bool = True) -> ModelCard:
    """Two layers with experts after one without: 96 elements an expert and layer, and a few of everything else."""
    tensors = [f16("token_embd.weight", 8, 100), f16("blk.0.ffn_up.weight", 8, 16)]
    for layer in (1, 2):
        tensors += [f16(f"blk.{layer}.ffn_{part}_exps.weight", 8, 4, experts) for part in ("gate", "up", "down")]
    if output:
        tensors.append(f16("output.weight", 8, 100))
    return card_of(layers=3, experts=experts, experts_used=used, tensors=tuple(tensors))


def test_what_is_held_is_the_same_at_any_number_and_what_is_read_grows_by_one_expert_each(card_of: Cards) -> None:
    card = mixture(card_of)
    one_expert = 2 * 2 * 3 * 8 * 4  # layers x bytes x projections x elements
    assert bytes_read(card, 2) - bytes_read(card, 1) == one_expert
    assert bytes_read(card, 8) - bytes_read(card, 4) == 4 * one_expert
    facts = experts_of(card)
    assert facts.weight_bytes == card.weight_bytes
    assert facts.expert_bytes == 8 * one_expert
    assert facts.expert_layers == 2
    assert [row.experts_used for row in facts.at_work] == [1, 2, 4, 8]
    assert facts.at_work[-1].parameters == card.parameters


def test_an_embedding_of_its_own_is_read_a_row_a_token_and_a_tied_one_whole(card_of: Cards) -> None:
    untied, tied = mixture(card_of), mixture(card_of, output=False)
    assert bytes_read(untied, 8) == untied.weight_bytes - 2 * 8 * 99
    assert bytes_read(tied, 8) == tied.weight_bytes


def test_the_trained_number_is_listed_even_between_the_usual_ones(card_of: Cards) -> None:
    assert [row.experts_used for row in experts_of(mixture(card_of, used=6)).at_work] == [1, 2, 4, 6, 8]


@pytest.mark.parametrize(("experts", "gpus", "each", "remainder"), [(8, 4, 2, 0), (60, 8, 7, 4), (3, 8, 0, 3)])
def test_experts_that_do_not_divide_leave_a_remainder_and_the_fullest_device_has_one_more(
    card_of: Cards, experts: int, gpus: int, each: int, remainder: int
) -> None:
    card = mixture(card_of, experts=experts)
    division = next(division for division in experts_of(card).divisions if division.gpus == gpus)
    assert (division.experts_each, division.remainder) == (each, remainder)
    per_expert = 2 * 2 * 3 * 8 * 4
    assert division.expert_bytes == (each + bool(remainder)) * per_expert
    rest = sum(tensor.bytes for tensor in card.tensors if not is_expert(tensor))
    assert division.bytes == rest + division.expert_bytes


def test_a_dense_model_is_one_line_that_says_so(card_of: Cards) -> None:
    facts = experts_of(card_of())
    assert facts.at_work == ()
    assert facts.divisions == ()
    text = render_experts(facts)
    assert "dense, no experts" in text
    assert "\n" not in text


def test_the_text_marks_the_trained_number_and_the_chart_is_as_long_as_what_is_held(card_of: Cards) -> None:
    text = render_experts(experts_of(mixture(card_of)))
    assert "       2*" in text
    bars = [line.split("|")[1] for line in text.splitlines() if line.count("|") == 2]
    assert len(bars) == 4
    assert {len(bar) for bar in bars} == {50}
    filled = [bar.count("#") for bar in bars]
    assert filled == sorted(filled)
    assert filled[0] >= 1


def test_json_has_the_numbers_of_the_text(card_of: Cards) -> None:
    document = experts_to_json(experts_of(mixture(card_of)))
    assert document["at_work"][1]["bytes_read_per_token"] == bytes_read(mixture(card_of), 2)
    assert document["divisions"][0]["gpus"] == 2
