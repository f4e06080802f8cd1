"""What a configuration says of a model: the numbers from which every tensor and every byte follows."""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.model.card import Latent, LayerKind, Recurrent, Rope


@dataclass(frozen=True)
class DeltaNet:
    """A gated delta net, the linear attention of Qwen3-Next and Qwen3.5: heads, their lengths, the convolution.

    Keys and values are equally long, which is all that GGUF can say.
    """

    key_heads: int
    value_heads: int
    head_length: int
    kernel: int

    @property
    def keys(self) -> int:
        """Width of all keys, and of all queries."""
        return self.key_heads * self.head_length

    @property
    def values(self) -> int:
        """Width of all values."""
        return self.value_heads * self.head_length

    @property
    def channels(self) -> int:
        """Width of queries, keys and values together: what the convolution runs over."""
        return 2 * self.keys + self.values

    @property
    def state(self) -> Recurrent:
        """Return what a layer keeps for each sequence."""
        return Recurrent(
            state_elements=self.head_length * self.values,
            convolution_elements=(self.kernel - 1) * self.channels,
        )


@dataclass(frozen=True)
class Stored:
    """How the weights beside a configuration are quantized (``quantization_config``).

    ``method`` is the format's own name: gptq, awq, fp8, mxfp4. ``group`` consecutive elements of a column share a
    scale (0: the whole column does); ``block`` is a block of an FP8 matrix that shares one, rows and columns.
    """

    method: str
    bits: int
    group: int = 0
    block: tuple[int, int] | None = None


@dataclass(frozen=True)
class Shape:
    """A model without its weights. ``arch`` is GGUF's name of the architecture; other fields are ModelCard's.

    ``dense_layers`` first layers have no experts. ``prediction_layers`` blocks beyond ``layers`` stand in a GGUF file
    and are not loaded. ``bias``: queries, keys and values have one. ``output_bias``: attention's output has one.
    ``query_key_norm``: heads are normalized. ``router_bias``: the router corrects its scores by one.
    ``rope_tensors``: how many tensors of RoPE factors a GGUF file holds.
    """

    name: str
    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    feed_forward: int
    vocabulary: int
    native_context: int
    layer_kinds: tuple[LayerKind, ...]
    sliding_window: int | None = None
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 0
    shared_feed_forward: int = 0
    dense_layers: int = 0
    prediction_layers: int = 0
    tied: bool = False
    bias: bool = False
    output_bias: bool = False
    query_key_norm: bool = False
    router_bias: bool = False
    rope_tensors: int = 0
    rope: Rope | None = None
    latent: Latent | None = None
    delta: DeltaNet | None = None
    stored: Stored | None = None
