"""Writes GGUF files that are all header: real shapes and a table of tensors over a hole in the disk.

The engine accounts for them as for the whole model, and they take a few kilobytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from quietmind.model.ggml_types import BY_NAME, GGML_TYPES

ALIGNMENT = 32
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}


@dataclass(frozen=True)
class Shape:
    """A configuration. ``feed_forward`` is one expert's width where there are experts.

    ``dense_layers`` lead with a feed-forward part of ``dense`` and no experts; ``predicting`` blocks at the end predict
    further tokens. ``shared`` is the width of the shared expert. ``recipe`` names the mix of tensor types.
    ``query_rank`` (0: queries are not compressed) and ``kv_rank`` are those of latent attention, ``absorbed`` whether
    the cache holds its compressed rows; ``linear_heads`` are the heads of keys and of values of gated delta nets. Where
    they are not used they say nothing. ``joined``: experts have one projection for gate and up.
    """

    name: str
    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    vocabulary: int
    context: int
    experts: int = 0
    experts_used: int = 0
    shared: int = 0
    window: int = 0
    tied: bool = False
    dense: int = 0
    dense_layers: int = 0
    predicting: int = 0
    recipe: str = "Q8_0"
    query_rank: int = 1536
    kv_rank: int = 512
    absorbed: bool = True
    linear_heads: tuple[int, int] = (16, 32)
    joined: bool = False


# Public configurations, and, by their names, some with other numbers of experts, which leave holes of other sizes.
SHAPES = (
    Shape("Qwen3-30B-A3B", "qwen3moe", 48, 2048, 32, 4, 128, 768, 151_936, 40_960, 128, 8, recipe="Q4_K_M"),
    Shape("Qwen3-30B-3-of-128", "qwen3moe", 48, 2048, 16, 4, 128, 512, 151_936, 40_960, 128, 3),
    Shape("Qwen3-30B-4-of-128", "qwen3moe", 48, 2048, 16, 4, 128, 768, 151_936, 40_960, 128, 4),
    Shape("Qwen3-30B-4-of-16", "qwen3moe", 48, 4096, 16, 4, 128, 1024, 151_936, 40_960, 16, 4),
    Shape("Mixtral-6-of-64", "llama", 32, 4096, 32, 8, 128, 1024, 32_000, 32_768, 64, 6),
    Shape("Qwen3-235B-A22B", "qwen3moe", 94, 4096, 64, 4, 128, 1536, 151_936, 40_960, 128, 8, recipe="Q4_K_M"),
    Shape("Qwen3-Coder-480B-A35B", "qwen3moe", 62, 6144, 96, 8, 128, 2560, 151_936, 262_144, 160, 8, recipe="Q4_K_M"),
    Shape("Qwen3-32B", "qwen3", 64, 5120, 64, 8, 128, 25_600, 151_936, 40_960, recipe="Q6_K"),
    Shape("Qwen2.5-7B", "qwen2", 28, 3584, 28, 4, 128, 18_944, 152_064, 32_768),
    Shape("Qwen2.5-72B", "qwen2", 80, 8192, 64, 8, 128, 29_568, 152_064, 32_768, recipe="Q4_0"),
    Shape("Qwen1.5-110B", "qwen2", 80, 8192, 64, 8, 128, 49_152, 152_064, 32_768, recipe="Q4_K_M"),
    Shape("Qwen1.5-MoE-A2.7B", "qwen2moe", 24, 2048, 16, 16, 128, 1408, 151_936, 32_768, 60, 4, shared=5632),
    Shape("Qwen3-Next-80B-A3B", "qwen3next", 48, 2048, 16, 2, 256, 512, 151_936, 262_144, 512, 10, 512),
    Shape("Qwen3.5-35B-A3B", "qwen35moe", 40, 2048, 16, 2, 256, 512, 248_320, 262_144, 256, 8, 512, recipe="Q4_K_M"),
    Shape("Llama-3.1-8B", "llama", 32, 4096, 32, 8, 128, 14_336, 128_256, 131_072, recipe="Q4_K_M"),
    Shape("Llama-3.1-70B", "llama", 80, 8192, 64, 8, 128, 28_672, 128_256, 131_072, recipe="Q4_K_M"),
    Shape("Mixtral-8x7B", "llama", 32, 4096, 32, 8, 128, 14_336, 32_000, 32_768, 8, 2, recipe="Q4_K_M"),
    Shape("Gemma-7B", "gemma", 28, 3072, 16, 16, 256, 24_576, 256_000, 8192, tied=True),
    Shape("Gemma-2-9B", "gemma2", 42, 3584, 16, 8, 256, 14_336, 256_000, 8192, window=4096, tied=True),
    Shape("Gemma-3-12B", "gemma3", 48, 3840, 16, 8, 256, 15_360, 262_208, 131_072, window=1024, tied=True),
    Shape("GLM-4-32B", "glm4", 61, 6144, 48, 2, 128, 23_040, 151_552, 32_768, recipe="Q4_K_M"),
    Shape("Gemma-3-27B", "gemma3", 62, 5376, 32, 16, 128, 21_504, 262_208, 131_072, window=1024, tied=True),
    Shape("Mistral-Small-24B", "mistral3", 40, 5120, 32, 8, 128, 32_768, 131_072, 131_072, recipe="Q4_K_M"),
    Shape("Phi-3-mini", "phi3", 32, 3072, 32, 32, 96, 8192, 32_064, 4096, window=2047),
    Shape("gpt-oss-120b", "gpt-oss", 36, 2880, 64, 8, 64, 2880, 201_088, 131_072, 128, 4, window=128, recipe="MXFP4"),
    Shape(
        "GLM-4.5-Air",
        "glm4moe",
        46,
        4096,
        96,
        8,
        128,
        1408,
        151_552,
        131_072,
        128,
        8,
        shared=1408,
        dense=10_944,
        dense_layers=1,
        predicting=1,
        recipe="Q4_K_M",
    ),
    Shape(
        "DeepSeek-V3",
        "deepseek2",
        61,
        7168,
        128,
        1,
        192,
        2048,
        129_280,
        163_840,
        256,
        8,
        shared=2048,
        dense=18_432,
        dense_layers=3,
        recipe="Q4_K_M",
    ),
)

# Latent attention of DeepSeek-V3: lengths of the parts of a head; groups of experts, and how many are chosen from.
ROPE_LENGTH, NOPE_LENGTH, VALUE_LENGTH = 64, 128, 128
GROUPS, GROUPS_USED = 8, 4

# Gated delta net layers of Qwen3-Next and Qwen3.5: length of a head, short convolution.
HYBRID = ("qwen3next", "qwen35", "qwen35moe")
LINEAR_STATE, KERNEL, FULL_EVERY = 128, 4, 4

# llama.cpp's names of recipes (general.file_type), and the types that stand for "most" and "more bits".
RECIPES = {
    "Q8_0": (7, "q8_0", "q8_0"),
    "Q4_0": (2, "q4_0", "q6_k"),
    "Q6_K": (18, "q6_k", "q6_k"),
    "Q4_K_M": (15, "q4_k", "q6_k"),
    "IQ4_NL": (25, "iq4_nl", "iq4_nl"),
    "MXFP4": (38, "mxfp4", "q8_0"),
}


def write_header(shape: Shape, path: Path) -> None:
    """Write the file of ``shape``: vectors and routers in f32, matrices by its recipe."""
    metadata: dict[str, int | float | str | bool | tuple[int, ...]] = {
        "general.architecture": shape.arch,
        "general.name": shape.name,
        "general.file_type": RECIPES[shape.recipe][0],
        "tokenizer.ggml.model": "none",
    }
    metadata |= {f"{shape.arch}.{key}": value for key, value in hyperparameters_of(shape).items()}
    table, at = b"", 0
    tensors = tensors_of(shape)
    for name, extents in tensors:
        layout = BY_NAME[_tensor_type(shape, name, extents)]
        rows = 1
        for extent in extents[1:]:
            rows *= extent
        table += text(name) + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        table += struct.pack("<IQ", _TYPE_IDS[layout.name], at)
        at += -(-(layout.row_bytes(extents[0]) * rows) // ALIGNMENT) * ALIGNMENT
    entries = b"".join(text(key) + value(fact) for key, fact in metadata.items())
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + entries + table
    header += bytes(-len(header) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + at)


def _tensor_type(shape: Shape, name: str, extents: tuple[int, ...]) -> str:
    """Return the type that the recipe gives a tensor: values and down projections of some layers get more bits."""
    if len(extents) == 1 or "ffn_gate_inp" in name or "ssm_conv1d" in name or name.endswith(".bias"):
        return "f32"
    _, most, more = RECIPES[shape.recipe]
    if shape.recipe == "MXFP4":
        return most if "_exps" in name else more
    chosen = most
    if name == "output.weight" or (shape.tied and name.startswith("token_embd")):
        chosen = more
    elif "attn_v.weight" in name or "ffn_down" in name:
        layer = int(name.split(".")[1])
        eighth = shape.layers // 8
        chosen = more if layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2 else most
    fits = extents[0] % BY_NAME[chosen].block == 0  # rows that are no whole blocks fall back, as in llama-quant.cpp
    return chosen if fits else "q8_0" if chosen == "q6_k" else "q5_0"


def hyperparameters_of(shape: Shape) -> dict[str, int | float | bool | tuple[int, ...]]:
    """Return the metadata that say how the model computes, without the architecture in front of their names."""
    facts: dict[str, int | float | bool | tuple[int, ...]] = {
        "block_count": shape.layers + shape.predicting,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.dense or shape.feed_forward,
        "vocab_size": shape.vocabulary,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head,
        "attention.value_length": shape.head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": shape.head,
        "rope.freq_base": 1e6,
    }
    if shape.experts:
        facts |= {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
        facts["expert_feed_forward_length"] = shape.feed_forward
    if shape.shared:
        facts["expert_shared_feed_forward_length"] = shape.shared
    if shape.window:
        facts["attention.sliding_window"] = shape.window
    if shape.dense_layers:
        facts |= {"leading_dense_block_count": shape.dense_layers}
        facts |= {"expert_shared_count": shape.shared // shape.feed_forward}
        facts |= {"expert_gating_func": 2 if shape.query_rank else 1, "expert_weights_norm": shape.query_rank > 0}
    if shape.arch == "gemma2":
        facts |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if shape.arch == "glm4moe":
        facts |= {"nextn_predict_layers": shape.predicting, "rope.dimension_count": 64, "expert_weights_scale": 1.0}
    if shape.arch in HYBRID:
        keys, values = shape.linear_heads
        facts |= {"ssm.conv_kernel": KERNEL, "ssm.state_size": LINEAR_STATE, "ssm.group_count": keys}
        facts |= {"ssm.time_step_rank": values, "ssm.inner_size": values * LINEAR_STATE}
        facts |= {"rope.dimension_count": 64, "full_attention_interval": FULL_EVERY}
    if shape.arch in ("qwen35", "qwen35moe"):
        facts["rope.dimension_sections"] = (11, 11, 10, 0)
    if shape.arch == "deepseek2":
        facts |= _latent_hyperparameters(shape)
    return facts


def _latent_hyperparameters(shape: Shape) -> dict[str, int | float | bool | tuple[int, ...]]:
    facts: dict[str, int | float | bool | tuple[int, ...]] = {
        "attention.kv_lora_rank": shape.kv_rank,
        "rope.dimension_count": ROPE_LENGTH,
    }
    lengths = {"attention.key_length": NOPE_LENGTH + ROPE_LENGTH, "attention.value_length": VALUE_LENGTH}
    if shape.absorbed:
        facts |= {f"{key}_mla": length for key, length in lengths.items()}
        lengths = {"attention.key_length": shape.kv_rank + ROPE_LENGTH, "attention.value_length": shape.kv_rank}
    facts |= lengths
    if shape.query_rank:
        facts |= {"attention.q_lora_rank": shape.query_rank, "expert_weights_scale": 2.5}
        if shape.experts % GROUPS == 0 and shape.experts >= GROUPS * max(2, -(-shape.experts_used // GROUPS_USED)):
            facts |= {"expert_group_count": GROUPS, "expert_group_used_count": GROUPS_USED}
    return facts


def tensors_of(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and extents of the tensors, in the order of the file."""
    hidden = shape.hidden
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (hidden, shape.vocabulary)),
        ("output_norm.weight", (hidden,)),
    ]
    if not shape.tied:
        tensors.append(("output.weight", (hidden, shape.vocabulary)))
    for layer in range(shape.layers + shape.predicting):
        attention = _attention(shape)
        if shape.arch == "deepseek2":
            attention = _latent_attention(shape)
        elif shape.arch in HYBRID:
            attention = _linear_attention(shape) if (layer + 1) % FULL_EVERY else _gated_attention(shape)
        parts = {**attention, **_feed_forward(shape, layer)}
        if layer >= shape.layers:
            parts |= {"nextn.eh_proj.weight": (2 * hidden, hidden)}
            parts |= {"nextn.enorm.weight": (hidden,), "nextn.hnorm.weight": (hidden,)}
        tensors += [(f"blk.{layer}.{name}", extents) for name, extents in parts.items()]
    return tensors


