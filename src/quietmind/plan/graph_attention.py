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
    normed = build.normed(stream)
    if layer.kind is LayerKind.LINEAR:
        return _delta_net(build, normed)
    if layer.kind is LayerKind.LATENT:
        return _latent(build, normed)
    return _heads(build, layer, normed)


def _heads(build: Build, layer: LayerShape, normed: int) -> int:
    """Attention with keys and values for each head. A gate, where there is one, is part of the query projection."""
    graph, shape = build.graph, build.shape
    width = shape.heads * shape.value_length
    projected, query, key, value = _vectors(build, layer, normed)
    cache = build.cache(layer.kind)
    graph.consume(key, cache.key_cells)
    if layer.fused_qkv and not build.flash:
        value = build.project(layer.kv_heads * shape.value_length, value)  # cut out before it is transposed
    graph.consume(value, *(() if cache.value_cells is None else (cache.value_cells,)))
    attended = _attended(build, layer, cache, query)
    attended = build.rotated(attended, width, build.rotation(layer.kind, shape.value_length, "value"))
    if layer.gated:
        gate = build.project(width, projected)
        attended = graph.result(
            build.wide(width), attended, gate, overwrites=(gate,) if build.flash else (attended, gate)
        )
    return build.project(shape.hidden, attended)


def _vectors(build: Build, layer: LayerShape, normed: int) -> tuple[int, int, int, int]:
    """Add projections, RoPE and rotations; return the query projection (or that of all), queries, keys and values.

    A norm of queries and keys stands where RoPE would, and RoPE then overwrites it.
    """
    shape = build.shape
    if shape.kv_rank:
        return _unpacked(build, layer, normed)
    queries, keys = shape.heads * shape.key_length, layer.kv_heads * shape.key_length
    values = layer.kv_heads * shape.value_length
    if layer.fused_qkv:
        projected = build.project(queries + keys + values, normed)
    else:
        projected = build.project(queries * (2 if layer.gated else 1), normed)
    key_turn = build.rotation(layer.kind, shape.key_length, "key")
    query = build.project(queries, projected, build.positions(), *build.query_scales())
    query = build.rotated(query, queries, key_turn)
    key = value = projected
    # With sliding windows anywhere in the model the engine computes keys first.
    for part in ("key", "value") if shape.window is not None else ("value", "key"):
        if part == "key":
            source = projected if layer.fused_qkv else build.project(keys, normed)
            key = build.rotated(build.project(keys, source, build.positions()), keys, key_turn)
        else:
            value = projected if layer.fused_qkv else build.project(values, normed)
            value_turn = build.rotation(layer.kind, shape.value_length, "value")
            if layer.fused_qkv and value_turn is not None:
                value = build.project(values, value)  # cut out of the joined projection
            value = build.rotated(value, values, value_turn)
    return projected, query, key, value


def _unpacked(build: Build, layer: LayerShape, normed: int) -> tuple[int, int, int, int]:
    """Add what _vectors adds for latent attention whose rows are unpacked for every head before they are cached."""
    shape = build.shape
    queries, keys = shape.heads * shape.key_length, layer.kv_heads * shape.key_length
    values, rope = layer.kv_heads * shape.value_length, shape.rope_length
    projected = build.project(queries, build.project(shape.query_rank, normed) if shape.query_rank else normed)
    key_turn = build.rotation(layer.kind, shape.key_length, "key")
    query = build.project(queries, projected, build.positions(), *build.query_scales())
    query = build.rotated(query, queries, key_turn)
    compressed = build.project(shape.kv_rank + rope, normed)
    latent = build.project(shape.kv_rank, compressed)
    unpacked = build.project(keys - layer.kv_heads * rope + values, latent)
    value = build.project(values, unpacked)
    value = build.rotated(value, values, build.rotation(layer.kind, shape.value_length, "value"))
    position = build.project(layer.kv_heads * rope, build.project(rope, compressed, build.positions()))
    key = build.rotated(build.project(keys, unpacked, position), keys, key_turn)
    return projected, query, key, value


def _attended(build: Build, layer: LayerShape, cache: CacheInputs, query: int) -> int:
    """Add what heads make of the cache. Without flash attention every score is a number in memory."""
    shape = build.shape
    width = shape.heads * shape.value_length
    if build.flash:
        keys, values = (layer.kv_heads * length for length in (shape.key_length, shape.value_length))
        return build.project(width, query, *_halved(build, cache, keys, values), cache.mask)
    weighed = build.project(width, _scores(build, cache, query))
    return build.project(width, weighed)  # brought into the order of the output projection


