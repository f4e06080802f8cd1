"""Headers of safetensors checkpoints: real shapes come out, lies are refused, and no bytes crash the reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import ModelError, ModelFileDamaged, ModelNotFound, ModelNotUnderstood
from quietmind.model.config import read_config
from quietmind.model.derive import derive_card, derive_stored_card
from quietmind.model.hf_names import gguf_name
from quietmind.model.safetensors import INDEX, SINGLE, StoredTensor, parse_header, read_card, read_tensors

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1}

DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
    "max_position_embeddings": 512,
}
MIXTURE = DENSE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}

Rows = list[tuple[str, str, list[int]]]


def encode(rows: Rows, **lies: Any) -> bytes:
    """Return the bytes of a file; ``lies`` replace the entry of a tensor."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in rows:
        size = SIZES[dtype]
        for extent in shape:
            size *= extent
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    table.update(lies)
    header = json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + bytes(at)


def attention(layer: int) -> Rows:
    at = f"model.layers.{layer}"
    return [
        (f"{at}.input_layernorm.weight", "BF16", [64]),
        (f"{at}.post_attention_layernorm.weight", "BF16", [64]),
        (f"{at}.self_attn.q_proj.weight", "BF16", [128, 64]),
        (f"{at}.self_attn.k_proj.weight", "BF16", [64, 64]),
        (f"{at}.self_attn.v_proj.weight", "BF16", [64, 64]),
        (f"{at}.self_attn.o_proj.weight", "BF16", [64, 128]),
        (f"{at}.self_attn.q_norm.weight", "BF16", [32]),
        (f"{at}.self_attn.k_norm.weight", "BF16", [32]),
    ]


def dense(layer: int) -> Rows:
    at = f"model.layers.{layer}.mlp"
    return [(f"{at}.{name}_proj.weight", "BF16", [96, 64]) for name in ("gate", "up")] + [
        (f"{at}.down_proj.weight", "BF16", [64, 96])
    ]


def experts(layer: int) -> Rows:
    at = f"model.layers.{layer}.mlp"
    rows: Rows = [(f"{at}.gate.weight", "BF16", [4, 64])]
    for expert in range(4):
        rows += [(f"{at}.experts.{expert}.{name}_proj.weight", "BF16", [32, 64]) for name in ("gate", "up")]
        rows += [(f"{at}.experts.{expert}.down_proj.weight", "BF16", [64, 32])]
    return rows


