"""The engine takes files with derived tables: every tensor that it wants is there, in the extents that it wants."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quietmind.model.catalogue import entry
from quietmind.model.config import shape_of
from quietmind.model.derive import derive_card
from quietmind.model.gguf import read_card

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "derived_tables.py"

# Families that no model of the catalogue is of, as small as they may be.
SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
}
OTHERS: dict[str, dict[str, Any]] = {
    "GemmaForCausalLM": {},
    "Gemma2ForCausalLM": {},
    "Glm4ForCausalLM": {},
    "Phi3ForCausalLM": {},
    "Qwen3_5ForCausalLM": {
        "num_hidden_layers": 8,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
    },
    "Qwen2MoeForCausalLM": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 512,
    },
    "DeepseekV2ForCausalLM": {
        "num_hidden_layers": 27,  # by which llama.cpp knows that queries are not compressed
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
    },
}


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the engine (xllamacpp) is not installed")
    spec = importlib.util.spec_from_file_location("derived_tables", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["gpt-oss-20b", "Qwen3-Next-80B-A3B", "DeepSeek-V3", "GLM-4.5-Air", "Gemma-3-12B"])
def test_the_engine_takes_a_public_model(tables: ModuleType, name: str) -> None:
    assert tables.check(entry(name))


@pytest.mark.parametrize("family", OTHERS)
def test_the_engine_takes_every_other_family(tables: ModuleType, tmp_path: Path, family: str) -> None:
    shape = shape_of(SMALL | OTHERS[family] | {"architectures": [family]}, family, Path("config.json"))
    path = tmp_path / "model.gguf"
    tables.write_derived(shape, "Q4_K_M", path)
    assert tables.engine_says(path) == (True, "")
    assert tables.same_card(derive_card(shape, "Q4_K_M"), read_card(path)) == []


def test_the_engine_notices_a_tensor_of_another_name(tables: ModuleType, tmp_path: Path) -> None:
    """The oracle can fail."""
    shape = shape_of(SMALL | {"architectures": ["Qwen3ForCausalLM"]}, "test", Path("config.json"))
    path = tmp_path / "model.gguf"
    tables.write_derived(shape, "Q8_0", path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"blk.1.attn_q_norm.weight", b"blk.1.attn_x_norm.weight"))
    taken, words = tables.engine_says(path)
    assert not taken
    assert "attn_q_norm" in words
