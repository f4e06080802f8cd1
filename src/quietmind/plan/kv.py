"""The KV cache: which rows it keeps and what they take, as llama.cpp allocates it.

Source: llama-kv-cache.cpp, llama-kv-cache-iswa.cpp and llama-memory-recurrent.cpp of llama.cpp, autumn 2026. Checked
against the engine's own accounting to the byte; see benchmarks/plan_accuracy.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.model.card import LayerKind, ModelCard
from quietmind.model.ggml_types import BY_NAME, GgmlType

# What `-ctk` and `-ctv` take.
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

F32 = 4  # bytes; recurrent state is kept in full precision

CELL_STEP = 256  # the engine rounds a context, and a window's cache, up to a multiple of this many tokens


def kv_type(name: str) -> GgmlType:
    """Return the layout of a KV type. Raises UsageError for one that the engine does not offer."""
    if name not in KV_TYPES:
        raise UsageError(f"{name!r} is not a KV cache type; choose one of {', '.join(KV_TYPES)}")
    return BY_NAME[name]


def padded(tokens: int) -> int:
    """Return ``tokens`` rounded up to what the engine allocates."""
    return -(-tokens // CELL_STEP) * CELL_STEP


@dataclass(frozen=True)
class KvGroup:
    """Layers whose caches are alike. ``key_row`` and ``value_row`` are the bytes of one token in one layer.

    Latent layers keep one row for all heads, and no values. Linear layers keep one cell whatever the context: its
    ``key_row`` is the recurrent state and its ``value_row`` the last inputs of the convolution.
    """

    kind: LayerKind
    layers: int
    kv_heads: int
    cells: int
    key_row: int
    value_row: int

    @property
    def bytes(self) -> int:
        """Bytes of all the layers together."""
        return (
            self.layers  # each layer keeps its own cache
            * self.cells  # one cell a token
            * (self.key_row + self.value_row)  # with a K row and a V row
        )


def window_cells(window: int, context: int, micro_batch: int) -> int:
    """Return the cells of a sliding-window layer: the window and the micro-batch being computed, never more than all.

    ``context`` is in padded tokens. The engine keeps no more than this only while it need not return to older tokens.
    """
    return min(context, padded(window + micro_batch))


def kv_groups(card: ModelCard, context: int, micro_batch: int, kind: GgmlType) -> tuple[KvGroup, ...]:
    """Return the cache of ``context`` padded tokens with K and V of type ``kind``, for one sequence.

    Recurrent state is counted with it. Raises UsageError where the engine would refuse: a row that is not a whole
    number of blocks. Raises ModelNotUnderstood where the card does not say what such layers keep.
    """
    kinds = set(card.layer_kinds)
    if (LayerKind.LATENT in kinds and card.latent is None) or (LayerKind.LINEAR in kinds and card.recurrent is None):
        unsaid = LayerKind.LATENT if LayerKind.LATENT in kinds and card.latent is None else LayerKind.LINEAR
        raise ModelNotUnderstood(f"{card.name}: no arithmetic for the cache of its {unsaid} attention layers")
    for length in _row_lengths(card):
        if length % kind.block:
            raise UsageError(
                f"{card.name}: KV type {kind.name} packs {kind.block} values, and its heads of {length} "
                "are no multiple of that; use f16"
            )
    return tuple(_groups(card, context, micro_batch, kind))


def _row_lengths(card: ModelCard) -> tuple[int, ...]:
    """Return the lengths, in elements, that must be whole blocks of the KV type."""
    if card.latent is not None:
        return (card.latent.kv_rank + card.latent.rope_length,)
    return card.key_length, card.value_length


def _groups(card: ModelCard, context: int, micro_batch: int, kind: GgmlType) -> Iterator[KvGroup]:
    pairs = zip(card.layer_kinds, card.kv_heads, strict=True)
    linear = LayerKind.LINEAR
    layers = sorted((layer, 0 if layer is linear else heads) for layer, heads in pairs if heads or layer is linear)
    for (layer_kind, heads), members in groupby(layers):
        cells = context
        if layer_kind is linear:
            cells = 1
        elif layer_kind is LayerKind.SLIDING and card.sliding_window is not None:
            cells = window_cells(card.sliding_window, context, micro_batch)
        key_row, value_row = _rows(card, layer_kind, heads, kind)
        yield KvGroup(layer_kind, sum(1 for _ in members), heads, cells, key_row, value_row)


def _rows(card: ModelCard, layer: LayerKind, heads: int, kind: GgmlType) -> tuple[int, int]:
    """Return the bytes of a cell of one layer: its keys and its values."""
    if layer is LayerKind.LATENT and card.latent is not None:
        return kind.row_bytes(card.latent.kv_rank + card.latent.rope_length), 0
    if layer is LayerKind.LINEAR and card.recurrent is not None:
        return F32 * card.recurrent.state_elements, F32 * card.recurrent.convolution_elements
    return kind.row_bytes(heads * card.key_length), kind.row_bytes(heads * card.value_length)


def bytes_per_token(card: ModelCard, kind: GgmlType) -> int:
    """Return what one more token of context takes in the layers whose cache grows with it, K and V together."""
    return sum(
        sum(_rows(card, layer, heads, kind))
        for layer, heads in zip(card.layer_kinds, card.kv_heads, strict=True)
        if layer in (LayerKind.FULL, LayerKind.LATENT)
    )


def kv_formula(card: ModelCard, group: KvGroup, kind: GgmlType) -> str:
    """Return the arithmetic of a group for people: "30 layers x 2 x 3 heads x 64 x 4,096 tokens x 1.0625 B (q8_0)"."""
    if group.kind is LayerKind.LINEAR:
        state, inputs = group.key_row // F32, group.value_row // F32
        return (
            f"{group.layers} layers x ({state:,} state + {inputs:,} convolution) x {F32} B (f32), whatever the context"
        )
    heads = f"2 x {group.kv_heads} heads x {card.key_length}"
    if group.kind is LayerKind.LATENT and card.latent is not None:
        heads = f"({card.latent.kv_rank} latent + {card.latent.rope_length} RoPE)"
    elif card.key_length != card.value_length:
        heads = f"{group.kv_heads} heads x ({card.key_length} + {card.value_length})"
    return f"{group.layers} layers x {heads} x {group.cells:,} tokens x {kind.bytes_per_element:g} B ({kind.name})"
