"""How many experts at work llama.cpp has room for: its graph may hold only so many steps, fixed before it is built.

Past it the engine ends at its start, on GGML_ASSERT(obj_new) or on a full hash set, and takes its server with it.
"""

from __future__ import annotations

from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.ask import Run
from quietmind.plan.graph_build import ROTATION

# Steps of a layer beside those of its experts: the least number that explains every start and every abort of the engine
# (xllamacpp 2026.10, 20 and 48 layers, 1 to 64 experts at work), rounded up. Hybrids have room for any number.
_LAYER_STEPS = {
    "llama": 46,
    "mistral3": 46,
    "qwen3moe": 49,
    "qwen2moe": 52,
    "gpt-oss": 50,
    "glm4moe": 50,
    "deepseek2": 76,
}
_WITHOUT_FLASH = 6
_ROTATION_STEPS = 14  # of queries, keys, values and what attention returns, around a quantized cache
_EXPERT_STEPS = 2  # each expert's share is cut out and added (build_moe_ffn in src/llama-graph.cpp)
_OUTSIDE = 32  # embedding, inputs, output
_CACHE_TENSORS = 2  # K and V of a layer

# llama_context::graph_max_nodes in src/llama-context.cpp
_LEAST_NODES, _NODES_PER_TENSOR = 1024, 8
_HASH_SIZES = (1031, 2053, 4099, 8209, 16_411, 32_771, 65_537)  # ggml_hash_size in ggml/src/ggml.c


def most_experts(card: ModelCard, run: Run) -> int | None:
    """Return the largest number of experts at work that surely starts; None where nothing is known to limit it.

    One to three more may start as well: what a layer takes is known within so much.
    """
    each = _LAYER_STEPS.get(card.arch)
    mixtures = sum(tensor.name.endswith("ffn_down_exps.weight") for tensor in card.tensors)
    if each is None or not mixtures:
        return None
    each += 0 if run.flash_attention else _WITHOUT_FLASH
    rotated = run.kind.block > 1 and LayerKind.LATENT not in card.layer_kinds and card.key_length % ROTATION == 0
    each += _ROTATION_STEPS if rotated else 0
    tensors = len(card.tensors)
    room = max(_LEAST_NODES, _NODES_PER_TENSOR * tensors)
    hashed = next((size for size in _HASH_SIZES if size >= room), room)
    steps = min(room, hashed - tensors - _CACHE_TENSORS * card.layers)  # the hash set holds what steps read as well
    return max(1, (steps - _OUTSIDE - each * card.layers) // (_EXPERT_STEPS * mixtures))
