"""Every tensor of a model's GGUF file, from its Shape: names and extents, in the file's order.

Source: load_arch_tensors of each architecture (src/models/*.cpp of llama.cpp) and its converters (conversion/*.py),
autumn 2026.
"""

from __future__ import annotations

from quietmind.model.card import LayerKind
from quietmind.model.shape import DeltaNet, Shape

Extents = tuple[int, ...]
Parts = dict[str, Extents]

_FUSED_QKV = frozenset({"phi3"})
_FUSED_GATE = frozenset({"phi3", "glm4"})
_GATED = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_SHARED_GATE = frozenset({"qwen2moe", "qwen3next", "qwen35moe"})
# One norm between attention and feed-forward, under the name of the one after attention.
_POST_NORM_ONLY = frozenset({"gpt-oss", "glm4moe", "qwen3next", "qwen35", "qwen35moe"})
_FOUR_NORMS = frozenset({"gemma2", "gemma3", "glm4"})


def tensor_extents(shape: Shape) -> list[tuple[str, Extents]]:
    """Return the name and the extents of every tensor, fastest-running dimension first, in llama.cpp's order.

    Blocks that predict further tokens are among them, behind the others.
    """
    rows = sorted(_ends(shape).items())
    for layer in range(shape.layers + shape.prediction_layers):
        rows += [(f"blk.{layer}.{part}", extents) for part, extents in sorted(_block(shape, layer).items())]
    return rows


