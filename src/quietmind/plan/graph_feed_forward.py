"""The feed-forward part of one layer as a compute graph: dense, or routed experts with or without a shared one.

Source: llama.cpp (autumn 2026), src/llama-graph.cpp, build_ffn and build_moe_ffn.
"""

from __future__ import annotations

from quietmind.plan.graph_build import F32, I32, Build
from quietmind.plan.graph_shape import LayerShape

# Architectures whose shared expert's gate is a sigmoid written as silu(x) / x.
_QUOTIENT_GATES = frozenset({"qwen2moe"})

# Architectures that weigh the chosen experts by a softmax over their own scores alone.
_LATE_SOFTMAX = frozenset({"gpt-oss"})

_GROUP_SCORES = 2  # experts whose scores stand for their group


def feed_forward(build: Build, layer: LayerShape, stream: int) -> int:
    """Add a layer's feed-forward part over the residual ``stream``; return what is added to it."""
    normed = build.normed(stream)
    if not layer.experts:
        return _gated(build, normed, build.shape.feed_forward, layer.fused_gate)
    graph, shape = build.graph, build.shape
    hidden = build.wide(shape.hidden)
    routed = _experts(build, normed)
    if not shape.shared_feed_forward:
        return routed
    shared = _gated(build, normed, shape.shared_feed_forward, fused=False)
    if shape.shared_gate:
        gate = build.project(1, normed)
        if shape.arch in _QUOTIENT_GATES:
            gate = build.project(1, gate, gate)
        shared = graph.result(hidden, shared, gate, overwrites=(shared,))
    return graph.result(hidden, routed, shared, overwrites=(routed,))


def _gated(build: Build, normed: int, width: int, fused: bool) -> int:
    if fused:
        inner = build.project(width, build.project(2 * width, normed))
    else:
        gate, up = build.project(width, normed), build.project(width, normed)
        inner = build.project(width, gate, up)
    return build.project(build.shape.hidden, inner)


def _experts(build: Build, normed: int) -> int:
    """Add the routed experts. What they make is weighed in place, and summed expert by expert into one result."""
    shape = build.shape
    used = shape.experts_used
    chosen, weights = _router(build, normed)
    width = used * shape.expert_feed_forward
    if shape.fused_experts:
        activated = build.project(width, build.project(2 * width, normed, chosen))
    else:
        gate, up = build.project(width, normed, chosen), build.project(width, normed, chosen)
        activated = build.project(width, gate, up)
    down = build.project(used * shape.hidden, activated, chosen)
    weighed = build.graph.result(build.wide(used * shape.hidden), down, weights, overwrites=(down,))
    return build.project(shape.hidden, weighed)


def _router(build: Build, normed: int) -> tuple[int, int]:
    """Add the choice of experts; return the sorted indices that hold it, and the weights of the chosen ones.

    Both lie where the larger results that follow must fit around them.
    """
    shape, router = build.shape, build.shape.router
    used = shape.experts_used
    shares = build.project(shape.experts, normed)
    scores = build.project(shape.experts, shares) if router.biased else shares
    if router.groups > 1:
        scores = _best_groups(build, scores)
    chosen = build.graph.result(I32 * shape.experts * build.tokens, scores)
    weights = build.project(used, shares, chosen)
    if shape.arch in _LATE_SOFTMAX:
        weights = build.project(used, weights)
    if router.normalized:
        weights = build.project(used, weights, build.project(1, weights))
        if router.scaled:
            weights = build.project(used, weights)
    return chosen, weights


def _best_groups(build: Build, scores: int) -> int:
    """Add the choice of groups of experts; return the scores with those of all other groups masked out."""
    graph, shape, tokens = build.graph, build.shape, build.tokens
    groups, used = shape.router.groups, shape.router.groups_used
    sorted_ = graph.result(I32 * shape.experts * tokens, scores)
    best = graph.result(F32 * _GROUP_SCORES * groups * tokens, scores, sorted_)
    sums = build.project(groups, best)
    order = graph.result(I32 * groups * tokens, sums)
    kept = build.project(shape.experts // groups * used, scores, order)
    masked = build.project(shape.experts, scores)
    graph.consume(kept, order, masked)
    return masked
