"""What a checkpoint's own configuration is overridden with, for engines that read safetensors."""

from __future__ import annotations

import json
from typing import Any

from quietmind.base.errors import UsageError
from quietmind.model.card import ModelCard
from quietmind.plan.yarn import Yarn

# Architectures whose configuration keeps the language model's numbers in a part of its own (text_config).
_NESTED = frozenset({"qwen35", "qwen35moe", "gemma3", "llama4"})
# Whose layers with windows turn by another theta than the others (rope_parameters by kind of layer).
_TWO_KINDS = frozenset({"gemma3"})


def served_path(card: ModelCard) -> str:
    """Return what an engine of safetensors is pointed to: the folder of a checkpoint, or a model's name."""
    path = card.path
    return str(path.parent if card.exact and path.suffix in (".safetensors", ".json") else path)


def config_overrides(card: ModelCard, context: int, experts_used: int | None, yarn: Yarn | None) -> str | None:
    """Return as JSON what config.json is overridden with, None where it holds as it is.

    YaRN in the form of transformers 5, which all of these engines read: ``rope_parameters`` stands for the old
    ``rope_scaling`` and carries theta too, and ``max_position_embeddings`` is the stretched length, which ``factor`` is
    not applied to again (config/model.py of vLLM 0.33, _get_and_verify_max_len). Raises UsageError for a model whose
    own scaling such an override would lose.
    """
    overrides: dict[str, Any] = {}
    if experts_used is not None:
        overrides["num_experts_per_tok"] = experts_used
    if yarn is not None:
        if card.arch in _TWO_KINDS or (card.rope is not None and card.rope.scaling is not None):
            raise UsageError(
                f"{card.name}: its configuration already scales positions in a way that an override would lose; stay "
                f"within its {card.native_context:,} tokens, or plan with --engine llama-server"
            )
        rope: dict[str, Any] = {
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original,
        }
        if card.rope is not None:
            rope["rope_theta"] = card.rope.base
            if card.latent is None and card.rope.dimensions != card.key_length:
                rope["partial_rotary_factor"] = card.rope.dimensions / card.key_length
        overrides["max_position_embeddings"] = context
        overrides["rope_parameters"] = rope
    if not overrides:
        return None
    return json.dumps({"text_config": overrides} if card.arch in _NESTED else overrides, separators=(",", ":"))
