"""The record of a model: its shape, and an exact table of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
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
class Rope:
    """Rotary position embedding as the file states it. ``scaling`` is None where the file asks for none."""

    base: float
    dimensions: int
    scaling: str | None = None
    factor: float | None = None
    original_context: int | None = None


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek V2 and later): one compressed row a token stands for all heads' K and V.

    The cache keeps ``kv_rank + rope_length`` elements a token and layer. ``query_rank`` is 0 where queries are not
    compressed.
    """

    kv_rank: int
    rope_length: int
    query_rank: int = 0


@dataclass(frozen=True)
class Recurrent:
    """What a linear-attention or state-space layer keeps, whatever the context: elements for each sequence and layer.

    ``state_elements`` of the recurrent state and ``convolution_elements`` of the short convolution's last inputs.
    """

    state_elements: int
    convolution_elements: int


@dataclass(frozen=True)
class Router:
    """How experts are chosen, as the file states it; architectures that do not ask are not bound by it.

    ``normalized``: the weights of the chosen experts are divided by their sum. ``scale``: what they are multiplied by
    (0 and 1: not at all). ``groups`` of experts: only those of the best ``groups_used`` are chosen from.
    """

    normalized: bool = False
    scale: float = 0.0
    groups: int = 0
    groups_used: int = 0


@dataclass(frozen=True)
class ModelCard:
    """What the plan needs to know of a model. Counts are per model, dimensions in elements.

    ``key_length`` and ``value_length`` are per head and are fields of their own: hidden size divided by heads is
    wrong for many models. ``kv_heads`` has one entry a layer, ``layer_kinds`` likewise. ``feed_forward`` is the
    width of a dense layer's feed-forward part, ``expert_feed_forward`` of one routed expert, and
    ``shared_feed_forward`` of the expert that every token visits; each is 0 where the model has no such part.
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
    expert_feed_forward: int = 0
    shared_feed_forward: int = 0
    rope: Rope | None = None
    quantization: str | None = None  # the recipe's name, "Q4_K_M"
    tokenizer: str | None = None  # the family: "gpt2" is byte-level BPE, "llama" is SentencePiece
    chat_template: str | None = None
    files: tuple[Path, ...] = ()  # every part of a split model, in order; ``path`` is the first
    latent: Latent | None = None  # of the layers of kind LATENT
    recurrent: Recurrent | None = None  # of the layers of kind LINEAR
    router: Router | None = None  # None where nothing says it
    scaled_queries: bool = False  # whether queries are scaled by their position
    documented_context: int | None = None  # promised by the makers, where it is less than the native one
    basis: str = ""  # what the numbers rest on, where they are not the model's own
    exact: bool = True  # whether ``tensors`` was read from weights; False: derived from a configuration

    @cached_property
    def weight_bytes(self) -> int:
        """Sum of the tensor table: the bytes of weights alone, without headers and padding."""
        return sum(tensor.bytes for tensor in self.tensors)

    @cached_property
    def parameters(self) -> int:
        """Number of weights, all experts counted."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @cached_property
    def tied_output(self) -> bool:
        """Whether the output projection is the token embedding, stored once."""
        return all(tensor.name != "output.weight" for tensor in self.tensors)