ENDS: Rows = [
    ("model.embed_tokens.weight", "BF16", [128, 64]),
    ("model.norm.weight", "BF16", [64]),
    ("lm_head.weight", "BF16", [128, 64]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def build(config: dict[str, Any], rows: Rows) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / SINGLE).write_bytes(encode(rows))
        return tmp_path

    return build


@pytest.mark.parametrize(("config", "part"), [(DENSE, dense), (MIXTURE, experts)])
def test_a_checkpoint_has_the_tensors_that_its_configuration_gives(
    folder: Callable[..., Path], config: dict[str, Any], part: Callable[[int], Rows]
) -> None:
    path = folder(config, ENDS + [row for layer in range(2) for row in attention(layer) + part(layer)])
    card, derived = read_card(path), derive_card(read_config(path / "config.json"), "BF16")
    assert {t.name: t.shape for t in card.tensors} == {t.name: t.shape for t in derived.tensors}
    assert card.parameters == derived.parameters
    assert card.weight_bytes == 2 * card.parameters  # norms too: the file keeps all in half precision
    assert (card.exact, card.quantization) == (True, "BF16")
    assert card.file_bytes == (path / SINGLE).stat().st_size


def test_packed_matrices_and_their_scales_are_one_tensor(folder: Callable[..., Path]) -> None:
    quantized = DENSE | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    rows = ENDS + [row for layer in range(2) for row in attention(layer)]
    for layer in range(2):
        for name, inputs, outputs in (("gate", 64, 96), ("up", 64, 96), ("down", 96, 64)):
            at = f"model.layers.{layer}.mlp.{name}_proj"
            rows += [
                (f"{at}.qweight", "I32", [inputs // 8, outputs]),
                (f"{at}.qzeros", "I32", [inputs // 32, outputs // 8]),
                (f"{at}.scales", "F16", [inputs // 32, outputs]),
                (f"{at}.g_idx", "I32", [inputs]),
            ]
    card = read_card(folder(quantized, rows))
    (gate,) = [tensor for tensor in card.tensors if tensor.name == "blk.0.ffn_gate.weight"]
    assert (gate.shape, gate.type) == ((64, 96), "gptq_int4_g32")
    assert gate.bytes == 64 * 96 // 2 + 2 * 96 // 2 + 2 * 96 * 2 + 64 * 4
    derived = derive_card(read_config(card.path.parent / "config.json"), "GPTQ-INT4")
    assert {t.name for t in derived.tensors} == {t.name for t in card.tensors}


@pytest.mark.parametrize(("config", "part"), [(DENSE, dense), (MIXTURE, experts)])
def test_a_checkpoint_in_fp8_has_the_bytes_that_its_configuration_gives(
    folder: Callable[..., Path], config: dict[str, Any], part: Callable[[int], Rows]
) -> None:
    rows: Rows = []
    for name, _, extents in [row for layer in range(2) for row in attention(layer) + part(layer)]:
        if len(extents) == 1 or name.endswith("mlp.gate.weight"):
            rows.append((name, "BF16", extents))
        else:
            blocks = [-(-extent // 32) for extent in extents]
            rows += [(name, "F8_E4M3", extents), (f"{name}_scale_inv", "F32", blocks)]
    quantization = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    path = folder(config | {"quantization_config": quantization}, ENDS + rows)
    card, derived = read_card(path), derive_stored_card(read_config(path / "config.json"))
    assert {t.name: t for t in card.tensors} == {t.name: t for t in derived.tensors}
    assert card.quantization == derived.quantization == "FP8_32X32"


def test_shards_are_joined_by_their_index(tmp_path: Path) -> None:
    rows = ENDS + [row for layer in range(2) for row in attention(layer) + dense(layer)]
    halves = {"model-00001-of-00002.safetensors": rows[:9], "model-00002-of-00002.safetensors": rows[9:]}
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    for name, half in halves.items():
        (tmp_path / name).write_bytes(encode(half))
    index = {"weight_map": {row[0]: name for name, half in halves.items() for row in half}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    card = read_card(tmp_path)
    assert len(card.tensors) == len(rows)
    assert len(card.files) == 2
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"00002-of-00002.*fetch all parts"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        ("../secrets.safetensors", "not beside it"),
        ("a\\b.safetensors", "not beside it"),
        ("..", "not beside it"),
        ("", "not beside it"),
        (7, "not beside it"),
    ],
)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, placed: Any, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": placed}}))
    with pytest.raises(ModelFileDamaged, match=message):
        read_card(tmp_path)


def test_a_missing_configuration_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(encode(ENDS))
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        read_card(tmp_path)
    with pytest.raises(ModelNotFound, match="neither"):
        read_card(tmp_path / "..")


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "past the end": ({"dtype": "BF16", "shape": [64], "data_offsets": [0, 256]}, "takes 128 bytes"),
    "backwards": ({"dtype": "BF16", "shape": [64], "data_offsets": [128, 0]}, "takes 128 bytes"),
    "gap": ({"dtype": "BF16", "shape": [64], "data_offsets": [2, 130]}, "begins at 2"),
    "huge": ({"dtype": "BF16", "shape": [1 << 62, 4], "data_offsets": [0, 128]}, "takes"),
    "negative": ({"dtype": "BF16", "shape": [-64], "data_offsets": [0, 128]}, "make sense"),
    "a text": ({"dtype": "BF16", "shape": ["64"], "data_offsets": [0, 128]}, "make sense"),
    "true": ({"dtype": "BF16", "shape": [True], "data_offsets": [0, 2]}, "make sense"),
    "nothing": ({}, "make sense"),
    "a short place": ({"dtype": "BF16", "shape": [64], "data_offsets": [0]}, "make sense"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_tensor_that_lies_about_its_place_is_damage(tmp_path: Path, name: str) -> None:
    entry, message = LIES[name]
    path = tmp_path / SINGLE
    path.write_bytes(encode([("a", "BF16", [64])], a=entry))
    with pytest.raises(ModelFileDamaged, match=message) as refusal:
        read_tensors(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after .* the download is incomplete"),
        (struct.pack("<Q", 1 << 63), "claims 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 2) + b"{}x", "its data has 1"),
        (struct.pack("<Q", 14) + b'{"a":1,"a":11}', "there twice"),
        (struct.pack("<Q", 9) + b'{"a": 12}', "not described"),
        (struct.pack("<Q", 4) + b"\xff\xfe{}", "not readable JSON"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "not readable JSON"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / SINGLE
    path.write_bytes(content)
    with pytest.raises(ModelFileDamaged, match=message):
        read_tensors(path)


def test_an_unknown_type_is_named() -> None:
    header = json.dumps({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 1]}}).encode()
    with pytest.raises(ModelNotUnderstood, match="Q9"):
        parse_header(header, 8 + len(header) + 1, Path("x"))


def parsed(header: bytes, file_bytes: int) -> tuple[StoredTensor, ...]:
    """Parse, or return nothing where it is refused in one of our ways."""
    try:
        return parse_header(header, file_bytes, Path("x"))
    except ModelError:
        return ()


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    assert parsed(content[8:], len(content)) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(st.text(max_size=12), ENTRIES))
def test_no_json_crashes_the_reader(table: dict[str, Any]) -> None:
    header = json.dumps(table).encode()
    assert all(tensor.bytes == 0 for tensor in parsed(header, 8 + len(header)))


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=60))
def test_every_name_has_a_name(name: str) -> None:
    assert bool(gguf_name(name, "llama")[0]) is bool(name)


@pytest.mark.parametrize(
    ("theirs", "arch", "ours"),
    [
        ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", "deepseek2", ("blk.3.attn_kv_a_mqa.weight", -1)),
        ("model.layers.3.mlp.experts.17.up_proj.weight_scale_inv", "deepseek2", ("blk.3.ffn_up_exps.weight", 17)),
        ("model.layers.0.block_sparse_moe.experts.7.w2.weight", "llama", ("blk.0.ffn_down_exps.weight", 7)),
        ("model.layers.0.post_attention_layernorm.weight", "qwen3next", ("blk.0.post_attention_norm.weight", -1)),
        ("model.layers.0.post_attention_layernorm.weight", "llama", ("blk.0.ffn_norm.weight", -1)),
        ("model.layers.1.mlp.experts.gate_up_proj_blocks", "gpt-oss", ("blk.1.ffn_gate_up_exps.weight", -1)),
        ("model.language_model.layers.2.linear_attn.A_log", "qwen35moe", ("blk.2.ssm_a", -1)),
        ("language_model.model.layers.2.self_attn.q_proj.weight", "gemma3", ("blk.2.attn_q.weight", -1)),
        ("language_model.model.embed_tokens.weight", "gemma3", ("token_embd.weight", -1)),
        ("vision_tower.blocks.0.weight", "gemma3", ("vision_tower.blocks.0.weight", -1)),
        ("mtp.fc.weight", "qwen3next", ("mtp.fc.weight", -1)),
    ],
)
def test_names_of_checkpoints_become_names_of_gguf(theirs: str, arch: str, ours: tuple[str, int]) -> None:
    assert gguf_name(theirs, arch) == ours


def test_blocks_that_predict_further_tokens_are_not_loaded(folder: Callable[..., Path]) -> None:
    extra: Rows = [("model.layers.2.eh_proj.weight", "BF16", [64, 128]), ("mtp.fc.weight", "BF16", [64, 128])]
    extra += [("model.layers.2.self_attn.q_proj.weight", "BF16", [128, 64])]
    rows = ENDS + [row for layer in range(2) for row in attention(layer) + dense(layer)]
    card = read_card(folder(DENSE, rows + extra))
    assert len(card.tensors) == len(rows)
