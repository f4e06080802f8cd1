"""The compute buffer: the engine's graph for one micro-batch, as sizes, run through its allocator.

The graph is what llama.cpp (autumn 2026, src/llama-graph.cpp and src/models/*.cpp) reserves for a full micro-batch on
the CPU with flash attention, which it turns on by itself there: the embedding, then per layer attention and feed
forward, and one row of logits. Operations that always overwrite their operand (norm weights, biases, RoPE, scaling)
take no room and are left out. Which of the others do overwrite an operand, and that of two equal holes the first is
taken, was fitted to the sizes that the engine prints.

Measured error (benchmarks/plan_bytes.py: 12 models of every understood family, 5 settings each): 59 of 60 cases agree
within the 0.01 MiB that is printed; one, a model with a shared expert at a micro-batch of 300, is 2.3 MiB (7%) low.
Toy models of 2 layers can be a sixth off.
"""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.model.card import LayerKind, ModelCard
from quietmind.model.ggml_types import GgmlType
from quietmind.plan.allocator import Graph
from quietmind.plan.kv import window_cells

F32, F16, I32, I64 = 4, 2, 4, 8  # bytes

# Quantized heads are rotated by a Hadamard matrix when their length is a multiple of this.
ROTATION = 64

# Architectures whose router leaves the weights of the chosen experts unnormalized.
_RAW_ROUTERS = frozenset({"qwen2moe"})
# Architectures that scale the embedding by a tensor of its own.
_SCALE_ROWS = frozenset({"gemma3"})


def compute_bytes(card: ModelCard, context: int, micro_batch: int, kind: GgmlType) -> int:
    """Return the bytes of the compute buffer for ``context`` padded tokens, ``micro_batch`` of them at a time.

    ``kind`` is the type of the KV cache.
    """
    return _ComputeGraph(card, context, micro_batch, kind).peak()


@dataclass(frozen=True)
class _CacheInputs:
    """What attention over one cache is handed: the mask, where to write K and V, and rotations (None: not rotated)."""

    mask: int
    key_cells: int
    value_cells: int
    key_rotation: int | None
    value_rotation: int | None


