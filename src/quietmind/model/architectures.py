"""Which architectures are understood, and how their metadata becomes a ModelCard. Everything else is refused by name.

The keys and their defaults follow the GGUF specification (ggml/docs/gguf.md) and, for attention windows, what
llama.cpp does with each architecture (src/models/*.cpp, autumn 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import ModelFileDamaged, ModelNotUnderstood
from quietmind.base.paths import shown_path
from quietmind.model.card import LayerKind, ModelCard, Rope, Tensor
from quietmind.model.ggml_types import FILE_TYPES


@dataclass(frozen=True)
class Architecture:
    """What the metadata of an architecture leaves unsaid.

    ``head_size_from_hidden``: a missing key length means hidden size / heads. The specification defines that default,
    but the families that chose their own head size always write it, and there a missing key is damage.
    ``window_period``: every n-th layer attends in full and the others through the sliding window; None when all
    layers attend in full, even if the file names a window (llama.cpp ignores it for these).
    """

    head_size_from_hidden: bool = True
    window_period: int | None = None
    window: int | None = None  # the window where the file names none


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),  # and Mistral, Mixtral, SmolLM: their conversions carry this name
    "qwen2": Architecture(),
    "qwen2moe": Architecture(),
    "qwen3": Architecture(head_size_from_hidden=False),
    "qwen3moe": Architecture(head_size_from_hidden=False),
    "gemma": Architecture(head_size_from_hidden=False),
    "gemma2": Architecture(head_size_from_hidden=False, window_period=2, window=4096),
    "gemma3": Architecture(head_size_from_hidden=False, window_period=6),
    "phi3": Architecture(),  # its window is switched off in llama.cpp
}

_LARGEST = 1 << 31  # no count or width of a model comes near


def card_from(
    metadata: Mapping[str, object], tensors: tuple[Tensor, ...], files: tuple[Path, ...], file_bytes: int
) -> ModelCard:
    """Return the card of a model with this metadata and these tensors.

    Raises ModelNotUnderstood for an architecture that is not in ARCHITECTURES, ModelFileDamaged where a key is
    missing, makes no sense, or contradicts the tensors.
    """
    facts = _Facts(metadata, files[0])
    arch = facts.text("general.architecture")
    if arch is None:
        raise facts.damaged("names no architecture (general.architecture); it is not a language model's file")
    traits = ARCHITECTURES.get(arch)
    if traits is None:
        shown = arch if arch.isprintable() and len(arch) <= 64 else ascii(arch[:64])
        raise ModelNotUnderstood(
            f"{shown_path(files[0])}: the architecture {shown} is not understood yet; "
            f"understood are {', '.join(sorted(ARCHITECTURES))}"
        )
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    layers = facts.count(f"{arch}.block_count")
    if layers > len(tensors):  # before anything is made that has one entry a layer
        raise facts.damaged(f"promises {layers:,} layers but holds {len(tensors):,} tensors; fetch it again")
    hidden = facts.count(f"{arch}.embedding_length")
    heads = facts.per_layer(f"{arch}.attention.head_count", layers)
    if len(set(heads)) != 1 or heads[0] == 0:
        raise ModelNotUnderstood(f"{shown_path(files[0])}: its layers have different numbers of query heads")
    key_length, value_length = _head_sizes(facts, arch, traits, hidden, heads[0])
    window, kinds = _windows(facts, arch, traits, layers)
    experts = facts.count(f"{arch}.expert_count", default=0)
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2 or embedding[0] != hidden:
        raise facts.damaged(f"holds no token_embd.weight of width {hidden:,}; fetch it again")
    card = ModelCard(
        name=facts.text("general.name") or files[0].stem,
        path=files[0],
        arch=arch,
        layers=layers,
        hidden=hidden,
        heads=heads[0],
        kv_heads=facts.per_layer(f"{arch}.attention.head_count_kv", layers, default=heads[0]),
        key_length=key_length,
        value_length=value_length,
        feed_forward=max(facts.per_layer(f"{arch}.feed_forward_length", layers, default=0 if experts else None)),
        vocabulary=embedding[1],
        native_context=facts.count(f"{arch}.context_length"),
        layer_kinds=kinds,
        sliding_window=window,
        experts=experts,
        experts_used=facts.count(f"{arch}.expert_used_count", default=None if experts else 0),
        tensors=tensors,
        file_bytes=file_bytes,
        expert_feed_forward=_width(shapes, "ffn_up_exps", 1),
        shared_feed_forward=_width(shapes, "ffn_up_shexp", 1),
        rope=_rope(facts, arch, key_length),
        quantization=_quantization(facts, tensors),
        tokenizer=facts.text("tokenizer.ggml.model"),
        chat_template=facts.text("tokenizer.chat_template"),
        files=files,
    )
    _refuse_contradictions(card, shapes, facts)
    return card


def _head_sizes(facts: _Facts, arch: str, traits: Architecture, hidden: int, heads: int) -> tuple[int, int]:
    default = None
    if traits.head_size_from_hidden and hidden % heads == 0:
        default = hidden // heads
    return (
        facts.count(f"{arch}.attention.key_length", default=default),
        facts.count(f"{arch}.attention.value_length", default=default),
    )


def _windows(facts: _Facts, arch: str, traits: Architecture, layers: int) -> tuple[int | None, tuple[LayerKind, ...]]:
    """Return the sliding window in tokens (None: there is none) and how each layer attends."""
    full = (LayerKind.FULL,) * layers
    if traits.window_period is None:
        return None, full
    window = facts.count(f"{arch}.attention.sliding_window", default=traits.window or 0)
    if window == 0:
        return None, full
    key = f"{arch}.attention.sliding_window_pattern"
    pattern = facts.get(key)
    if isinstance(pattern, tuple):
        if len(pattern) != layers or not all(isinstance(slides, bool) for slides in pattern):
            raise facts.damaged(f"{key} does not say of each of {layers} layers whether it slides; fetch it again")
        slides = tuple(bool(flag) for flag in pattern)
    else:
        period = facts.count(key, default=traits.window_period) or traits.window_period
        slides = tuple(layer % period < period - 1 for layer in range(layers))
    return window, tuple(LayerKind.SLIDING if flag else LayerKind.FULL for flag in slides)


def _rope(facts: _Facts, arch: str, key_length: int) -> Rope:
    scaling = facts.text(f"{arch}.rope.scaling.type")
    return Rope(
        base=facts.number(f"{arch}.rope.freq_base", 10000.0),
        dimensions=facts.count(f"{arch}.rope.dimension_count", default=key_length),
        scaling=None if scaling == "none" else scaling,
        factor=facts.number(f"{arch}.rope.scaling.factor", 0.0) or None,
        original_context=facts.count(f"{arch}.rope.scaling.original_context_length", default=0) or None,
    )


def _quantization(facts: _Facts, tensors: tuple[Tensor, ...]) -> str:
    """Return the recipe's name, or the type that most bytes are of where the file does not name a known recipe."""
    named = FILE_TYPES.get(facts.count("general.file_type", default=-1))
    if named is not None:
        return named
    totals: dict[str, int] = {}
    for tensor in tensors:
        totals[tensor.type] = totals.get(tensor.type, 0) + tensor.bytes
    return max(totals, key=lambda kind: totals[kind]).upper()


