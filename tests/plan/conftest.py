"""Cards and machines for plans, made from numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.ggml_types import BY_NAME

GIB = 1 << 30


def tensor(name: str, *shape: int, kind: str = "q8_0") -> Tensor:
    rows = 1
    for extent in shape[1:]:
        rows *= extent
    return Tensor(name, shape, kind, BY_NAME[kind].row_bytes(shape[0]) * rows)


def make_card(**changes: Any) -> ModelCard:
    """Return a dense model like Qwen3-0.6B; ``changes`` are fields of the card."""
    facts: dict[str, Any] = {
        "name": "Small",
        "path": Path("small.gguf"),
        "arch": "qwen3",
        "layers": 4,
        "hidden": 1024,
        "heads": 16,
        "key_length": 128,
        "value_length": 128,
        "feed_forward": 3072,
        "vocabulary": 1000,
        "native_context": 40_960,
        "sliding_window": None,
        "experts": 0,
        "experts_used": 0,
        "file_bytes": 1,
    }
    facts |= {key: value for key, value in changes.items() if key in facts}
    layers = facts["layers"]
    facts["kv_heads"] = changes.get("kv_heads", (8,) * layers)
    facts["layer_kinds"] = changes.get("layer_kinds", (LayerKind.FULL,) * layers)
    tensors = [tensor("token_embd.weight", 1024, 1000), tensor("output_norm.weight", 1024, kind="f32")]
    for layer in range(layers):
        tensors += [
            tensor(f"blk.{layer}.attn_q.weight", 1024, 2048),
            tensor(f"blk.{layer}.ffn_gate.weight", 1024, 3072),
            tensor(f"blk.{layer}.ffn_up.weight", 1024, 3072),
        ]
    facts["tensors"] = changes.get("tensors", tuple(tensors))
    facts |= {key: value for key, value in changes.items() if key not in facts}
    return ModelCard(**facts)


def make_machine(memory: int | None = 16 * GIB, free: int | None = 12 * GIB, **host: Any) -> Machine:
    cpu = Device("cpu", "Some CPU", memory, free)
    return Machine("here", (cpu, *host.pop("gpus", ())), (), Host("Linux", "Some CPU", **{"usable_cores": 6} | host))


@pytest.fixture(scope="session")
def card_of() -> Callable[..., ModelCard]:
    return make_card


@pytest.fixture(scope="session")
def machine_of() -> Callable[..., Machine]:
    return make_machine