class _ComputeGraph:
    """Builds the graph layer by layer. ``_tokens`` falls to 1 in the last layer: only the last token is wanted."""

    def __init__(self, card: ModelCard, context: int, micro_batch: int, kind: GgmlType) -> None:
        self._card = card
        self._context = context
        self._kind = kind
        self._tokens = micro_batch
        self._graph = Graph()
        self._caches: dict[LayerKind, _CacheInputs] = {}
        names = {tensor.name for tensor in card.tensors}
        self._fused_qkv = "blk.0.attn_qkv.weight" in names
        self._fused_gate = "blk.0.ffn_up.weight" in names and "blk.0.ffn_gate.weight" not in names
        self._windowed = LayerKind.SLIDING in card.layer_kinds

    def peak(self) -> int:
        """Return the bytes of the buffer."""
        graph, card = self._graph, self._card
        stream = self._embedding()
        positions = graph.input(I32 * self._tokens)
        # Reserved in the order in which the first layers meet them.
        for kind in dict.fromkeys(card.layer_kinds):
            self._caches[kind] = self._cache_inputs(kind)
        last = graph.input(I32)
        graph.consume(positions)
        for layer in range(card.layers):
            attended = self._attention(layer, stream)
            if layer == card.layers - 1:
                self._tokens = 1
                attended = graph.result(self._wide(card.hidden), attended, last)
                stream = graph.result(self._wide(card.hidden), stream, last)
            joined = graph.result(self._wide(card.hidden), attended, stream, overwrites=(attended, stream))
            forward = self._experts(joined) if card.experts else self._feed_forward(joined)
            stream = graph.result(self._wide(card.hidden), forward, joined, overwrites=(joined, forward))
        normed = graph.result(self._wide(card.hidden), stream, overwrites=(stream,))
        graph.result(self._wide(card.vocabulary), normed)
        return graph.peak()

    def _wide(self, elements: int) -> int:
        """Return the bytes of ``elements`` f32 values for every token of the micro-batch."""
        return F32 * elements * self._tokens

    def _embedding(self) -> int:
        """Add the look-up of tokens, and beside it the branch for inputs that mix tokens with images, kept unused."""
        graph, tokens, row = self._graph, self._tokens, self._wide(self._card.hidden)
        ids = graph.input(I32 * tokens)
        mixed_ids = graph.input(I32 * tokens)
        mixed_slots = graph.input(I64 * tokens)
        mixed_rows = graph.input(row)
        stream = graph.result(row, ids)
        looked_up = graph.result(row, mixed_ids)
        copied = graph.result(row, mixed_rows)
        graph.consume(looked_up, mixed_slots, copied)
        graph.pin(copied)
        graph.pin(mixed_rows)
        if self._card.arch in _SCALE_ROWS:
            stream = graph.result(row, stream, graph.input(F32 * self._tokens), overwrites=(stream,))
        return stream

    def _cache_inputs(self, kind: LayerKind) -> _CacheInputs:
        graph, card, tokens = self._graph, self._card, self._tokens
        key_rotation = value_rotation = None
        if self._kind.block > 1:
            if card.key_length % ROTATION == 0:
                size = card.key_length & -card.key_length  # the largest power of two that divides it
                key_rotation = graph.input(F32 * size * size)
            if card.value_length % ROTATION == 0:
                value_rotation = graph.input(F32 * ROTATION * ROTATION)
        key_cells, value_cells = graph.input(I64 * tokens), graph.input(I64 * tokens)
        cells = self._context
        if kind is LayerKind.SLIDING and card.sliding_window is not None:
            cells = window_cells(card.sliding_window, cells, tokens)
        mask = graph.input(
            F16  # flash attention reads a half-precision mask
            * cells  # one value for every token in the cache
            * tokens  # and every token of the micro-batch
        )
        return _CacheInputs(mask, key_cells, value_cells, key_rotation, value_rotation)

    def _attention(self, layer: int, stream: int) -> int:
        graph, card = self._graph, self._card
        cache = self._caches[card.layer_kinds[layer]]
        queries = self._wide(card.heads * card.key_length)
        keys = self._wide(card.kv_heads[layer] * card.key_length)
        values = self._wide(card.kv_heads[layer] * card.value_length)
        normed = self._normed(stream)
        if self._fused_qkv:
            joined = graph.result(queries + keys + values, normed)
            query, key, value = graph.result(queries, joined), graph.result(keys, joined), joined
        else:
            query = graph.result(queries, graph.result(queries, normed))
            query = self._rotated(query, queries, cache.key_rotation)
            key = value = -1
            for part in ("key", "value") if self._windowed else ("value", "key"):
                if part == "key":
                    key = graph.result(keys, graph.result(keys, normed))
                    key = self._rotated(key, keys, cache.key_rotation)
                else:
                    value = self._rotated(graph.result(values, normed), values, cache.value_rotation)
        if self._fused_qkv and cache.key_rotation is not None:
            query = self._rotated(query, queries, cache.key_rotation)
            key = self._rotated(key, keys, cache.key_rotation)
        if self._fused_qkv and cache.value_rotation is not None:
            value = self._rotated(value, values, cache.value_rotation)
        graph.consume(key, cache.key_cells)
        graph.consume(value, cache.value_cells)
        mixed = self._wide(card.heads * card.value_length)
        attended = self._rotated(graph.result(mixed, query, cache.mask), mixed, cache.value_rotation)
        return graph.result(self._wide(card.hidden), attended)

    def _rotated(self, vectors: int, size: int, rotation: int | None) -> int:
        return vectors if rotation is None else self._graph.result(size, rotation, vectors)

    def _feed_forward(self, joined: int) -> int:
        return self._gated(self._normed(joined), self._card.feed_forward)

    def _normed(self, stream: int) -> int:
        hidden = self._wide(self._card.hidden)
        return self._graph.result(hidden, self._graph.result(hidden, stream))

    def _gated(self, normed: int, width: int) -> int:
        graph, size = self._graph, self._wide(width)
        if self._fused_gate:
            inner = graph.result(size, graph.result(2 * size, normed))
        else:
            gate, up = graph.result(size, normed), graph.result(size, normed)
            inner = graph.result(size, gate, up)
        return graph.result(self._wide(self._card.hidden), inner)

    def _experts(self, joined: int) -> int:
        graph, card = self._graph, self._card
        hidden, used = self._wide(card.hidden), card.experts_used
        normed = self._normed(joined)
        logits = graph.result(self._wide(card.experts), normed)
        shares = graph.result(self._wide(card.experts), logits, overwrites=(logits,))
        chosen = graph.result(I32 * card.experts * self._tokens, shares)
        weights = graph.result(self._wide(used), shares, chosen)
        if card.arch not in _RAW_ROUTERS:
            total = graph.result(self._wide(1), weights)
            weights = graph.result(self._wide(used), weights, total)
        inner = self._wide(used * card.expert_feed_forward)
        gate, up = graph.result(inner, normed, chosen), graph.result(inner, normed, chosen)
        down = graph.result(used * hidden, graph.result(inner, gate, up), chosen)
        weighed = graph.result(used * hidden, down, weights, overwrites=(down,))
        # The sum over the chosen experts, one addition at a time.
        summed = graph.result(hidden, weighed, *([weighed] if used > 1 else []))
        for _ in range(used - 2):
            summed = graph.result(hidden, summed, weighed, overwrites=(summed,))
        if card.shared_feed_forward:
            shared = self._gated(normed, card.shared_feed_forward)
            gate = graph.result(self._wide(1), normed)
            silu = graph.result(self._wide(1), gate)
            share = graph.result(self._wide(1), silu, gate, overwrites=(silu,))
            shared = graph.result(hidden, shared, share, overwrites=(shared,))
            summed = graph.result(hidden, summed, shared, overwrites=(summed,))
        return summed
