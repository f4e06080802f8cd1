"""YaRN: how far a model's rotary position embedding is stretched to reach past its native context.

Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (arXiv 2309.00071).
"""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.model.card import ModelCard
from quietmind.plan.kv import padded

# The first Qwen3 generation writes 40,960 into its files: 32,768 it was trained on, and room for an answer. Its model
# cards give factors relative to 32,768 (Qwen/Qwen3-32B, README: "original_max_position_embeddings": 32768).
_TRAINED_CONTEXT = {("qwen3", 40_960): 32_768, ("qwen3moe", 40_960): 32_768}


@dataclass(frozen=True)
class Yarn:
    """``factor`` is the target context over ``original``, the context that the model was trained on, in tokens."""

    factor: float
    original: int


def yarn_for(card: ModelCard, context: int) -> Yarn | None:
    """Return what a context of ``context`` tokens takes of YaRN, None where it is within the native one."""
    if context <= padded(card.native_context):
        return None
    stated = card.rope.original_context if card.rope else None
    original = stated or _TRAINED_CONTEXT.get((card.arch, card.native_context), card.native_context)
    return Yarn(factor=max(1.0, context / original), original=original)
