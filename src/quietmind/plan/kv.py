"""The KV cache: which rows it keeps and what they take, as llama.cpp allocates it.

Source: llama-kv-cache.cpp and llama-kv-cache-iswa.cpp of llama.cpp, autumn 2026. Checked against the engine's own
accounting to the byte; see benchmarks/plan_bytes.py.
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
    """Layers whose caches are alike. ``key_row`` and ``value_row`` are the bytes of one token in one layer."""

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

    Raises UsageError where the engine would refuse: a head that is not a whole number of blocks. Raises
    ModelNotUnderstood for layers that keep something else than K and V rows.
    """
    other = set(card.layer_kinds) - {LayerKind.FULL, LayerKind.SLIDING}
    if other:
        raise ModelNotUnderstood(
            f"{card.name}: no arithmetic for the cache of {', '.join(sorted(other))} attention yet"
        )
    for length in (card.key_length, card.value_length):
        if length % kind.block:
            raise UsageError(
                f"{card.name}: KV type {kind.name} packs {kind.block} values, and its heads of {length} "
                "are no multiple of that; use f16"
            )
    return tuple(_groups(card, context, micro_batch, kind))


def _groups(card: ModelCard, context: int, micro_batch: int, kind: GgmlType) -> Iterator[KvGroup]:
    layers = sorted((layer, heads) for layer, heads in zip(card.layer_kinds, card.kv_heads, strict=True) if heads)
    for (layer_kind, heads), members in groupby(layers):
        sliding = layer_kind is LayerKind.SLIDING and card.sliding_window is not None
        yield KvGroup(
            kind=layer_kind,
            layers=sum(1 for _ in members),
            kv_heads=heads,
            cells=window_cells(card.sliding_window or 0, context, micro_batch) if sliding else context,
            key_row=kind.row_bytes(heads * card.key_length),
            value_row=kind.row_bytes(heads * card.value_length),
        )


def bytes_per_token(card: ModelCard, kind: GgmlType) -> int:
    """Return what one more token of context takes in the layers that attend in full, K and V together."""
    return sum(
        kind.row_bytes(heads * card.key_length) + kind.row_bytes(heads * card.value_length)
        for layer, heads in zip(card.layer_kinds, card.kv_heads, strict=True)
        if layer is not LayerKind.SLIDING
    )


def kv_formula(card: ModelCard, group: KvGroup, kind: GgmlType) -> str:
    """Return the arithmetic of a group for people: "30 layers x 2 x 3 heads x 64 x 4,096 tokens x 1.0625 B (q8_0)"."""
    heads = f"2 x {group.kv_heads} heads x {card.key_length}"
    if card.key_length != card.value_length:
        heads = f"{group.kv_heads} heads x ({card.key_length} + {card.value_length})"
    return f"{group.layers} layers x {heads} x {group.cells:,} tokens x {kind.bytes_per_element:g} B ({kind.name})"
