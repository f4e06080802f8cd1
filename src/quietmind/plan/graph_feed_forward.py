"""The feed-forward part of one layer as a compute graph: dense, or routed experts with or without a shared one.

Source: llama.cpp (autumn 2026), src/llama-graph.cpp, build_ffn and build_moe_ffn.
"""

from __future__ import annotations

from quietmind.plan.graph_build import I32, Build
from quietmind.plan.graph_shape import LayerShape

# Architectures whose router leaves the weights of the chosen experts unnormalized.
RAW_ROUTERS = frozenset({"qwen2moe"})


def feed_forward(build: Build, layer: LayerShape, stream: int) -> int:
    """Add a layer's feed-forward part over the residual ``stream``; return what is added to it."""
    normed = build.normed(stream, build.shape.hidden)
    if layer.experts:
        return _experts(build, normed)
    return _gated(build, normed, build.shape.feed_forward, layer.fused_gate)


def _gated(build: Build, normed: int, width: int, fused: bool) -> int:
    graph, size = build.graph, build.wide(width)
    if fused:
        inner = graph.result(size, graph.result(2 * size, normed))
    else:
        gate, up = graph.result(size, normed), graph.result(size, normed)
        inner = graph.result(size, gate, up)
    return graph.result(build.wide(build.shape.hidden), inner)


def _experts(build: Build, normed: int) -> int:
    graph, shape = build.graph, build.shape
    hidden, used = build.wide(shape.hidden), shape.experts_used
    logits = graph.result(build.wide(shape.experts), normed)
    shares = graph.result(build.wide(shape.experts), logits, overwrites=(logits,))
    chosen = graph.result(I32 * shape.experts * build.tokens, shares)
    weights = graph.result(build.wide(used), shares, chosen)
    if shape.arch not in RAW_ROUTERS:
        total = graph.result(build.wide(1), weights)
        weights = graph.result(build.wide(used), weights, total)
    inner = build.wide(used * shape.expert_feed_forward)
    if shape.fused_experts:
        activated = graph.result(inner, graph.result(2 * inner, normed, chosen))
    else:
        gate, up = graph.result(inner, normed, chosen), graph.result(inner, normed, chosen)
        activated = graph.result(inner, gate, up)
    down = graph.result(used * hidden, activated, chosen)
    weighed = graph.result(used * hidden, down, weights, overwrites=(down,))
    # The sum over the chosen experts, one addition at a time.
    summed = graph.result(hidden, weighed, *([weighed] if used > 1 else []))
    for _ in range(used - 2):
        summed = graph.result(hidden, summed, weighed, overwrites=(summed,))
    if not shape.shared_feed_forward:
        return summed
    shared = _gated(build, normed, shape.shared_feed_forward, fused=False)
    if shape.shared_gate:
        gate = graph.result(build.wide(1), normed)
        if shape.arch in RAW_ROUTERS:  # a sigmoid written as silu(x) / x
            silu = graph.result(build.wide(1), gate)
            gate = graph.result(build.wide(1), silu, gate, overwrites=(silu,))
        shared = graph.result(hidden, shared, gate, overwrites=(shared,))
    return graph.result(hidden, summed, shared, overwrites=(summed,))