def _halved(build: Build, cache: CacheInputs, *widths: int) -> tuple[int, ...]:
    """Add copies of a full-precision cache for flash attention, which reads half precision."""
    if build.kind.name != "f32":
        return ()
    return tuple(build.graph.result(F16 * build.sequences * cache.cells * width) for width in widths)


def _scores(build: Build, cache: CacheInputs, query: int) -> int:
    """Add the scores: one for every query head and every token in the cache; the softmax overwrites them."""
    size = build.shape.heads * cache.cells
    scores = build.project(size, query)
    return build.graph.result(build.wide(size), scores, cache.mask, overwrites=(scores,))


def _latent(build: Build, normed: int) -> int:
    """Multi-head latent attention with absorbed projections: all heads read the one compressed row of a token."""
    graph, shape = build.graph, build.shape
    source = build.project(shape.query_rank, normed) if shape.query_rank else normed
    queries = build.project(shape.heads * shape.key_length, source)
    absorbed = build.project(shape.heads * shape.kv_rank, queries)
    position = build.project(shape.heads * shape.rope_length, queries, build.positions())
    row = shape.kv_rank + shape.rope_length
    query = build.project(shape.heads * row, absorbed, position, *build.query_scales())
    compressed = build.project(row, normed)
    latent = build.project(shape.kv_rank, compressed)
    position = build.project(shape.rope_length, compressed, build.positions())
    key = build.project(row, latent, position)
    cache = build.cache(LayerKind.LATENT)
    graph.consume(key, cache.key_cells)
    if build.flash:
        halved = _halved(build, cache, row, shape.kv_rank)
        attended = build.project(shape.heads * shape.kv_rank, query, *halved, cache.mask)
    else:
        rows = build.sequences * cache.cells
        transposed = graph.result(build.kind.block_bytes * shape.kv_rank * rows)  # a copy of the cached rows
        attended = build.project(shape.heads * shape.kv_rank, transposed, _scores(build, cache, query))
    width = shape.heads * shape.value_length
    return build.project(shape.hidden, build.project(width, build.project(width, attended)))


def _delta_net(build: Build, normed: int) -> int:
    """Add a gated delta net: a short convolution over queries, keys and values, and a state read and rewritten."""
    graph, shape = build.graph, build.shape
    delta, recurrent = shape.delta, shape.recurrent
    assert delta is not None
    assert recurrent is not None
    past = graph.result(F32 * build.sequences * recurrent.convolution_elements, build.state_copies())
    mixed, gating = _mixed(build, normed)
    window = graph.result(
        F32 * build.sequences * recurrent.convolution_elements + build.wide(delta.channels), past, mixed
    )
    graph.consume(window)  # its end is the next call's past
    states = F32 * build.sequences * recurrent.state_elements
    state = graph.result(states, build.state_copies())
    convolved = build.project(delta.channels, window)
    vectors = []
    for _ in ("queries", "keys"):
        vector = build.project(delta.keys, convolved)
        repeated = delta.joined_rates and delta.keys != delta.inner  # else the delta rule repeats them as it goes
        vectors.append(build.project(delta.inner, vector) if repeated else vector)
    decay, strength = _rates(build, normed)
    size = build.wide(delta.inner)
    answer = graph.result(size + states, *vectors, convolved, decay, strength, state)
    graph.consume(answer)  # the state at its end goes back to the cache
    read = build.project(delta.inner, answer)
    gate = build.project(delta.inner, build.project(delta.inner, gating))
    gated = graph.result(size, read, gate, overwrites=(read,))
    return build.project(shape.hidden, gated)


def _mixed(build: Build, normed: int) -> tuple[int, int]:
    """Add queries, keys and values side by side; return them and what the gate is made of.

    Old conversions project them and the gate together, head by head, and the engine takes that apart.
    """
    delta = build.shape.delta
    assert delta is not None
    if not delta.joined_input:
        return build.project(delta.channels, normed), normed
    joined = build.project(delta.channels + delta.inner, normed)
    pair = build.project(2 * delta.keys, build.project(delta.keys, joined), build.project(delta.keys, joined))
    return build.project(delta.channels, pair, build.project(delta.inner, joined)), joined


def _rates(build: Build, normed: int) -> tuple[int, int]:
    """Add how fast each head's state decays and how strongly it is written, from one projection or from two."""
    delta = build.shape.delta
    assert delta is not None
    if delta.joined_rates:
        rates = build.project(2 * delta.heads, normed)
        return build.project(delta.heads, rates), build.project(delta.heads, rates)
    decay = build.project(delta.heads, build.project(delta.heads, normed))
    return decay, build.project(delta.heads, build.project(delta.heads, normed))
