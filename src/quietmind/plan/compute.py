"""The compute buffer: the engine's graph for one micro-batch, as sizes, run through its allocator.

The graph is what llama.cpp (autumn 2026, src/llama-graph.cpp and src/models/*.cpp) reserves for a full micro-batch:
the embedding, then per layer attention and feed forward, and one row of logits a sequence. Operations, their order and
what overwrites what are the engine's own, compared with the graph that it hands to its allocator.

Measured on a CPU: equal to the byte on public models (benchmarks/plan_accuracy.py) and on shapes drawn by chance over
every architecture (benchmarks/random_shapes.py).
"""

from __future__ import annotations

from functools import lru_cache

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.model.card import LayerKind, ModelCard
from quietmind.model.ggml_types import GgmlType
from quietmind.plan.allocator import Replay
from quietmind.plan.graph_attention import attention
from quietmind.plan.graph_build import F16, F32, I32, I64, Build
from quietmind.plan.graph_feed_forward import feed_forward
from quietmind.plan.graph_shape import GraphShape, LayerShape, graph_shape, shortened
from quietmind.plan.interval import Interval

# Architectures that scale the embedding by a tensor of its own, one factor a token.
_SCALE_ROWS = frozenset({"gemma3"})

# Architectures that add the feed-forward part to the residual stream, not the stream to it.
_STREAM_FIRST = frozenset({"phi3"})

# Architectures whose last residual stream is an output of the graph, and so is not overwritten by the last norm.
_KEPT_STREAM = frozenset({"gpt-oss"})

# How many of a repeating stretch of layers are kept, until what is left out is known to change nothing.
_REPEATS = (3, 6, 12)

CACHED = 4096  # answers kept: a search asks for the same few again and again


def compute_bytes(
    card: ModelCard,
    context: int,
    micro_batch: int,
    kind: GgmlType,
    *,
    flash_attention: bool = True,
    sequences: int = 1,
) -> int:
    """Return the bytes of the compute buffer for ``context`` padded tokens, ``micro_batch`` tokens at a time.

    Each of ``sequences`` has a context of its own, and an equal share of the micro-batch, which the engine rounds up.
    ``kind`` is the type of the KV cache. Raises UsageError where the engine would refuse: a quantized V cache without
    flash attention. Raises ModelNotUnderstood for linear layers whose tensors are not known.
    """
    if not flash_attention and kind.block > 1:
        raise UsageError(f"KV type {kind.name} needs flash attention; turn it on, or use f16")
    shape = graph_shape(card)
    if LayerKind.LINEAR in card.layer_kinds and shape.delta is None:
        raise ModelNotUnderstood(f"{card.name}: the tensors of its linear attention layers are not known")
    tokens = -(-micro_batch // sequences) * sequences
    return _compute(shape, context, tokens, kind, flash_attention, sequences)


def device_compute_bytes(
    card: ModelCard, context: int, micro_batch: int, kind: GgmlType, *, flash_attention: bool = True
) -> Interval:
    """Return an estimate, in bytes, of what the graph takes on a GPU that holds all layers.

    ``low``: the graph without what stays with the host, the look-up of tokens and its two pinned rows. ``mid``: the
    graph as on the host, because the inputs, above all the mask, are copied to the device. ``high``: with the scratch
    space that the CUDA backend takes beside the buffer: a quantized cache converted to half precision a layer at a
    time, and activations converted for quantized products. Raises what compute_bytes raises.

    Nothing here was measured on a GPU; llama.cpp's ggml-cuda.cu and fattn.cu say what is taken, not how often at once.
    """
    graph = compute_bytes(card, context, micro_batch, kind, flash_attention=flash_attention)
    rows = 2 * F32 * card.hidden * micro_batch
    widest = max(card.feed_forward, card.experts_used * card.expert_feed_forward, card.hidden)
    converted = 0
    if kind.block > 1:
        lengths = card.key_length + card.value_length
        converted = (
            F16  # bytes of a value after the conversion
            * context  # of every token in the cache
            * max(card.kv_heads)  # in one layer, the widest
            * lengths  # its keys and values
        )
    if card.latent is not None and kind.block > 1:
        converted = F16 * context * (card.latent.kv_rank + card.latent.rope_length)
    return Interval(max(0, graph - rows), graph, graph + converted + F16 * micro_batch * widest)


@lru_cache(maxsize=CACHED)
def _compute(shape: GraphShape, context: int, micro_batch: int, kind: GgmlType, flash: bool, sequences: int) -> int:
    for repeats in _REPEATS:
        short = shortened(shape.layers, repeats)
        replay = graph_replay(Build(shape, context, micro_batch, kind, flash, sequences), short.layers)
        if all(replay.states[first] == replay.states[second] for first, second in short.alike):
            return replay.peak
    return graph_replay(Build(shape, context, micro_batch, kind, flash, sequences), shape.layers).peak


def graph_replay(build: Build, layers: tuple[LayerShape, ...]) -> Replay:
    """Return what placing the graph of ``layers`` leads to, with one state for the start of each layer."""
    graph, shape = build.graph, build.shape
    stream = _embedding(build)
    for number, layer in enumerate(layers, 1):
        graph.mark(stream)
        attended = attention(build, layer, stream)
        # What a delta net adds is read through a view, and so is never overwritten.
        order = (stream,) if layer.kind is LayerKind.LINEAR else (attended, stream)
        if number == len(layers):
            build.tokens = build.sequences
            last = graph.input(I32 * build.tokens)
            attended, stream = build.project(shape.hidden, attended, last), build.project(shape.hidden, stream, last)
            order = (attended, stream)
        hidden = build.wide(shape.hidden)
        joined = graph.result(hidden, attended, stream, overwrites=order)
        forward = feed_forward(build, layer, joined)
        order = (joined, forward) if shape.arch in _STREAM_FIRST else (forward, joined)
        stream = graph.result(hidden, forward, joined, overwrites=order)
    if shape.arch in _KEPT_STREAM:
        graph.pin(stream)
    normed = build.normed(stream)
    graph.pin(normed)  # an output of the graph
    build.project(shape.vocabulary, normed)
    return graph.replay()


def _embedding(build: Build) -> int:
    """Add the look-up of tokens, and beside it the branch for inputs that mix tokens with images, kept unused."""
    graph, tokens, row = build.graph, build.tokens, build.wide(build.shape.hidden)
    ids, mixed_ids = graph.input(I32 * tokens), graph.input(I32 * tokens)
    graph.input(row)  # rows of a picture, which nothing reads and nothing frees
    mixed_slots, mixed_rows = graph.input(I64 * tokens), graph.input(row)
    stream = graph.result(row, ids)
    looked_up = graph.result(row, mixed_ids)
    copied = graph.result(row, mixed_rows)
    graph.consume(looked_up, mixed_slots, copied)
    graph.pin(copied)
    if build.shape.arch in _SCALE_ROWS:
        stream = graph.result(row, stream, graph.input(F32 * tokens), overwrites=(stream,))
    return stream
