"""The public models: each file is whole, and its numbers give the published number of parameters."""

from __future__ import annotations

from math import prod

import pytest

from quietmind.model.card import LayerKind, ModelCard
from quietmind.model.catalogue import CATALOGUE, Entry, entries, entry
from quietmind.model.config import FAMILIES
from quietmind.model.derive import QUANTIZATIONS, derive_card

NAMES = [model.name for model in entries()]


def named(name: str) -> Entry:
    model = entry(name)
    assert model is not None
    return model


def parameters(card: ModelCard) -> int:
    """Count as publishers do: factors of RoPE are computed, not learned."""
    return sum(prod(tensor.shape) for tensor in card.tensors if not tensor.name.startswith("rope_"))


def test_there_are_enough_of_them_and_each_has_one_name() -> None:
    assert len(NAMES) >= 30
    spoken = [said.casefold() for model in entries() for said in {model.name.casefold(), *model.aliases}]
    assert sorted(spoken) == sorted(set(spoken)), "two models answer to one name"


@pytest.mark.parametrize("name", NAMES)
def test_the_table_adds_up_to_the_published_parameters(name: str) -> None:
    model = named(name)
    if model.parameters is not None:
        assert parameters(derive_card(model.shape, "F16")) == model.parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("GLM-4.5-Air", 106.9),
        ("GLM-4.5", 352.8),  # published as 355: 358 with the block for further tokens, which is not loaded
        ("Qwen3-Next-80B-A3B", 79.7),
        ("Qwen3.5-35B-A3B", 34.7),
        ("Gemma-3-12B", 11.8),
        ("Gemma-3-27B", 27.0),
    ],
)
def test_models_published_with_rounded_parameters_come_out_so(name: str, billions: float) -> None:
    assert round(parameters(derive_card(named(name).shape, "F16")) / 1e9, 1) == billions


@pytest.mark.parametrize(
    ("name", "quantization", "gigabytes", "digit"),
    [
        ("DeepSeek-V3", "Q4_K_M", 404, 1),
        ("Qwen3-235B-A22B", "Q4_K_M", 142, 1),
        ("Llama-3.1-8B", "Q4_K_M", 4.92, 0.01),
        ("Llama-3.1-70B", "Q4_K_M", 42.52, 0.01),
        ("Qwen2.5-72B", "Q4_K_M", 47.42, 0.01),
        ("gpt-oss-20b", "MXFP4_MOE", 12.11, 0.01),
        ("Qwen3-30B-A3B", "Q4_K_M", 18.56, 0.01),
    ],
)
def test_weights_take_what_published_files_take(name: str, quantization: str, gigabytes: float, digit: float) -> None:
    """Sizes as repositories show them, to their last digit; files hold up to 0.01 GB of vocabulary beside."""
    published = derive_card(named(name).shape, quantization).weight_bytes / 1e9
    assert -digit / 2 <= gigabytes - published <= digit / 2 + 0.01


# Files of bartowski/Meta-Llama-3.1-8B-Instruct-GGUF, in GB; each holds 7.8 MB of vocabulary beside its weights.
LLAMA_FILES = {
    "F32": 32.13,
    "Q8_0": 8.54,
    "Q6_K": 6.60,
    "Q5_K_M": 5.73,
    "Q5_K_S": 5.60,
    "Q4_K_M": 4.92,
    "Q4_K_S": 4.69,
    "IQ4_NL": 4.68,
    "IQ4_XS": 4.45,
    "Q3_K_L": 4.32,
    "Q3_K_M": 4.02,
    "Q3_K_S": 3.66,
    "IQ3_M": 3.78,
    "IQ3_XS": 3.52,
    "IQ3_XXS": 3.27,
    "Q2_K": 3.18,
}


@pytest.mark.parametrize("quantization", LLAMA_FILES)
def test_every_recipe_takes_what_its_published_file_takes(quantization: str) -> None:
    weights = derive_card(named("Llama-3.1-8B").shape, quantization).weight_bytes / 1e9
    assert abs(LLAMA_FILES[quantization] - 0.0078 - weights) <= 0.005


@pytest.mark.parametrize(
    ("quantization", "gigabytes"),
    [("Q8_0", 49.62), ("Q6_K", 38.38), ("Q5_K_M", 33.23), ("Q4_K_M", 28.45), ("Q4_0", 26.44)],
)
def test_the_rules_for_eight_experts_give_the_published_files(quantization: str, gigabytes: float) -> None:
    weights = derive_card(named("Mixtral-8x7B").shape, quantization).weight_bytes / 1e9
    assert abs(gigabytes - weights) <= 0.007


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete(name: str) -> None:
    model = named(name)
    if not model.basis:
        assert model.source.endswith("/config.json")
        assert model.source.count("/") == 2
    assert model.licence
    assert set(model.quantizations) <= set(QUANTIZATIONS)
    assert model.documented_context is None or model.documented_context < model.shape.native_context
    assert model.config["architectures"] in [[family] for family in FAMILIES]


def test_attention_kinds_of_the_catalogue() -> None:
    kinds = {name: named(name).shape.layer_kinds for name in ("gpt-oss-20b", "Gemma-3-27B", "Qwen3-Next-80B-A3B")}
    assert [kinds["gpt-oss-20b"].count(kind) for kind in (LayerKind.SLIDING, LayerKind.FULL)] == [12, 12]
    assert [kinds["Gemma-3-27B"].count(kind) for kind in (LayerKind.SLIDING, LayerKind.FULL)] == [52, 10]
    assert [kinds["Qwen3-Next-80B-A3B"].count(kind) for kind in (LayerKind.LINEAR, LayerKind.FULL)] == [36, 12]
    assert set(named("DeepSeek-R1").shape.layer_kinds) == {LayerKind.LATENT}


def test_names_are_found_in_any_case_and_by_alias() -> None:
    assert named("QWEN3-30b-a3b") is named("qwen3:30b-a3b") is named("Qwen3-30B-A3B")
    assert named("Qwen3-Coder-480B-A35B-Instruct").parameters == 480_154_875_392
    assert entry("Qwen3-72B") is None  # it does not exist
    assert named("tiny").name == "SmolLM2-135M"
    assert "tiny" in CATALOGUE


@pytest.mark.parametrize("name", ["gemma-3-12b", "gemma-3-27b"])
def test_gemma_3_is_scaled_linearly_as_its_configuration_says(name: str) -> None:
    public = entry(name)
    assert public is not None
    rope = derive_card(public.shape).rope
    assert rope is not None
    assert (rope.scaling, rope.factor) == ("linear", 8.0)