def _attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    parts: dict[str, tuple[int, ...]] = {"attn_norm.weight": (shape.hidden,)}
    if shape.arch == "phi3":
        parts["attn_qkv.weight"] = (shape.hidden, queries + 2 * keys)
    else:
        for name, width in (("q", queries), ("k", keys), ("v", keys)):
            parts[f"attn_{name}.weight"] = (shape.hidden, width)
            if shape.arch in ("qwen2", "qwen2moe", "gpt-oss", "glm4moe"):
                parts[f"attn_{name}.bias"] = (width,)
    parts["attn_output.weight"] = (queries, shape.hidden)
    if shape.arch == "gpt-oss":
        parts |= {"attn_output.bias": (shape.hidden,), "attn_sinks.weight": (shape.heads,)}
    if shape.arch in ("gpt-oss", "glm4moe"):
        parts["post_attention_norm.weight"] = (shape.hidden,)
    if shape.arch in ("qwen3", "qwen3moe", "gemma3"):
        parts |= {"attn_q_norm.weight": (shape.head,), "attn_k_norm.weight": (shape.head,)}
    if shape.arch in ("gemma2", "gemma3", "glm4"):
        parts |= {"post_attention_norm.weight": (shape.hidden,), "post_ffw_norm.weight": (shape.hidden,)}
    return parts


