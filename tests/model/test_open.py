"""One name, one card: what each kind of name opens, and what is said where nothing does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import ModelNotFound, UsageError
from quietmind.model.open import open_card

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 512,
}


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty computer: no models in any of the usual places."""
    for variable in ("QUIETMIND_MODELS", "HF_HUB_CACHE", "OLLAMA_MODELS", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


def test_a_public_model_is_derived_in_the_usual_quantization() -> None:
    assert open_card("qwen3-30b-a3b").quantization == "Q4_K_M"
    assert open_card("gpt-oss-20b").quantization == "MXFP4_MOE"  # its makers publish no other
    assert open_card("Qwen3-30B-A3B", "q8_0").weight_bytes > open_card("Qwen3-30B-A3B").weight_bytes
    assert open_card("DeepSeek-V3", "fp8").quantization == "FP8"


def test_a_file_that_is_here_goes_before_the_catalogue(
    nothing_here: Path, write_gguf: Callable[..., bytes], small_model: Callable[..., Any]
) -> None:
    models = nothing_here / "QUIETMIND_MODELS"
    models.mkdir()
    (models / "Qwen3-8B.gguf").write_bytes(write_gguf(*small_model()))
    assert open_card("Qwen3-8B").exact
    assert not open_card("Qwen3-8B", "Q4_K_M").exact


def test_a_file_can_be_planned_in_another_quantization(
    tmp_path: Path, write_gguf: Callable[..., bytes], small_model: Callable[..., Any]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(write_gguf(*small_model()))
    own, other = open_card(str(path), "Q8_0"), open_card(str(path), "Q4_0")
    assert (own.exact, own.quantization, other.exact, other.quantization) == (True, "Q8_0", False, "Q4_0")
    assert other.weight_bytes < own.weight_bytes
    assert other.parameters == own.parameters


def test_a_configuration_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name in (tmp_path, tmp_path / "config.json"):
        assert open_card(str(name)).quantization == "Q4_K_M"
        assert open_card(str(name), "AWQ-INT4").quantization == "AWQ-INT4"
    (tmp_path / "config.json").write_text(
        json.dumps(CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}})
    )
    assert open_card(str(tmp_path)).quantization == "AWQ_INT4_G32"


@pytest.mark.parametrize("name", ["Qwen3-72B", "no such model", "", "\0", "/nowhere/model.gguf"])
def test_what_nothing_answers_to_is_one_line(name: str) -> None:
    with pytest.raises((ModelNotFound, UsageError)) as refusal:
        open_card(name)
    assert "\n" not in str(refusal.value)


def test_an_unknown_quantization_lists_the_known_ones() -> None:
    for name in ("Qwen3-8B", "nothing", "hf:owner/model"):  # said before anything is looked for
        with pytest.raises(UsageError, match=r"'Q99' is not a quantization; known are F32, .*Q4_K_M.*FP8"):
            open_card(name, "Q99")


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no checkpoint"):
        open_card(str(tmp_path))