def _ends(shape: Shape) -> Parts:
    parts: Parts = {
        "token_embd.weight": (shape.hidden, shape.vocabulary),
        "output_norm.weight": (shape.hidden,),
    }
    if not shape.tied:
        parts["output.weight"] = (shape.hidden, shape.vocabulary)
    half = (shape.rope.dimensions // 2,) if shape.rope else ()
    if shape.rope_tensors == 1:
        parts["rope_freqs.weight"] = half
    elif shape.rope_tensors == 2:
        parts |= {"rope_factors_long.weight": half, "rope_factors_short.weight": half}
    return parts


def _block(shape: Shape, layer: int) -> Parts:
    hidden = shape.hidden
    parts: Parts = {"attn_norm.weight": (hidden,)}
    if shape.arch in _POST_NORM_ONLY:
        parts["post_attention_norm.weight"] = (hidden,)
    else:
        parts["ffn_norm.weight"] = (hidden,)
    if shape.arch in _FOUR_NORMS:
        parts |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    kind = shape.layer_kinds[layer] if layer < shape.layers else LayerKind.FULL
    if kind is LayerKind.LINEAR and shape.delta is not None:
        parts |= _delta_net(shape, shape.delta)
    else:
        parts |= _latent_attention(shape) if kind is LayerKind.LATENT else _attention(shape)
    parts |= _mixture(shape) if shape.experts and layer >= shape.dense_layers else _dense(shape)
    if layer >= shape.layers:
        parts |= _prediction(shape)
    return parts


def _attention(shape: Shape) -> Parts:
    hidden = shape.hidden
    queries = shape.heads * shape.key_length
    keys = shape.kv_heads * shape.key_length
    values = shape.kv_heads * shape.value_length
    mixed = shape.heads * shape.value_length
    parts: Parts = {"attn_output.weight": (mixed, hidden)}
    if shape.arch in _FUSED_QKV:
        parts["attn_qkv.weight"] = (hidden, queries + keys + values)
    else:
        gate = 2 if shape.arch in _GATED else 1
        for name, width in (("q", gate * queries), ("k", keys), ("v", values)):
            parts[f"attn_{name}.weight"] = (hidden, width)
            if shape.bias:
                parts[f"attn_{name}.bias"] = (width,)
    if shape.output_bias:
        parts["attn_output.bias"] = (hidden,)
    if shape.query_key_norm:
        parts |= {"attn_q_norm.weight": (shape.key_length,), "attn_k_norm.weight": (shape.key_length,)}
    if shape.arch == "gpt-oss":
        parts["attn_sinks.weight"] = (shape.heads,)
    return parts


def _latent_attention(shape: Shape) -> Parts:
    """Return the tensors of latent attention, the projection of K and V split as conversions since spring 2025 do."""
    latent = shape.latent
    assert latent is not None
    hidden, queries = shape.hidden, shape.heads * shape.key_length
    parts: Parts = {
        "attn_kv_a_mqa.weight": (hidden, latent.kv_rank + latent.rope_length),
        "attn_kv_a_norm.weight": (latent.kv_rank,),
        "attn_k_b.weight": (shape.key_length - latent.rope_length, latent.kv_rank, shape.heads),
        "attn_v_b.weight": (latent.kv_rank, shape.value_length, shape.heads),
        "attn_output.weight": (shape.heads * shape.value_length, hidden),
    }
    if latent.query_rank:
        parts["attn_q_a.weight"] = (hidden, latent.query_rank)
        parts["attn_q_a_norm.weight"] = (latent.query_rank,)
        parts["attn_q_b.weight"] = (latent.query_rank, queries)
    else:
        parts["attn_q.weight"] = (hidden, queries)
    return parts


def _delta_net(shape: Shape, delta: DeltaNet) -> Parts:
    hidden = shape.hidden
    parts: Parts = {
        "attn_qkv.weight": (hidden, delta.channels),
        "attn_gate.weight": (hidden, delta.values),
        "ssm_conv1d.weight": (delta.kernel, delta.channels),
        "ssm_dt.bias": (delta.value_heads,),
        "ssm_a": (delta.value_heads,),
        "ssm_norm.weight": (delta.head_length,),
        "ssm_out.weight": (delta.values, hidden),
    }
    if shape.arch == "qwen3next":
        parts["ssm_ba.weight"] = (hidden, 2 * delta.value_heads)
    else:
        parts |= {f"ssm_{name}.weight": (hidden, delta.value_heads) for name in ("alpha", "beta")}
    return parts


def _dense(shape: Shape) -> Parts:
    hidden, width = shape.hidden, shape.feed_forward
    if shape.arch in _FUSED_GATE:
        return {"ffn_up.weight": (hidden, 2 * width), "ffn_down.weight": (width, hidden)}
    return {
        "ffn_gate.weight": (hidden, width),
        "ffn_up.weight": (hidden, width),
        "ffn_down.weight": (width, hidden),
    }


def _mixture(shape: Shape) -> Parts:
    hidden, width, experts = shape.hidden, shape.expert_feed_forward, shape.experts
    parts: Parts = {
        "ffn_gate_inp.weight": (hidden, experts),
        "ffn_gate_exps.weight": (hidden, width, experts),
        "ffn_up_exps.weight": (hidden, width, experts),
        "ffn_down_exps.weight": (width, hidden, experts),
    }
    if shape.router_bias:
        parts["exp_probs_b.bias"] = (experts,)
    if shape.arch == "gpt-oss":
        parts["ffn_gate_inp.bias"] = (experts,)
        parts |= {f"ffn_{name}_exps.bias": (width, experts) for name in ("gate", "up")}
        parts["ffn_down_exps.bias"] = (hidden, experts)
    if shared := shape.shared_feed_forward:
        parts |= {"ffn_gate_shexp.weight": (hidden, shared), "ffn_up_shexp.weight": (hidden, shared)}
        parts["ffn_down_shexp.weight"] = (shared, hidden)
        if shape.arch in _SHARED_GATE:
            parts["ffn_gate_inp_shexp.weight"] = (hidden,)
    return parts


def _prediction(shape: Shape) -> Parts:
    """Return what a block that predicts a further token has beside a layer's tensors (GLM-4.5)."""
    hidden = shape.hidden
    return {
        "nextn.eh_proj.weight": (2 * hidden, hidden),
        "nextn.embed_tokens.weight": (hidden, shape.vocabulary),
        "nextn.shared_head_head.weight": (hidden, shape.vocabulary),
        **{f"nextn.{name}.weight": (hidden,) for name in ("enorm", "hnorm", "shared_head_norm")},
    }
