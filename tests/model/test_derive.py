"""A derived table is the table of the real file: names, extents, types and bytes, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import UsageError
from quietmind.model.card import LayerKind
from quietmind.model.config import shape_of
from quietmind.model.derive import QUANTIZATIONS, derive_card, requantize_card
from quietmind.model.gguf import read_card
from quietmind.model.hf_quant import awq_bytes, fp8_block_bytes, gptq_bytes
from quietmind.model.locate import locate
from quietmind.model.recipes import RECIPES, tensor_types
from quietmind.model.shape import Shape

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
# The conversion of the AWQ checkpoint, whose output is not tied.
QWEN_CODER = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "vocab_size": 151936,
}
MIXTRAL = SMOLLM2 | {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
LLAMA_70B = SMOLLM2 | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}


def shape(config: dict[str, Any]) -> Shape:
    return shape_of(config, "test", Path("config.json"))


def types(config: dict[str, Any], quantization: str) -> dict[str, str]:
    return {tensor.name: tensor.type for tensor in derive_card(shape(config), quantization).tensors}


def coder() -> Path:
    name = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M"
    try:
        return locate(name)
    except Exception as missing:
        pytest.skip(f"the larger real model is not here: {missing}")


def test_the_small_real_file_is_derived_tensor_by_tensor(real_model: Path) -> None:
    derived, real = derive_card(shape(SMOLLM2), "Q4_1"), read_card(real_model)
    assert {tensor.name: tensor for tensor in derived.tensors} == {tensor.name: tensor for tensor in real.tensors}
    assert (derived.exact, real.exact) == (False, True)
    same = ("arch", "layers", "hidden", "kv_heads", "key_length", "vocabulary", "native_context", "rope")
    assert all(getattr(derived, field) == getattr(real, field) for field in same)


def test_the_mixed_recipe_of_a_real_file_is_derived_tensor_by_tensor() -> None:
    real = read_card(coder())
    derived = derive_card(shape(QWEN_CODER), "Q4_K_M")
    assert {tensor.name: tensor.shape for tensor in derived.tensors} == {t.name: t.shape for t in real.tensors}
    assert derived.weight_bytes == real.weight_bytes
    # The file is of 2024: its tensors stand, and were counted, in the order of the checkpoint.
    in_its_order = tensor_types(shape(QWEN_CODER), [(t.name, t.shape) for t in real.tensors], "Q4_K_M")
    assert in_its_order == [tensor.type for tensor in real.tensors]


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_K_M", "Q2_K", "IQ3_XS", "MXFP4_MOE", "AWQ-INT4"])
def test_requantizing_gives_what_the_configuration_gives(quantization: str) -> None:
    for config in (SMOLLM2, MIXTRAL, LLAMA_70B):
        again = requantize_card(derive_card(shape(config), "Q5_0"), quantization)
        derived = derive_card(shape(config), quantization)
        assert (again.tensors, again.quantization) == (derived.tensors, derived.quantization)
        assert again.file_bytes == derived.file_bytes


def test_the_first_and_last_eighth_and_every_third_between_get_more_bits() -> None:
    chosen = types(SMOLLM2 | {"hidden_size": 4096, "head_dim": 64, "num_hidden_layers": 32}, "Q4_K_M")
    more = [layer for layer in range(32) if chosen[f"blk.{layer}.attn_v.weight"] == "q6_k"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert more == [layer for layer in range(32) if chosen[f"blk.{layer}.ffn_down.weight"] == "q6_k"]


def test_a_mixture_of_eight_keeps_keys_and_values_in_eight_bits() -> None:
    chosen = types(MIXTRAL, "Q4_K_M")
    assert {chosen[f"blk.{layer}.attn_{part}.weight"] for layer in range(32) for part in "kv"} == {"q8_0"}
    assert {chosen[f"blk.{layer}.attn_output.weight"] for layer in range(32)} == {"q5_k"}
    assert chosen["blk.0.ffn_gate_inp.weight"] == "f32"
    assert (chosen["blk.0.ffn_down_exps.weight"], chosen["blk.5.ffn_down_exps.weight"]) == ("q6_k", "q4_k")
    assert chosen["output.weight"] == "q6_k"


def test_eighty_layers_of_llama_get_more_bits_for_the_values_they_share() -> None:
    assert {types(LLAMA_70B, "Q3_K_S")[f"blk.{layer}.attn_v.weight"] for layer in range(80)} == {"q5_k"}
    assert types(LLAMA_70B | {"num_hidden_layers": 79}, "Q3_K_S")["blk.0.attn_v.weight"] == "q3_k"


@pytest.mark.parametrize(
    ("quantization", "row", "kind"),
    [
        ("Q4_K_S", 288, "q5_0"),
        ("Q6_K", 288, "q8_0"),
        ("Q2_K", 288, "q4_0"),
        ("IQ4_XS", 288, "iq4_nl"),
        ("Q8_0", 40, "f16"),
    ],
)
def test_a_row_that_is_no_whole_number_of_blocks_falls_back(quantization: str, row: int, kind: str) -> None:
    chosen = types(SMOLLM2 | {"hidden_size": row, "head_dim": 64, "num_hidden_layers": 20}, quantization)
    assert chosen["blk.15.ffn_gate.weight"] == kind


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_quantization_gives_every_tensor_whole_blocks(quantization: str) -> None:
    for config in (SMOLLM2, MIXTRAL):
        card = derive_card(shape(config), quantization)
        assert card.parameters == derive_card(shape(config), "F32").parameters
        assert all(tensor.bytes > 0 for tensor in card.tensors)
        assert card.file_bytes >= card.weight_bytes


def test_fewer_bits_take_fewer_bytes() -> None:
    order = ["F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_M", "IQ3_XS", "Q2_K"]
    sizes = [derive_card(shape(LLAMA_70B), name).weight_bytes for name in order]
    assert sizes == sorted(sizes, reverse=True)


def test_published_files_have_the_derived_size() -> None:
    """Llama-2-70B in TheBloke/Llama-2-70B-GGUF: 41.42 and 73.29 GB by its README."""
    assert round(derive_card(shape(LLAMA_70B), "Q4_K_M").weight_bytes / 1e9, 2) == 41.42
    assert round(derive_card(shape(LLAMA_70B), "Q8_0").weight_bytes / 1e9, 2) == 73.29


def test_an_unknown_quantization_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'Q7_Z' is not a quantization; known are .*Q4_K_M.*AWQ-INT4") as refusal:
        derive_card(shape(SMOLLM2), "Q7_Z")
    assert "\n" not in str(refusal.value)
    assert derive_card(shape(SMOLLM2), "q4_k_m").quantization == "Q4_K_M"


def test_packed_matrices_count_scales_zeros_and_group_indices() -> None:
    """A 4096 x 4096 matrix of groups of 128: the shapes that AutoGPTQ and AutoAWQ write."""
    qweight, qzeros, scales = 512 * 4096 * 4, 32 * 512 * 4, 32 * 4096 * 2
    assert gptq_bytes(4096, 4096, bits=4, group=128) == qweight + qzeros + scales + 4096 * 4
    assert awq_bytes(4096, 4096, bits=4, group=128) == qweight + qzeros + scales
    assert fp8_block_bytes(7168, 1536, block=(128, 128)) == 7168 * 1536 + 56 * 12 * 4
    assert fp8_block_bytes(7168, 576, block=(128, 128)) == 7168 * 576 + 56 * 5 * 4  # the last block is not full


def test_recipes_are_the_ones_that_files_name() -> None:
    from quietmind.model.ggml_types import FILE_TYPES

    assert set(RECIPES) <= set(FILE_TYPES.values())


def test_layers_without_keys_have_no_heads_in_the_cache() -> None:
    hybrid = SMOLLM2 | {
        "architectures": ["Qwen3NextForCausalLM"],
        "head_dim": 64,
        "num_hidden_layers": 8,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
    }
    card = derive_card(shape(hybrid), "Q8_0")
    assert card.kv_heads == (0, 0, 0, 3, 0, 0, 0, 3)
    assert card.layer_kinds[3] is LayerKind.FULL
    assert card.recurrent is not None
    assert card.recurrent.state_elements == 32 * 8 * 32
    assert card.recurrent.convolution_elements == 3 * (2 * 4 * 32 + 8 * 32)