def _gated_attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the full-attention layers of Qwen3-Next: queries come with a gate of their own width."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    return {
        "attn_norm.weight": (shape.hidden,),
        "attn_q.weight": (shape.hidden, 2 * queries),
        "attn_k.weight": (shape.hidden, keys),
        "attn_v.weight": (shape.hidden, keys),
        "attn_output.weight": (queries, shape.hidden),
        "attn_q_norm.weight": (shape.head,),
        "attn_k_norm.weight": (shape.head,),
        "post_attention_norm.weight": (shape.hidden,),
    }


def _linear_attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    keys, values = shape.linear_heads
    inner = values * LINEAR_STATE
    channels = inner + 2 * keys * LINEAR_STATE
    rates = {"ssm_ba.weight": (shape.hidden, 2 * values)}
    if shape.arch != "qwen3next":
        rates = {f"ssm_{name}.weight": (shape.hidden, values) for name in ("beta", "alpha")}
    return rates | {
        "attn_norm.weight": (shape.hidden,),
        "attn_qkv.weight": (shape.hidden, channels),
        "attn_gate.weight": (shape.hidden, inner),
        "ssm_conv1d.weight": (KERNEL, channels),
        "ssm_dt.bias": (values,),
        "ssm_a": (values,),
        "ssm_norm.weight": (LINEAR_STATE,),
        "ssm_out.weight": (inner, shape.hidden),
        "post_attention_norm.weight": (shape.hidden,),
    }


