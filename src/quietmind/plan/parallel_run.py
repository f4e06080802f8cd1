"""What an engine that shards is told, settled: the input of its flags and warnings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quietmind.model.card import ModelCard
from quietmind.plan.parallel_ledger import Sharding, Share
from quietmind.plan.yarn import Yarn

# Architectures whose configuration keeps the language model's numbers in a part of its own (text_config).
_NESTED = frozenset({"qwen35", "qwen35moe", "gemma3", "llama4"})


@dataclass(frozen=True)
class ShardedRun:
    """``each`` is what every GPU of a node holds. ``experts_used`` and ``yarn`` are None where nothing is overridden.

    ``gpu_memory`` and ``gpu_free`` are bytes of one of the equal GPUs, None where the machine does not say.
    """

    sharding: Sharding
    kv_type: str
    experts_used: int | None
    yarn: Yarn | None
    gpu_memory: int | None
    gpu_free: int | None
    each: tuple[Share, ...]


def served_path(card: ModelCard) -> str:
    """Return what an engine of safetensors is pointed to: the folder of a checkpoint, or a model's name."""
    path: Path = card.path
    return str(path.parent if card.exact and path.suffix in (".safetensors", ".json") else path)


def config_overrides(card: ModelCard, run: ShardedRun) -> str | None:
    """Return as JSON what a checkpoint's config.json is overridden with, None where it holds as it is.

    YaRN in the form of transformers 5, which both engines read: ``rope_parameters`` stands for the old ``rope_scaling``
    and carries theta too, and ``max_position_embeddings`` is the stretched length, which ``factor`` is not applied to
    again (config/model.py of vLLM, _get_and_verify_max_len).
    """
    overrides: dict[str, Any] = {}
    if run.experts_used is not None:
        overrides["num_experts_per_tok"] = run.experts_used
    if run.yarn is not None:
        rope: dict[str, Any] = {
            "rope_type": "yarn",
            "factor": run.yarn.factor,
            "original_max_position_embeddings": run.yarn.original,
        }
        if card.rope is not None:
            rope["rope_theta"] = card.rope.base
            if card.latent is None and card.rope.dimensions != card.key_length:
                rope["partial_rotary_factor"] = card.rope.dimensions / card.key_length
        overrides["max_position_embeddings"] = run.sharding.context
        overrides["rope_parameters"] = rope
    if not overrides:
        return None
    return json.dumps({"text_config": overrides} if card.arch in _NESTED else overrides, separators=(",", ":"))
