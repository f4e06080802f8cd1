"""Weights by part and layer: no byte is lost, none is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quietmind.model.card import ModelCard, Tensor
from quietmind.plan.weights import counted, part_of, weights_of

MakeCard = Callable[..., ModelCard]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("token_embd.weight", "embeddings"),
        ("output.weight", "output"),
        ("output_norm.weight", "norms"),
        ("blk.0.attn_q_norm.weight", "norms"),
        ("blk.0.attn_q.bias", "attention"),
        ("blk.0.attn_kv_a_mqa.weight", "attention"),
        ("blk.0.ssm_conv1d.weight", "attention"),
        ("blk.0.ffn_up_exps.weight", "experts"),
        ("blk.0.ffn_down_exps.bias", "experts"),
        ("blk.0.ffn_up_chexps.weight", "experts"),
        ("blk.0.ffn_gate_inp.weight", "shared"),
        ("blk.0.ffn_up_shexp.weight", "shared"),
        ("blk.0.exp_probs_b.bias", "shared"),
        ("blk.0.ffn_down.weight", "shared"),
        ("rope_freqs.weight", "other"),
    ],
)
def test_a_tensor_belongs_to_the_part_that_its_name_says(name: str, part: str) -> None:
    assert part_of(name) == part


def test_parts_and_layers_add_up_to_the_tensor_table(card_of: MakeCard) -> None:
    card = card_of(tensors=(*card_of().tensors, Tensor("rope_freqs.weight", (64,), "f32", 256)))
    weights = weights_of(card)
    assert weights.total == card.weight_bytes
    outside = weights.embedding + weights.output + weights.common
    assert sum(weights.dense) + sum(weights.experts) + outside == card.weight_bytes
    assert weights.common == 256
    assert weights.tied
    assert weights.expert_layers == ()


def test_every_tensor_begins_where_the_engine_lets_it_begin(card_of: MakeCard) -> None:
    odd = Tensor("output.weight", (32, 3), "q8_0", 102)
    card = card_of(tensors=(*card_of().tensors, odd))
    assert weights_of(card, 32).total - weights_of(card_of(), 32).total == 128


def test_a_draft_head_past_the_last_layer_counts_to_the_last(card_of: MakeCard) -> None:
    plain = card_of()
    head = Tensor("blk.4.ffn_up.weight", (32, 1), "q8_0", 34)
    found = weights_of(replace(plain, tensors=(*plain.tensors, head)))
    assert found.dense[-1] == weights_of(plain).dense[-1] + 34


def test_the_largest_tensor_of_a_group_is_known(card_of: MakeCard) -> None:
    groups = {(group.part, group.layer): group for group in weights_of(card_of()).groups}
    group = groups["shared", 0]
    assert group.bytes == 2 * group.largest
    assert counted([group]) == "2 tensors: q8_0"
    assert counted([group, groups["norms", None]]) == "3 tensors: 2 of q8_0, 1 of f32"
