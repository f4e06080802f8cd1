"""Which models become a card, what is in it, and that contradictions between metadata and tensors are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import ModelFileDamaged, ModelNotUnderstood
from quietmind.model.architectures import ARCHITECTURES
from quietmind.model.card import LayerKind
from quietmind.model.ggml_types import BY_NAME, GGML_TYPES
from quietmind.model.gguf import read_card

Writer = Callable[..., bytes]
Model = Callable[..., tuple[dict[str, Any], list[tuple[str, tuple[int, ...], str]]]]


@pytest.fixture
def card_of(tmp_path: Path, write_gguf: Writer, small_model: Model) -> Callable[..., Any]:
    def build(**changes: Any) -> Any:
        path = tmp_path / "model.gguf"
        path.write_bytes(write_gguf(*small_model(**changes)))
        return read_card(path)

    return build


PLAIN = sorted(name for name, traits in ARCHITECTURES.items() if not traits.latent and not traits.recurrent)


@pytest.mark.parametrize("arch", PLAIN)
def test_every_plain_architecture_gives_a_card(card_of: Callable[..., Any], arch: str) -> None:
    card = card_of(arch=arch)
    assert (card.arch, card.layers, card.heads, card.kv_heads) == (arch, 2, 4, (2, 2))
    assert (card.key_length, card.native_context, card.vocabulary) == (16, 512, 32)


@pytest.mark.parametrize("arch", ["mamba2", "llama4", "bert", "мамонт", "evil\nname" + "x" * 500])
def test_other_architectures_are_refused_by_name(card_of: Callable[..., Any], arch: str) -> None:
    with pytest.raises(ModelNotUnderstood) as refusal:
        card_of(arch=arch)
    assert str(refusal.value).isprintable()
    assert arch[:4] in str(refusal.value)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "phi3"])
def test_the_head_size_defaults_where_the_family_uses_the_default(card_of: Callable[..., Any], arch: str) -> None:
    card = card_of(arch=arch, ARCH__attention__key_length=None, ARCH__attention__value_length=None)
    assert (card.key_length, card.value_length) == (16, 16)


@pytest.mark.parametrize("arch", ["qwen3", "qwen3moe", "gemma", "gemma2", "gemma3"])
def test_a_missing_head_size_is_damage_where_the_family_writes_it(card_of: Callable[..., Any], arch: str) -> None:
    with pytest.raises(ModelFileDamaged, match=r"attention\.key_length"):
        card_of(arch=arch, ARCH__attention__key_length=None)


def test_a_head_count_for_each_layer_is_read(
    tmp_path: Path, write_gguf: Writer, small_model: Model, card_of: Callable[..., Any]
) -> None:
    metadata, tensors = small_model(llama__attention__head_count_kv=[2, 4])
    wider = [
        (name, (64, 64) if name in ("blk.1.attn_k.weight", "blk.1.attn_v.weight") else shape, kind)
        for name, shape, kind in tensors
    ]
    path = tmp_path / "wide.gguf"
    path.write_bytes(write_gguf(metadata, wider))
    assert read_card(path).kv_heads == (2, 4)
    with pytest.raises(ModelFileDamaged, match="3 entries for 2 layers"):
        card_of(llama__attention__head_count_kv=[2, 2, 2])


@pytest.mark.parametrize(
    ("arch", "pattern", "kinds"),
    [
        ("gemma2", None, "sf"),
        ("gemma3", None, "ss"),
        ("gemma3", 2, "sf"),
        ("gemma3", 0, "ss"),
        ("gemma3", [False, True], "fs"),
        ("llama", None, "ff"),
        ("phi3", None, "ff"),
    ],
)
def test_sliding_windows_follow_the_architecture(
    card_of: Callable[..., Any], arch: str, pattern: Any, kinds: str
) -> None:
    card = card_of(arch=arch, ARCH__attention__sliding_window=256, ARCH__attention__sliding_window_pattern=pattern)
    assert "".join("s" if kind is LayerKind.SLIDING else "f" for kind in card.layer_kinds) == kinds
    assert card.sliding_window == (256 if "s" in kinds else None)


def test_gemma2_slides_over_4096_tokens_where_the_file_is_silent(card_of: Callable[..., Any]) -> None:
    assert card_of(arch="gemma2").sliding_window == 4096


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "more layers than tensors": ({"llama__block_count": 2**31 - 1}, "promises 2,147,483,647 layers"),
    "a layer without tensors": ({"llama__block_count": 3}, "layer 2 of 3 has no attention"),
    "no layers": ({"llama__block_count": 0}, "block_count is not a number"),
    "negative": ({"llama__block_count": -1}, "block_count is not a number"),
    "a text for a number": ({"llama__block_count": "two"}, "block_count is not a number"),
    "no architecture": ({"general__architecture": None}, "names no architecture"),
    "a number for a text": ({"general__name": 7}, "not a text"),
    "wrong width": ({"llama__embedding_length": 128}, "no token_embd.weight of width 128"),
    "wrong head size": ({"llama__attention__key_length": 32}, "blk.0.attn_q.weight has 64 rows"),
    "more KV heads than heads": ({"llama__attention__head_count_kv": 8}, "more KV heads"),
    "experts that are not there": ({"llama__expert_count": 8, "llama__expert_used_count": 2}, "promises 8 experts"),
    "no heads": ({"llama__attention__head_count": 0}, "head_count is not a number"),
    "no context": ({"llama__context_length": None}, "lacks the metadata llama.context_length"),
    "pattern too short": (
        {"arch": "gemma3", "ARCH__attention__sliding_window": 8, "ARCH__attention__sliding_window_pattern": [True]},
        "yes or no of each of 2 layers",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_damage(card_of: Callable[..., Any], name: str) -> None:
    changes, message = CONTRADICTIONS[name]
    with pytest.raises(ModelFileDamaged, match=message):
        card_of(**changes)


def test_a_mixture_of_experts_is_read(tmp_path: Path, write_gguf: Writer, small_model: Model) -> None:
    metadata, tensors = small_model(arch="qwen3moe", ARCH__expert_count=8, ARCH__expert_used_count=2)
    dense = [row for row in tensors if ".ffn_" not in row[0]]
    for layer in range(2):
        for part, shape in (("gate", (64, 32, 8)), ("up", (64, 32, 8)), ("down", (32, 64, 8))):
            dense.append((f"blk.{layer}.ffn_{part}_exps.weight", shape, "q8_0"))
    path = tmp_path / "moe.gguf"
    path.write_bytes(write_gguf(metadata, dense))
    card = read_card(path)
    assert (card.experts, card.experts_used, card.expert_feed_forward, card.shared_feed_forward) == (8, 2, 32, 0)


def test_an_unknown_recipe_is_named_after_most_of_the_bytes(card_of: Callable[..., Any]) -> None:
    assert card_of().quantization == "Q8_0"
    assert card_of(general__file_type=9999).quantization == "Q8_0"
    assert card_of(general__file_type=15).quantization == "Q4_K_M"


def test_the_types_of_ggml_have_the_published_bits_per_weight() -> None:
    """The sizes that llama.cpp's quantize prints, in bits per weight."""
    published = {"q4_0": 4.5, "q8_0": 8.5, "q4_k": 4.5, "q6_k": 6.5625, "iq4_xs": 4.25, "mxfp4": 4.25, "tq1_0": 1.6875}
    published |= {
        "q2_k": 2.625,
        "q3_k": 3.4375,
        "q5_k": 5.5,
        "iq1_s": 1.5625,
        "iq2_xxs": 2.0625,
        "nvfp4": 4.5,
        "bf16": 16,
    }
    assert {name: BY_NAME[name].bytes_per_element * 8 for name in published} == published
    assert len(BY_NAME) == len(GGML_TYPES)
