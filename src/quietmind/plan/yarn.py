"""YaRN: how far a model's rotary position embedding is stretched to reach past its native context.

Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (arXiv 2309.00071).
"""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.base.errors import UsageError
from quietmind.model.card import ModelCard
from quietmind.plan.kv import padded

# The first Qwen3 generation writes 40,960 into its files: 32,768 it was trained on, and room for an answer. Its model
# cards give factors relative to 32,768 (Qwen/Qwen3-32B, README: "original_max_position_embeddings": 32768).
_DOCUMENTED = {("qwen3", 40_960): 32_768, ("qwen3moe", 40_960): 32_768}

# The largest factor that makers document for a model that was not trained with one: Qwen, of Qwen2.5 and Qwen3
# (Qwen/Qwen3-32B, README: "factor": 4.0, validated to 131,072). With training, the authors of YaRN reach 32.
UNTRAINED_FACTOR = 4.0
# The longest stretch of any rotary embedding that was published, and that with training: LongRoPE, 4,096 to 2,097,152
# tokens (Ding et al., arXiv 2402.13753).
LARGEST_FACTOR = 512


@dataclass(frozen=True)
class Yarn:
    """``factor`` is the target context over ``original``, the context that the model was trained on, in tokens.

    ``known`` is the largest factor at which anybody says that it works: of the model's own training, else what makers
    document without any. 1.0 where the model was trained with another scaling, on top of which nothing is published.
    """

    factor: float
    original: int
    known: float = UNTRAINED_FACTOR


def documented_context(card: ModelCard) -> int:
    """Return the context that the makers of ``card`` promise: the native one, or less."""
    return card.documented_context or _DOCUMENTED.get((card.arch, card.native_context), card.native_context)


def yarn_for(card: ModelCard, context: int) -> Yarn | None:
    """Return what a context of ``context`` tokens takes of YaRN, None where it is within the native one.

    Raises UsageError past LARGEST_FACTOR.
    """
    if context <= padded(card.native_context):
        return None
    rope = card.rope
    trained = rope if rope is not None and rope.scaling == "yarn" else None
    known = UNTRAINED_FACTOR if rope is None or rope.scaling is None else 1.0
    if trained is not None:
        known = max(UNTRAINED_FACTOR, trained.factor or 0.0)
    stated = trained.original_context if trained is not None else None
    original = stated or documented_context(card)
    factor = max(1.0, context / original)
    if factor > LARGEST_FACTOR:
        raise UsageError(
            f"a context of {context:,} is {factor:,.0f} times the {original:,} that {card.name} was trained on, and "
            f"nothing published reaches past {LARGEST_FACTOR} times; give at most {LARGEST_FACTOR * original:,}"
        )
    return Yarn(factor, original, known)
