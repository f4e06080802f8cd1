"""The attention of one layer as a compute graph: full and sliding, latent (MLA), and gated delta nets.

The order of operations and which of them are results of their own follow llama.cpp (autumn 2026, src/llama-graph.cpp,
build_attn and build_attn_mha; src/models/deepseek2.cpp, qwen3next.cpp and delta-net-base.cpp).
"""

from __future__ import annotations

from quietmind.model.card import LayerKind
from quietmind.plan.graph_build import F16, F32, Build, CacheInputs
from quietmind.plan.graph_shape import LayerShape


def attention(build: Build, layer: LayerShape, stream: int) -> int:
    """Add a layer's attention over the residual ``stream``; return what is added to it, before the addition."""
    normed = build.normed(stream, build.shape.hidden)
    if layer.kind is LayerKind.LINEAR:
        return _delta_net(build, normed)
    if layer.kind is LayerKind.LATENT:
        return _latent(build, normed)
    return _heads(build, layer, normed)


def _heads(build: Build, layer: LayerShape, normed: int) -> int:
    """Attention with keys and values for each head. A gate, where there is one, is part of the query projection."""
    graph, shape = build.graph, build.shape
    cache = build.cache(layer.kind)
    queries = build.wide(shape.heads * shape.key_length)
    keys = build.wide(layer.kv_heads * shape.key_length)
    values = build.wide(layer.kv_heads * shape.value_length)
    gates = -1
    if layer.fused_qkv:
        joined = graph.result(queries + keys + values, normed)
        query = graph.result(queries, joined)
        key, value = graph.result(keys, joined), joined
        query = build.rotated(query, queries, cache.key_rotation)
        key = build.rotated(key, keys, cache.key_rotation)
        value = build.rotated(value, values, cache.value_rotation)
    else:
        projected = gates = graph.result(queries * (2 if layer.gated else 1), normed)
        query = build.rotated(graph.result(queries, projected), queries, cache.key_rotation)
        key = value = -1
        # With sliding windows anywhere in the model the engine computes keys first.
        for part in ("key", "value") if shape.window is not None else ("value", "key"):
            if part == "key":
                key = graph.result(keys, graph.result(keys, normed))
                key = build.rotated(key, keys, cache.key_rotation)
            else:
                value = build.rotated(graph.result(values, normed), values, cache.value_rotation)
    graph.consume(key, cache.key_cells)
    if layer.fused_qkv and not build.flash:
        value = graph.result(values, value)  # cut out of the joined projection before it is transposed
    graph.consume(value, *(() if cache.value_cells is None else (cache.value_cells,)))
    size = build.wide(shape.heads * shape.value_length)
    attended = _attended(build, layer, cache, query, size)
    attended = build.rotated(attended, size, cache.value_rotation)
    if layer.gated:
        gate = graph.result(size, gates)
        attended = graph.result(size, attended, gate, overwrites=(gate,) if build.flash else (attended, gate))
    return graph.result(build.wide(shape.hidden), attended)


def _attended(build: Build, layer: LayerShape, cache: CacheInputs, query: int, size: int) -> int:
    """Add what heads make of the cache. Without flash attention every score is a number in memory."""
    graph = build.graph
    if build.flash:
        keys, values = (layer.kv_heads * length for length in (build.shape.key_length, build.shape.value_length))
        return graph.result(size, query, cache.mask, *_halved(build, cache, keys, values))
    scores = _scores(build, cache, query)
    weighed = graph.result(size, scores)
    return graph.result(size, weighed)  # brought into the order of the output projection


def _halved(build: Build, cache: CacheInputs, *widths: int) -> tuple[int, ...]:
    """Add copies of a full-precision cache for flash attention, which reads half precision."""
    if build.kind.name != "f32":
        return ()
    return tuple(build.graph.result(F16 * cache.cells * width) for width in widths)


def _scores(build: Build, cache: CacheInputs, query: int) -> int:
    size = build.wide(
        build.shape.heads  # one score for every query head
        * cache.cells  # and every token in the cache
    )
    scores = build.graph.result(size, query)
    return build.graph.result(size, scores, cache.mask, overwrites=(scores,))


def _latent(build: Build, normed: int) -> int:
    """Multi-head latent attention with absorbed projections: all heads read the one compressed row of a token."""
    graph, shape = build.graph, build.shape
    cache = build.cache(LayerKind.LATENT)
    source = normed
    if shape.query_rank:
        source = build.normed(graph.result(build.wide(shape.query_rank), normed), shape.query_rank)
    queries = graph.result(build.wide(shape.heads * shape.key_length), source)
    absorbed = graph.result(build.wide(shape.heads * shape.kv_rank), queries)
    positions = graph.result(build.wide(shape.heads * shape.rope_length), queries)
    row = shape.kv_rank + shape.rope_length
    query = graph.result(build.wide(shape.heads * row), absorbed, positions)
    compressed = graph.result(build.wide(row), normed)
    latent = build.normed(compressed, shape.kv_rank)
    position = graph.result(build.wide(shape.rope_length), compressed)
    key = graph.result(build.wide(row), latent, position)
    graph.consume(key, cache.key_cells)
    read = build.wide(shape.heads * shape.kv_rank)
    unpacked = build.wide(shape.heads * shape.value_length)
    if build.flash:
        halved = _halved(build, cache, row, shape.kv_rank)
        attended = graph.result(read, query, cache.mask, *halved)
    else:
        transposed = graph.result(build.kind.block_bytes * shape.kv_rank * cache.cells)  # a copy of the cached rows
        attended = graph.result(read, transposed, _scores(build, cache, query))
    ordered = graph.result(unpacked, graph.result(unpacked, attended))
    return graph.result(build.wide(shape.hidden), ordered)


def _delta_net(build: Build, normed: int) -> int:
    """Add a gated delta net: a short convolution over queries, keys and values, and a state read and rewritten."""
    graph, shape = build.graph, build.shape
    delta, recurrent = shape.delta, shape.recurrent
    assert delta is not None
    assert recurrent is not None
    assert build.state_copies is not None
    past = graph.result(F32 * recurrent.convolution_elements, build.state_copies)
    mixed = graph.result(build.wide(delta.channels), normed)
    window = graph.result(F32 * delta.channels * (build.tokens + delta.kernel - 1), past, mixed)
    graph.consume(window)  # its end is the next call's past
    state = graph.result(F32 * recurrent.state_elements, build.state_copies)
    convolved = graph.result(build.wide(delta.channels), window)
    vectors = []
    for _ in ("queries", "keys"):
        vector = graph.result(build.wide(delta.keys), convolved)
        vectors.append(graph.result(build.wide(delta.inner), vector) if delta.keys != delta.inner else vector)
    rates = graph.result(build.wide(2 * delta.heads), normed)
    decay = graph.result(build.wide(delta.heads), rates)
    strength = graph.result(build.wide(delta.heads), rates)
    size = build.wide(delta.inner)
    answer = graph.result(size + F32 * recurrent.state_elements, *vectors, convolved, decay, strength, state)
    graph.consume(answer)  # the state at its end goes back to the cache
    read = build.normed(answer, delta.inner)
    gate = graph.result(size, graph.result(size, normed))
    gated = graph.result(size, read, gate, overwrites=(read,))
    return graph.result(build.wide(shape.hidden), gated)
