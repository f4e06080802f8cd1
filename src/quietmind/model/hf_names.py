"""From the names of tensors in Hugging Face checkpoints to GGUF's, so that one rule says what a tensor is for.

Source: gguf-py/gguf/tensor_mapping.py of llama.cpp and the modelling files of transformers, autumn 2026.
"""

from __future__ import annotations

import re

_LAYER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d{1,6})\.(.+)", re.DOTALL)
_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d{1,6})\.(.+)", re.DOTALL)
_ENDS = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PREFIX = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?")

# What stands beside a packed matrix; all of it is counted to the matrix.
_PIECES = (
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_shape",
    "weight_scale_inv",
    "weight_scale",
    "weight_zero_point",
    "weight_g_idx",
    "input_scale",
)

_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.sinks": "attn_sinks",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
_EXPERT_PARTS = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
# Whole names below a layer: parameters without a ".weight", and experts in one tensor.
_WHOLE = {
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A_log": "ssm_a",
    "self_attn.sinks": "attn_sinks.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    **{
        f"mlp.experts.{theirs}{end}": f"{ours}.{kind}"
        for theirs, ours in (("gate_up_proj", "ffn_gate_up_exps"), ("down_proj", "ffn_down_exps"))
        for end, kind in (("", "weight"), ("_blocks", "weight"), ("_scales", "weight"), ("_bias", "bias"))
    },
}
# Families whose norm between attention and feed-forward GGUF calls by the former, and those with four norms a layer.
_POST_NORM = frozenset({"gpt-oss", "glm4moe", "qwen3next", "qwen35", "qwen35moe", "gemma2", "gemma3"})


def gguf_name(name: str, arch: str) -> tuple[str, int]:
    """Return GGUF's name for a tensor of a checkpoint of GGUF's architecture ``arch``, and which expert it is of.

    The expert is -1 where the tensor is of none or of all. Scales and zeros are called by their matrix. Names that
    have no counterpart (a vision tower, blocks for predicting further tokens) are returned as they are.
    """
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return _ENDS.get(_unpacked(_PREFIX.sub("", name)), name), -1
    block, rest = f"blk.{int(layer[1])}", layer[2]
    if rest in _WHOLE:
        return f"{block}.{_WHOLE[rest]}", -1
    part, _, kind = _unpacked(rest).rpartition(".")
    expert = _EXPERT.fullmatch(part)
    if expert is not None:
        known = _EXPERT_PARTS.get(expert[2])
        return (f"{block}.{known}.{kind}", int(expert[1])) if known else (name, -1)
    if part == "post_attention_layernorm" and arch in _POST_NORM:
        return f"{block}.post_attention_norm.{kind}", -1
    return (f"{block}.{_PARTS[part]}.{kind}" if part in _PARTS else name), -1


def _unpacked(name: str) -> str:
    """Return the name of the matrix that a packed piece belongs to; other names as they are."""
    part, dot, kind = name.rpartition(".")
    return f"{part}{dot}weight" if kind in _PIECES else name