def _width(shapes: Mapping[str, tuple[int, ...]], part: str, dimension: int) -> int:
    """Return an extent of the first layer's tensor of that part, 0 where no layer has one."""
    for name, shape in shapes.items():
        if name.startswith("blk.") and name.endswith(f".{part}.weight") and len(shape) > dimension:
            return shape[dimension]
    return 0


def _refuse_contradictions(card: ModelCard, shapes: Mapping[str, tuple[int, ...]], facts: _Facts) -> None:
    """Compare what the metadata says with what the tensors are, for every number that a plan multiplies by."""
    for layer, kv_heads in enumerate(card.kv_heads):
        if kv_heads > card.heads:
            raise facts.damaged(f"layer {layer} has more KV heads ({kv_heads:,}) than heads ({card.heads:,})")
        expected = {
            "attn_q": card.heads * card.key_length,
            "attn_k": kv_heads * card.key_length,
            "attn_v": kv_heads * card.value_length,
            "attn_qkv": (card.heads + kv_heads) * card.key_length + kv_heads * card.value_length,
        }
        found = [name for name in expected if f"blk.{layer}.{name}.weight" in shapes]
        if not found and kv_heads:
            raise facts.damaged(f"layer {layer} of {card.layers} has no attention tensors; fetch it again")
        for name in found:
            shape = shapes[f"blk.{layer}.{name}.weight"]
            if len(shape) != 2 or shape[1] != expected[name]:
                raise facts.damaged(
                    f"tensor blk.{layer}.{name}.weight has {shape[-1]:,} rows where the metadata asks for "
                    f"{expected[name]:,}; fetch it again"
                )
    if card.experts and not 0 < card.experts_used <= card.experts:
        raise facts.damaged(f"uses {card.experts_used:,} of {card.experts:,} experts; fetch it again")
    if card.experts and _width(shapes, "ffn_up_exps", 2) != card.experts:
        raise facts.damaged(f"promises {card.experts:,} experts that its tensors do not hold; fetch it again")


class _Facts:
    """The metadata of a file, asked by key. A value of the wrong kind is damage."""

    def __init__(self, metadata: Mapping[str, object], path: Path) -> None:
        self._metadata = metadata
        self._path = path

    def damaged(self, what: str) -> ModelFileDamaged:
        return ModelFileDamaged(f"{shown_path(self._path)}: {what}")

    def get(self, key: str) -> object:
        return self._metadata.get(key)

    def text(self, key: str) -> str | None:
        value = self._metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self.damaged(f"metadata {key} is not a text; fetch it again")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number from 0 (from 1 where the key has no default) up; ``default`` if it is missing."""
        value = self._metadata.get(key, default)
        if value is None:
            raise self.damaged(f"lacks the metadata {key}; fetch another conversion of the model")
        if value == default and key not in self._metadata:
            return int(default or 0)
        least = 1 if default is None else 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _LARGEST:
            raise self.damaged(f"metadata {key} is not a number that a model could have; fetch it again")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._metadata.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise self.damaged(f"metadata {key} is not a number that a model could have; fetch it again")
        return float(value)

    def per_layer(self, key: str, layers: int, default: int | None = None) -> tuple[int, ...]:
        """Return one count a layer, from an array or from one number for all."""
        value = self._metadata.get(key)
        if not isinstance(value, tuple):
            return (self.count(key, default),) * layers
        if len(value) != layers:
            raise self.damaged(f"metadata {key} has {len(value):,} entries for {layers:,} layers; fetch it again")
        if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < _LARGEST for item in value):
            raise self.damaged(f"metadata {key} holds a number that no model could have; fetch it again")
        return tuple(int(item) for item in value)
