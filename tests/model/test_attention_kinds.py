"""Layers that keep something else than K and V: a latent row, a recurrent state, a window; and blocks left unloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import ModelFileDamaged
from quietmind.model.card import Latent, LayerKind, ModelCard, Recurrent
from quietmind.model.gguf import read_card

Rows = list[tuple[str, tuple[int, ...], str]]

COMMON: dict[str, Any] = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
}
ENDS: Rows = [("token_embd.weight", (64, 32), "q8_0"), ("output_norm.weight", (64,), "f32")]

LATENT = COMMON | {
    "attention.head_count_kv": 1,
    "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 48,
    "attention.key_length": 40,
    "attention.value_length": 32,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 8,
}
HYBRID = COMMON | {
    "block_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 32,
}


@pytest.fixture
def card_of(tmp_path: Path, write_gguf: Callable[..., bytes]) -> Callable[..., ModelCard]:
    def build(arch: str, facts: dict[str, Any], rows: Rows) -> ModelCard:
        path = tmp_path / "model.gguf"
        metadata = {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in facts.items()}
        path.write_bytes(write_gguf(metadata, ENDS + rows))
        return read_card(path)

    return build


def latent_rows(layers: int = 2) -> Rows:
    rows: Rows = []
    for layer in range(layers):
        rows += [
            (f"blk.{layer}.attn_q_a.weight", (64, 48), "f16"),
            (f"blk.{layer}.attn_q_b.weight", (48, 4 * 24), "f16"),
            (f"blk.{layer}.attn_kv_a_mqa.weight", (64, 40), "f16"),
            (f"blk.{layer}.attn_k_b.weight", (16, 32, 4), "f16"),
            (f"blk.{layer}.attn_v_b.weight", (32, 16, 4), "f16"),
        ]
    return rows


def hybrid_rows(layers: int = 4, full: tuple[int, ...] = (3,)) -> Rows:
    rows: Rows = []
    for layer in range(layers):
        if layer in full:
            rows += [
                (f"blk.{layer}.attn_q.weight", (64, 2 * 64), "f16"),  # with the gate
                (f"blk.{layer}.attn_k.weight", (64, 32), "f16"),
                (f"blk.{layer}.attn_v.weight", (64, 32), "f16"),
            ]
        else:
            rows += [
                (f"blk.{layer}.attn_qkv.weight", (64, 2 * 16 + 32), "f16"),
                (f"blk.{layer}.attn_gate.weight", (64, 32), "f16"),
            ]
    return rows


def test_an_absorbed_conversion_keeps_one_row_for_all_heads(card_of: Callable[..., ModelCard]) -> None:
    card = card_of("deepseek2", LATENT, latent_rows())
    assert card.layer_kinds == (LayerKind.LATENT,) * 2
    assert card.latent == Latent(kv_rank=32, rope_length=8, query_rank=48)
    assert (card.key_length, card.value_length, card.heads) == (24, 16, 4)


def test_queries_are_not_compressed_where_no_tensor_compresses_them(card_of: Callable[..., ModelCard]) -> None:
    rows = [row for row in latent_rows() if ".attn_q_" not in row[0]]
    rows += [(f"blk.{layer}.attn_q.weight", (64, 4 * 24), "f16") for layer in range(2)]
    assert card_of("deepseek2", LATENT, rows).latent == Latent(32, 8, 0)


def test_an_old_conversion_keeps_every_head(card_of: Callable[..., ModelCard]) -> None:
    facts = {key: value for key, value in LATENT.items() if not key.endswith("_mla")}
    facts |= {"attention.head_count_kv": 4, "attention.key_length": 24, "attention.value_length": 16}
    rows: Rows = [row for row in latent_rows() if "_k_b" not in row[0] and "_v_b" not in row[0]]
    rows += [(f"blk.{layer}.attn_kv_b.weight", (32, 4 * (16 + 16)), "f16") for layer in range(2)]
    card = card_of("deepseek2", facts, rows)
    assert card.layer_kinds == (LayerKind.FULL,) * 2
    assert (card.latent, card.kv_heads, card.key_length, card.value_length) == (None, (4, 4), 24, 16)


def test_a_latent_row_of_another_width_is_damage(card_of: Callable[..., ModelCard]) -> None:
    with pytest.raises(ModelFileDamaged, match=r"attn_kv_a_mqa\.weight has 40 rows where the metadata asks for 72"):
        card_of("deepseek2", LATENT | {"attention.kv_lora_rank": 64}, latent_rows())


@pytest.mark.parametrize("arch", ["qwen3next", "qwen35", "qwen35moe"])
def test_every_fourth_layer_of_a_hybrid_attends_in_full(card_of: Callable[..., ModelCard], arch: str) -> None:
    card = card_of(arch, HYBRID, hybrid_rows())
    assert [kind.value for kind in card.layer_kinds] == ["linear", "linear", "linear", "full"]
    assert card.kv_heads == (0, 0, 0, 2)
    assert card.recurrent == Recurrent(state_elements=8 * 32, convolution_elements=3 * (32 + 2 * 2 * 8))


def test_a_hybrid_may_say_which_layers_are_recurrent(card_of: Callable[..., ModelCard]) -> None:
    facts = HYBRID | {"attention.recurrent_layers": [False, True, True, True]}
    assert card_of("qwen35", facts, hybrid_rows(full=(0,))).kv_heads == (2, 0, 0, 0)
    facts = HYBRID | {"full_attention_interval": 2}
    assert card_of("qwen35", facts, hybrid_rows(full=(1, 3))).kv_heads == (0, 2, 0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ssm.inner_size": 64}, r"blk\.0\.attn_qkv\.weight has 64 rows where the metadata asks for 96"),
        ({"ssm.state_size": None}, r"lacks the metadata qwen35\.ssm\.state_size"),
        ({"attention.recurrent_layers": [True]}, "yes or no of each of 4 layers"),
        ({"full_attention_interval": 1}, "blk.0.|layer 0 of 4"),
        ({"nextn_predict_layers": 4}, "all of them for predicting"),
    ],
)
def test_a_hybrid_that_contradicts_itself_is_damage(
    card_of: Callable[..., ModelCard], change: dict[str, Any], message: str
) -> None:
    facts = {key: value for key, value in (HYBRID | change).items() if value is not None}
    with pytest.raises(ModelFileDamaged, match=message):
        card_of("qwen35", facts, hybrid_rows())


def test_blocks_that_predict_further_tokens_are_not_loaded(card_of: Callable[..., ModelCard]) -> None:
    facts = COMMON | {"block_count": 3, "nextn_predict_layers": 1, "attention.head_count_kv": 2}
    facts |= {"attention.key_length": 16, "attention.value_length": 16}
    rows: Rows = []
    for layer in range(3):
        rows += [(f"blk.{layer}.attn_q.weight", (64, 64), "f16"), (f"blk.{layer}.attn_k.weight", (64, 32), "f16")]
    rows += [("blk.2.nextn.eh_proj.weight", (128, 64), "f16")]
    card = card_of("glm4moe", facts, rows)
    assert (card.layers, len(card.layer_kinds), len(card.kv_heads)) == (2, 2, 2)
    assert not any(tensor.name.startswith("blk.2.") for tensor in card.tensors)
    assert card.file_bytes > card.weight_bytes + 128 * 64 * 2


def test_every_second_layer_of_gpt_oss_slides(card_of: Callable[..., ModelCard]) -> None:
    facts = COMMON | {"attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16}
    rows: Rows = []
    for layer in range(2):
        rows += [(f"blk.{layer}.attn_q.weight", (64, 64), "f16"), (f"blk.{layer}.attn_sinks.weight", (4,), "f32")]
    card = card_of("gpt-oss", facts | {"attention.sliding_window": 128}, rows)
    assert (card.sliding_window, card.layer_kinds) == (128, (LayerKind.SLIDING, LayerKind.FULL))