def _latent_attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    queries = shape.heads * (NOPE_LENGTH + ROPE_LENGTH)
    parts: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (shape.hidden,),
        "attn_kv_a_mqa.weight": (shape.hidden, shape.kv_rank + ROPE_LENGTH),
        "attn_kv_a_norm.weight": (shape.kv_rank,),
        "attn_output.weight": (shape.heads * VALUE_LENGTH, shape.hidden),
    }
    if shape.query_rank:
        parts |= {"attn_q_a.weight": (shape.hidden, shape.query_rank), "attn_q_a_norm.weight": (shape.query_rank,)}
        parts["attn_q_b.weight"] = (shape.query_rank, queries)
    else:
        parts["attn_q.weight"] = (shape.hidden, queries)
    if shape.absorbed:
        parts["attn_k_b.weight"] = (NOPE_LENGTH, shape.kv_rank, shape.heads)
        parts["attn_v_b.weight"] = (shape.kv_rank, VALUE_LENGTH, shape.heads)
    else:
        parts["attn_kv_b.weight"] = (shape.kv_rank, shape.heads * (NOPE_LENGTH + VALUE_LENGTH))
    return parts


def _feed_forward(shape: Shape, layer: int) -> dict[str, tuple[int, ...]]:
    hidden, width = shape.hidden, shape.feed_forward
    parts: dict[str, tuple[int, ...]] = {}
    if shape.arch not in ("gpt-oss", "glm4moe", *HYBRID):  # there the norm before it is the one after attention
        parts["ffn_norm.weight"] = (hidden,)
    if layer < shape.dense_layers:
        parts |= {"ffn_gate.weight": (hidden, shape.dense), "ffn_up.weight": (hidden, shape.dense)}
        return parts | {"ffn_down.weight": (shape.dense, hidden)}
    if shape.experts:
        parts |= _experts(shape)
    elif shape.arch in ("phi3", "glm4"):
        parts |= {"ffn_up.weight": (hidden, 2 * width), "ffn_down.weight": (width, hidden)}
    else:
        parts |= {"ffn_gate.weight": (hidden, width), "ffn_up.weight": (hidden, width)}
        parts["ffn_down.weight"] = (width, hidden)
    if shape.shared:
        if shape.arch in ("qwen2moe", *HYBRID):
            parts["ffn_gate_inp_shexp.weight"] = (hidden,)
        parts |= {"ffn_gate_shexp.weight": (hidden, shape.shared), "ffn_up_shexp.weight": (hidden, shape.shared)}
        parts["ffn_down_shexp.weight"] = (shape.shared, hidden)
    return parts


