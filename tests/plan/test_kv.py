"""The KV cache: exact for published models, and as the engine rounds and refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.model.card import Latent, LayerKind, ModelCard, Recurrent
from quietmind.plan.kv import KV_TYPES, bytes_per_token, kv_formula, kv_groups, kv_type, padded, window_cells

MakeCard = Callable[..., ModelCard]
MIB = 1 << 20


@pytest.mark.parametrize(
    ("layers", "kv_heads", "per_token"),
    [(48, 4, 98_304), (94, 4, 192_512), (62, 8, 253_952), (64, 8, 262_144)],
    ids=["30B-A3B", "235B-A22B", "480B-A35B", "32B"],
)
def test_the_qwen3_models_take_the_published_bytes_per_token(
    card_of: MakeCard, layers: int, kv_heads: int, per_token: int
) -> None:
    card = card_of(layers=layers, kv_heads=(kv_heads,) * layers)
    assert bytes_per_token(card, kv_type("bf16")) == per_token
    (group,) = kv_groups(card, 131_072, 512, kv_type("bf16"))
    assert group.bytes == 131_072 * per_token


@pytest.mark.parametrize(("name", "layers", "mib"), [("f16", 94, 24_064), ("q8_0", 94, 12_784), ("q8_0", 48, 6_528)])
def test_what_the_engine_printed_for_131072_tokens(card_of: MakeCard, name: str, layers: int, mib: int) -> None:
    card = card_of(layers=layers, kv_heads=(4,) * layers)
    assert sum(group.bytes for group in kv_groups(card, 131_072, 512, kv_type(name))) == mib * MIB


def test_quantized_rows_are_whole_blocks(card_of: MakeCard) -> None:
    rows = {name: kv_groups(card_of(), 256, 256, kv_type(name))[0].key_row for name in KV_TYPES}
    assert rows == {
        "f32": 4096,
        "f16": 2048,
        "bf16": 2048,
        "q8_0": 1088,
        "q5_1": 768,
        "q5_0": 704,
        "q4_1": 640,
        "q4_0": 576,
        "iq4_nl": 576,
    }


@pytest.mark.parametrize(("tokens", "cells"), [(1, 256), (256, 256), (257, 512), (4096, 4096), (4097, 4352)])
def test_contexts_are_padded_like_the_engine_pads(tokens: int, cells: int) -> None:
    assert padded(tokens) == cells


@pytest.mark.parametrize(("context", "cells"), [(512, 512), (1536, 1536), (4096, 1536), (131_072, 1536)])
def test_a_window_keeps_itself_and_a_micro_batch(context: int, cells: int) -> None:
    assert window_cells(1024, context, 512) == cells
    assert window_cells(1024, context, 513) == min(context, 1792)


def test_sliding_layers_stop_growing(card_of: MakeCard) -> None:
    kinds = (LayerKind.SLIDING, LayerKind.SLIDING, LayerKind.FULL, LayerKind.SLIDING)
    card = card_of(layer_kinds=kinds, sliding_window=1024)
    full, sliding = kv_groups(card, 8192, 512, kv_type("f16"))
    assert (full.layers, full.cells, sliding.layers, sliding.cells) == (1, 8192, 3, 1536)
    assert bytes_per_token(card, kv_type("f16")) == 4096


def test_layers_with_other_head_counts_are_their_own_group(card_of: MakeCard) -> None:
    groups = kv_groups(card_of(kv_heads=(8, 4, 8, 0)), 256, 256, kv_type("f16"))
    assert [(group.layers, group.kv_heads) for group in groups] == [(1, 4), (2, 8)]


def test_heads_that_are_no_whole_blocks_are_refused_as_the_engine_does(card_of: MakeCard) -> None:
    card = card_of(key_length=80, value_length=80)
    assert kv_groups(card, 256, 256, kv_type("f16"))
    with pytest.raises(UsageError, match="heads of 80"):
        kv_groups(card, 256, 256, kv_type("q8_0"))


@pytest.mark.parametrize("name", ["q4_k", "f64", "", "Q8_0", "fp16"])
def test_other_types_are_refused_with_the_choice(name: str) -> None:
    with pytest.raises(UsageError, match="q8_0"):
        kv_type(name)


@pytest.mark.parametrize("kind", [LayerKind.LATENT, LayerKind.LINEAR])
def test_caches_without_arithmetic_are_not_guessed(card_of: MakeCard, kind: LayerKind) -> None:
    card = card_of(layer_kinds=(kind, *[LayerKind.FULL] * 3))
    with pytest.raises(ModelNotUnderstood, match=kind):
        kv_groups(card, 256, 256, kv_type("f16"))


def test_the_formula_reads_like_arithmetic_and_is_right(card_of: MakeCard) -> None:
    card = card_of(layers=30, kv_heads=(3,) * 30, key_length=64, value_length=64)
    (group,) = kv_groups(card, 4096, 512, kv_type("q8_0"))
    formula = kv_formula(card, group, kv_type("q8_0"))
    assert formula == "30 layers x 2 x 3 heads x 64 x 4,096 tokens x 1.0625 B (q8_0)"
    assert group.bytes == 30 * 2 * 3 * 64 * 4096 * 1.0625


def test_latent_layers_keep_one_row_for_all_heads(card_of: MakeCard) -> None:
    card = card_of(layers=61, layer_kinds=(LayerKind.LATENT,) * 61, latent=Latent(512, 64), key_length=192)
    (group,) = kv_groups(card, 4096, 512, kv_type("f16"))
    assert group.bytes == 287_834_112  # DeepSeek-V3 by the engine's account
    assert bytes_per_token(card, kv_type("f16")) == 61 * 576 * 2
    assert kv_formula(card, group, kv_type("f16")) == "61 layers x (512 latent + 64 RoPE) x 4,096 tokens x 2 B (f16)"


def test_linear_layers_keep_a_state_whatever_the_context_and_type(card_of: MakeCard) -> None:
    kinds = tuple(LayerKind.LINEAR if (layer + 1) % 4 else LayerKind.FULL for layer in range(48))
    card = card_of(
        layers=48,
        layer_kinds=kinds,
        kv_heads=tuple(0 if kind is LayerKind.LINEAR else 2 for kind in kinds),
        key_length=256,
        value_length=256,
        recurrent=Recurrent(128 * 4096, 3 * 8192),
    )
    full, linear = kv_groups(card, 4096, 512, kv_type("f16"))
    assert full.bytes + linear.bytes == 179_699_712  # Qwen3-Next-80B-A3B by the engine's account
    assert linear.bytes == kv_groups(card, 262_144, 64, kv_type("q4_0"))[1].bytes == 36 * (524_288 + 24_576) * 4
    assert bytes_per_token(card, kv_type("f16")) == 12 * 2 * 512 * 2
    assert kv_formula(card, linear, kv_type("f16")).startswith("36 layers x (524,288 state + 24,576 convolution) x 4 B")
