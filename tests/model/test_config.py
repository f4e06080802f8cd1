"""What a config.json says, what its family's code says where it is silent, and which silences are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import ModelError, ModelFileDamaged, ModelNotFound, ModelNotUnderstood
from quietmind.model.card import Latent, LayerKind
from quietmind.model.config import FAMILIES, LARGEST_CONFIG, parse_config, read_config, shape_of
from quietmind.model.derive import derive_card, derive_stored_card
from quietmind.model.shape import Shape, Stored

HERE = Path("some-model/config.json")

# Every key that any family needs; what a family does not know it does not read.
EVERYTHING: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "sliding_window": 16,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def shape(family: str, **changes: Any) -> Shape:
    config = EVERYTHING | {"architectures": [family]} | changes
    return shape_of({key: value for key, value in config.items() if value != "absent"}, "test", HERE)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_gives_a_card(family: str) -> None:
    made = shape(family)
    card = derive_card(made, "Q8_0")
    assert (made.arch, card.layers, card.heads) == (FAMILIES[family].arch, 4, 4)
    assert len(card.layer_kinds) == len(card.kv_heads) == 4
    assert bool(made.experts) is (FAMILIES[family].experts is not None)


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM"])
def test_the_head_length_follows_from_the_hidden_size_where_the_family_says_so(family: str) -> None:
    assert shape(family, head_dim="absent").key_length == 16
    assert shape(family, head_dim=None).key_length == 16
    assert shape(family, head_dim=32).key_length == 32


@pytest.mark.parametrize(
    "family",
    ["Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM", "GptOssForCausalLM", "Glm4MoeForCausalLM"],
)
def test_a_missing_head_length_is_named_where_the_family_chose_its_own(family: str) -> None:
    with pytest.raises(ModelFileDamaged, match=r"some-model/config\.json: lacks the key head_dim") as refusal:
        shape(family, head_dim="absent")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_missing_number_is_named(key: str) -> None:
    with pytest.raises(ModelFileDamaged, match=f"lacks the key {key}"):
        shape("LlamaForCausalLM", **{key: "absent"})


def test_missing_key_value_heads_mean_that_every_head_has_its_own() -> None:
    assert shape("LlamaForCausalLM", num_key_value_heads="absent").kv_heads == 4


def test_the_text_part_of_a_multimodal_model_is_what_counts() -> None:
    inner = {"hidden_size": 128, "num_hidden_layers": 12, "intermediate_size": 64}
    made = shape_of({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner}, "gemma", HERE)
    assert (made.hidden, made.heads, made.kv_heads, made.key_length, made.vocabulary) == (128, 8, 4, 256, 262_208)
    assert [layer for layer, kind in enumerate(made.layer_kinds) if kind is LayerKind.FULL] == [5, 11]


def test_layer_types_go_before_the_pattern() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert [kind.value for kind in shape("GptOssForCausalLM", layer_types=kinds).layer_kinds] == [
        kind.removesuffix("_attention") for kind in kinds
    ]
    for wrong in (kinds[:3], [*kinds[:3], "chunked_attention"]):
        with pytest.raises(ModelFileDamaged, match="layer_types"):
            shape("GptOssForCausalLM", layer_types=wrong)


def test_latent_attention_without_its_rank_is_refused() -> None:
    with pytest.raises(ModelFileDamaged, match="lacks the key kv_lora_rank"):
        shape("DeepseekV3ForCausalLM", kv_lora_rank="absent")


def test_latent_attention_has_its_own_lengths() -> None:
    made = shape("DeepseekV3ForCausalLM", q_lora_rank=24, topk_method="noaux_tc", n_shared_experts=2)
    assert made.latent == Latent(kv_rank=32, rope_length=8, query_rank=24)
    assert (made.key_length, made.value_length, made.shared_feed_forward, made.router_bias) == (24, 16, 64, True)
    assert (made.dense_layers, shape("DeepseekV2ForCausalLM").dense_layers) == (3, 0)
    assert derive_card(made, "Q8_0").kv_heads == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, Stored("gptq", 4, 128)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, Stored("gptq", 8, 0)),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, Stored("awq", 4, 64)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Stored("fp8", 8, block=(128, 128))),
        ({"quant_method": "fp8"}, Stored("fp8", 8)),
        ({"quant_method": "mxfp4"}, Stored("mxfp4", 4, 32)),
        (None, None),
    ],
)
def test_the_quantization_of_the_weights_is_recognised(said: Any, stored: Stored | None) -> None:
    made = shape("LlamaForCausalLM", quantization_config=said)
    assert made.stored == stored
    card = derive_stored_card(made)
    assert card.quantization is not None
    assert card.weight_bytes < derive_card(made, "F32").weight_bytes


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        ({}, ModelFileDamaged, "lacks the key architectures"),
        ({"architectures": None, "model_type": "frob"}, ModelFileDamaged, "one class beside its model_type 'frob'"),
        ({"architectures": ["BertModel"]}, ModelNotUnderstood, "BertModel is not understood yet"),
        ({"architectures": ["Evil\nName" + "x" * 500]}, ModelNotUnderstood, "not understood yet"),
        ({"architectures": ["a", "b"]}, ModelFileDamaged, "architectures"),
        ({"num_hidden_layers": 1 << 30}, ModelFileDamaged, "1,073,741,824 layers"),
        (
            {"num_hidden_layers": True},
            ModelFileDamaged,
            "num_hidden_layers is not a number that a model could have: True;",
        ),
        ({"hidden_size": "64"}, ModelFileDamaged, "hidden_size is not a number"),
        ({"hidden_size": -1}, ModelFileDamaged, "hidden_size is not a number"),
        ({"num_key_value_heads": 8}, ModelFileDamaged, "8 KV heads for 4 heads"),
        ({"tie_word_embeddings": "yes"}, ModelFileDamaged, "neither true nor false"),
        ({"quantization_config": {"quant_method": "exl9"}}, ModelNotUnderstood, "exl9"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0]}}, ModelFileDamaged, "two numbers"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ModelFileDamaged, "lacks the key group_size"),
        ({"decoder_sparse_step": 2}, ModelNotUnderstood, "decoder_sparse_step"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    config: dict[str, Any], kind: type[ModelError], message: str
) -> None:
    whole = {} if not config else EVERYTHING | {"architectures": ["LlamaForCausalLM"]} | config
    with pytest.raises(kind, match=message) as refusal:
        shape_of(whole, "test", HERE)
    assert str(refusal.value).isprintable()


def test_a_mixture_without_experts_is_refused() -> None:
    with pytest.raises(ModelFileDamaged, match="lacks the key num_experts"):
        shape("Qwen3MoeForCausalLM", num_experts="absent")


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (LARGEST_CONFIG + 1)])
def test_what_is_no_configuration_is_damage(raw: bytes) -> None:
    with pytest.raises(ModelFileDamaged):
        parse_config(raw, HERE)


def test_a_file_is_named_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        read_config(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(EVERYTHING | {"architectures": ["LlamaForCausalLM"]}))
    assert read_config(folder / "config.json").name == "My-Model"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
INNER = ["type", "factor", "original_max_position_embeddings", "quant_method", "bits", "group_size"]
VALUES = SCALARS | st.lists(st.integers(), max_size=3) | st.dictionaries(st.sampled_from(INNER), SCALARS)
KEYS = [*EVERYTHING, "rope_scaling", "layer_types", "quantization_config", "first_k_dense_replace", "rope_theta"]


@settings(deadline=None)  # a busy machine is no failure
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_no_configuration_crashes_the_reader(family: str, changes: dict[str, Any]) -> None:
    try:
        made = shape(family, **changes)
    except ModelError:
        return
    assert made.layers > 0
