"""What runs at the address, described as Ollama describes its models: /api/tags, /api/ps and /api/show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from quietmind.serve.embeddings import embedder_name
from quietmind.serve.served import Served
from quietmind.workspace.attempt import PlannedAttempt

if TYPE_CHECKING:
    from quietmind.workspace.launch import Start

# Models are not unloaded while nobody asks; clients read a time here, so it is one that does not come.
_NEVER = "2999-12-31T00:00:00Z"

# Words by which a chat template shows that it tells a model of tools, or has it think first.
_TOOLS, _THINKING = ("tools",), ("enable_thinking", "reasoning_effort", "<think>")

Described = Mapping[str, Any]  # as GET /v1/models has it


def tags(served: Served, models: Sequence[Described]) -> dict[str, Any]:
    """Return the list of all models: those that run, the notes, and what embeds."""
    return {"models": [_summary(served, model) for model in models]}


def running(served: Served, models: Sequence[Described]) -> dict[str, Any]:
    """Return the list of the models that are in memory, with what they take of accelerators."""
    there = [(model, start) for model in models if (start := _start(served, model)) is not None]
    return {
        "models": [
            {
                **_summary(served, model),
                "size": sum(use.needed_bytes for use in start.plan.devices),
                "size_vram": sum(use.needed_bytes for use in start.plan.devices if use.device not in ("cpu", "disk")),
                "context_length": model.get("max_model_len") or start.plan.context,
                "expires_at": _NEVER,
            }
            for model, start in there
        ]
    }


def shown(served: Served, model: Described) -> dict[str, Any]:
    """Return what is known of one model; its context is the one it runs with, not the largest it could."""
    start = _start(served, model)
    context = model.get("max_model_len")
    arch = "quietmind" if start is None else start.card.arch
    info: dict[str, Any] = {"general.architecture": arch}
    if context is not None:
        info[f"{arch}.context_length"] = context
    if start is not None:
        card = start.card
        info |= {
            "general.parameter_count": card.parameters,
            f"{arch}.block_count": card.layers,
            f"{arch}.embedding_length": card.hidden,
            f"{arch}.attention.head_count": card.heads,
            f"{arch}.attention.head_count_kv": max(card.kv_heads, default=0),
        }
    return {
        "modelfile": "",
        "parameters": "" if context is None else f"num_ctx {context}",
        "template": (start.card.chat_template or "") if start is not None else "",
        "details": _details(start),
        "model_info": info,
        "capabilities": _capabilities(start) if model["id"] != embedder_name(served.archive) else ["embedding"],
        "modified_at": _modified(served, start),
    }


def _summary(served: Served, model: Described) -> dict[str, Any]:
    start, name = _start(served, model), model["id"]
    entry = {
        "name": name,
        "model": name,
        "modified_at": _modified(served, start),
        "size": 0 if start is None else start.card.file_bytes,
        "details": _details(start),
    }
    # Ollama's is the checksum of its own record of the model; so is this one.
    return {**entry, "digest": hashlib.sha256(json.dumps(entry).encode("ascii")).hexdigest()}


def _start(served: Served, model: Described) -> Start | None:
    """Return how a model was started, which may be smaller than planned; None where it is not known or no engine's."""
    attempts = (lane.supervised.attempt for lane in served.lanes if lane.name == model["id"])
    return next((attempt.run for attempt in attempts if isinstance(attempt, PlannedAttempt)), None)


def _details(start: Start | None) -> dict[str, Any]:
    if start is None:
        return {
            "parent_model": "",
            "format": "",
            "family": "quietmind",
            "families": ["quietmind"],
            "parameter_size": "",
            "quantization_level": "",
        }
    card = start.card
    return {
        "parent_model": "",
        "format": "gguf" if card.path.suffix == ".gguf" else "safetensors",
        "family": card.arch,
        "families": [card.arch],
        "parameter_size": _size(card.parameters),
        "quantization_level": card.quantization or "",
    }


def _size(parameters: int) -> str:
    """Return a number of parameters as Ollama writes it: ``134.5M``, ``30.5B``."""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _capabilities(start: Start | None) -> list[str]:
    """Return what a model that answers can do, as far as its chat template shows it."""
    template = (start.card.chat_template or "") if start is not None else ""
    can = ["completion"]
    can += ["tools"] if any(word in template for word in _TOOLS) else []
    can += ["thinking"] if any(word in template for word in _THINKING) else []
    return can


def _modified(served: Served, start: Start | None) -> str:
    """Return when the weights were written, or else when the program began."""
    seconds: float = served.began
    if start is not None:
        with suppress(OSError):
            seconds = start.card.path.stat().st_mtime
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