def _experts(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, width, experts = shape.hidden, shape.feed_forward, shape.experts
    parts: dict[str, tuple[int, ...]] = {"ffn_gate_inp.weight": (hidden, experts)}
    up = [("gate_up", (hidden, 2 * width))] if shape.joined else [("gate", (hidden, width)), ("up", (hidden, width))]
    for name, extents in (*up, ("down", (width, hidden))):
        parts[f"ffn_{name}_exps.weight"] = (*extents, experts)
        if shape.arch == "gpt-oss":
            parts[f"ffn_{name}_exps.bias"] = (extents[1], experts)
    if shape.arch == "gpt-oss":
        parts["ffn_gate_inp.bias"] = (experts,)
    if shape.arch in ("glm4moe", "deepseek2") and shape.query_rank:
        parts["exp_probs_b.bias"] = (experts,)
    return parts


def text(written: str) -> bytes:
    """Return a string as GGUF has it: its length, then its bytes."""
    raw = written.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(fact: int | float | str | bool | tuple[int, ...]) -> bytes:
    """Return a fact of the metadata with its type in front."""
    if isinstance(fact, tuple):
        return struct.pack(f"<IIQ{len(fact)}i", 9, 5, len(fact), *fact)
    if isinstance(fact, str):
        return struct.pack("<I", 8) + text(fact)
    if isinstance(fact, bool):
        return struct.pack("<I?", 7, fact)
    return struct.pack("<II", 4, fact) if isinstance(fact, int) else struct.pack("<If", 6, fact)
