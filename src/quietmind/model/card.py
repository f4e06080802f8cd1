"""The record of a model: its shape, and an exact table of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class LayerKind(StrEnum):
    """How a layer attends, which decides what it keeps in the KV cache."""

    FULL = "full"
    SLIDING = "sliding"
    LATENT = "latent"
    LINEAR = "linear"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a weights file. ``shape`` has the fastest-running dimension first, as GGUF stores it."""

    name: str
    shape: tuple[int, ...]
    type: str  # the format's own name: "f16", "q4_k", ...
    bytes: int


@dataclass(frozen=True)
class ModelCard:
    """What the plan needs to know of a model. Counts are per model, dimensions in elements.

    ``key_length`` and ``value_length`` are per head and are fields of their own: hidden size divided by heads is
    wrong for many models. ``kv_heads`` has one entry a layer, ``layer_kinds`` likewise.
    """

    name: str
    path: Path
    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    feed_forward: int
    vocabulary: int
    native_context: int
    layer_kinds: tuple[LayerKind, ...]
    sliding_window: int | None
    experts: int
    experts_used: int
    tensors: tuple[Tensor, ...]
    file_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Sum of the tensor table: the bytes of weights alone, without headers and padding."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Number of weights, all experts counted."""
        total = 0
        for tensor in self.tensors:
            elements = 1
            for extent in tensor.shape:
                elements *= extent
            total += elements
        return total
