"""The KV cache as engines that shard allocate it: whole blocks of tokens, the heads over GPUs.

Sources: v1/kv_cache_interface.py and v1/core/kv_cache_planning.py of vLLM 0.33 (pages, groups of layers of several
kinds, the block that is held back); mem_cache/memory_pool.py of SGLang 0.5.23 (one page of padding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quietmind.base.errors import ModelNotUnderstood
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.split import Split, local_heads

BLOCK = 16  # tokens (CacheConfig.DEFAULT_BLOCK_SIZE); latent attention's kernels take 64
LATENT_BLOCK = 64
STATE_BYTES = 4  # recurrent states in f32
STATES = 2  # with prefix caching a layer keeps the state before the last step too (MambaSpec, mode "align")

# Layers of two kinds come in groups of as many layers: the fewer of the two, unless they are nearly as many
# (_get_kv_cache_groups_uniform_page_size).
_NEARLY_AS_MANY = 1.5


@dataclass(frozen=True)
class Cached:
    """The cache of a stage's layers of one kind on one GPU, in bytes; ``read`` of one full sequence for a token."""

    kind: LayerKind
    bytes: int
    read: int
    formula: str


def cached(
    card: ModelCard, split: Split, layers: range, *, context: int, sequences: int, element: int, in_flight: int
) -> tuple[Cached, ...]:
    """Return what ``sequences`` contexts of ``context`` tokens take on a GPU of the stage with ``layers``.

    ``element`` bytes a value. ``in_flight`` tokens may be computed beyond a sliding window before it moves on.
    Raises ModelNotUnderstood where the card does not say what such layers keep.
    """
    kinds = [card.layer_kinds[layer] for layer in layers]
    found: list[Cached] = []
    if LayerKind.LINEAR in kinds:
        found.append(_states(card, split, kinds.count(LayerKind.LINEAR), sequences))
    if LayerKind.LATENT in kinds:
        found.append(_latent(card, split, kinds.count(LayerKind.LATENT), context, sequences, element))
    full = [layer for layer in layers if card.layer_kinds[layer] is LayerKind.FULL and card.kv_heads[layer]]
    sliding = [layer for layer in layers if card.layer_kinds[layer] is LayerKind.SLIDING and card.kv_heads[layer]]
    found += _paged(card, split, full, sliding, context, sequences, element, in_flight)
    return tuple(found)


def _states(card: ModelCard, split: Split, layers: int, sequences: int) -> Cached:
    state = card.recurrent
    if state is None:
        raise ModelNotUnderstood(f"{card.name}: no arithmetic for the cache of its linear attention layers")
    elements = (state.state_elements + state.convolution_elements) // split.tensor
    one = layers * elements * STATE_BYTES
    return Cached(
        LayerKind.LINEAR,
        one * STATES * sequences,
        2 * one,  # read and written
        f"estimate: {layers} layers x {elements:,} elements x {STATE_BYTES} B x {STATES} states"
        + (f" x {sequences} sequences" if sequences > 1 else ""),
    )


def _latent(card: ModelCard, split: Split, layers: int, context: int, sequences: int, element: int) -> Cached:
    latent = card.latent
    if latent is None:
        raise ModelNotUnderstood(f"{card.name}: no arithmetic for the cache of its latent attention layers")
    row = latent.kv_rank + latent.rope_length  # one row for all heads, so every GPU keeps it
    blocks = -(-context // (LATENT_BLOCK * split.context))
    page = LATENT_BLOCK * row * element
    return Cached(
        LayerKind.LATENT,
        layers * (blocks * sequences + 1) * page,
        layers * blocks * page,
        f"{layers} layers x {_blocks(blocks, sequences)} x {LATENT_BLOCK} tokens x ({latent.kv_rank} latent + "
        f"{latent.rope_length} RoPE) x {element} B, "
        + (f"1/{split.context} of the tokens" if split.context > 1 else "a copy on every GPU"),
    )


def _paged(
    card: ModelCard,
    split: Split,
    full: list[int],
    sliding: list[int],
    context: int,
    sequences: int,
    element: int,
    in_flight: int,
) -> Iterator[Cached]:
    """Yield the caches of layers with keys and values, whose blocks of all kinds come from one pool."""
    if not full and not sliding:
        return
    heads = max(local_heads(card.kv_heads[layer], split.tensor) for layer in (*full, *sliding))
    page = BLOCK * heads * (card.key_length + card.value_length) * element
    row = f"{heads} head{'s' if heads > 1 else ''} x {card.key_length + card.value_length} x {element} B"
    window = card.sliding_window or context
    blocks = {
        LayerKind.FULL: -(-context // (BLOCK * split.context)),
        LayerKind.SLIDING: -(-min(window - 1 + in_flight, context) // BLOCK) + 1,  # the window need not begin a block
    }
    rows = {LayerKind.FULL: len(full), LayerKind.SLIDING: len(sliding)}
    size = _group_size(*rows.values())
    held_back = 1  # a block that stands for "none"
    for kind, count in rows.items():
        if not count:
            continue
        padded = -(-count // size) * size
        pool = blocks[kind] * sequences * padded + (held_back * size if kind is _first(rows) else 0)
        seen = blocks[kind] if kind is LayerKind.FULL else -(-min(window, context) // BLOCK)
        layers = f"{count} layers" if padded == count else f"{count} layers, padded to {padded},"
        yield Cached(
            kind,
            pool * page,
            count * seen * page,
            f"{layers} x {_blocks(blocks[kind], sequences)} x {BLOCK} tokens x {row}"
            + (f", 1/{split.context} of the tokens" if split.context > 1 else ""),
        )


def _first(rows: dict[LayerKind, int]) -> LayerKind:
    return next(kind for kind, count in rows.items() if count)


def _group_size(full: int, sliding: int) -> int:
    """Return how many layers share a table of blocks."""
    fewer, more = sorted((full, sliding))
    if not fewer:
        return more
    return more if more < _NEARLY_AS_MANY * fewer else fewer


def _blocks(blocks: int, sequences: int) -> str:
    return f"({sequences} x {blocks:,} + 1) blocks" if sequences > 1 else f"({blocks:,} + 1) blocks"
