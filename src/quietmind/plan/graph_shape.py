"""What decides the compute graph of a model: its layers one by one, small enough to be compared and cached.

A graph repeats the same few layers dozens of times, and after some repetitions the allocator stands where it stood
before, so that the rest adds nothing to its peak; ``shortened`` drops the rest and says where to look for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from quietmind.model.card import Latent, LayerKind, ModelCard, Recurrent, Router

# Architectures whose files say whether and how the weights of the chosen experts are normalized; others that do not.
_STATED_ROUTERS = frozenset({"deepseek2", "glm4moe"})
_RAW_ROUTERS = frozenset({"qwen2moe", "gpt-oss"})

# Architectures that scale queries by their position where the file asks for it.
_SCALING = frozenset({"mistral3", "deepseek2"})

# Stretches of layers that are looked for: one layer; every second or fourth another; five sliding and one full.
LONGEST_PERIOD = 8


@dataclass(frozen=True)
class LayerShape:
    """A layer as the graph sees it. ``gated``: queries come with a gate of their own width."""

    kind: LayerKind
    kv_heads: int
    experts: bool
    fused_qkv: bool
    fused_gate: bool
    gated: bool


@dataclass(frozen=True)
class DeltaNet:
    """Widths of a gated delta net layer, in elements a token; ``kernel`` is the length of its short convolution.

    ``joined_rates``: one projection yields both how fast the state decays and how strongly it is written.
    ``joined_input``: one yields queries, keys, values and the gate, as in old conversions.
    """

    channels: int
    inner: int
    keys: int
    heads: int
    kernel: int
    joined_rates: bool = False
    joined_input: bool = False


@dataclass(frozen=True)
class RouterShape:
    """How experts are chosen. ``biased``: by scores with a correction. ``groups``: of experts, the best ones first.

    ``normalized``: the weights of the chosen experts are divided by their sum, ``scaled``: and multiplied by a factor.
    """

    biased: bool = False
    normalized: bool = True
    scaled: bool = False
    groups: int = 0
    groups_used: int = 0


@dataclass(frozen=True)
class GraphShape:
    """Everything of a card that the graph depends on. Widths in elements."""

    arch: str
    hidden: int
    heads: int
    key_length: int
    value_length: int
    feed_forward: int
    vocabulary: int
    window: int | None
    experts: int
    experts_used: int
    expert_feed_forward: int
    shared_feed_forward: int
    shared_gate: bool
    fused_experts: bool
    router: RouterShape
    scaled_queries: bool
    query_rank: int
    kv_rank: int
    rope_length: int
    recurrent: Recurrent | None
    delta: DeltaNet | None
    layers: tuple[LayerShape, ...]


def graph_shape(card: ModelCard) -> GraphShape:
    """Return what the graph of ``card`` depends on, told from its tensors where the metadata does not say it."""
    shapes = {tensor.name: tensor.shape for tensor in card.tensors}
    mixed = any("_exps" in name for name in shapes)
    latent = card.latent or _unpacked(shapes)
    return GraphShape(
        arch=card.arch,
        hidden=card.hidden,
        heads=card.heads,
        key_length=card.key_length,
        value_length=card.value_length,
        feed_forward=card.feed_forward,
        vocabulary=card.vocabulary,
        window=card.sliding_window,
        experts=card.experts,
        experts_used=card.experts_used,
        expert_feed_forward=card.expert_feed_forward or _fused_width(shapes),
        shared_feed_forward=card.shared_feed_forward,
        shared_gate=any("ffn_gate_inp_shexp" in name for name in shapes),
        fused_experts=any("ffn_gate_up_exps" in name for name in shapes),
        router=_router(card, shapes),
        scaled_queries=card.scaled_queries and card.arch in _SCALING,
        query_rank=latent.query_rank if latent else 0,
        kv_rank=latent.kv_rank if latent else 0,
        rope_length=latent.rope_length if latent else 0,
        recurrent=card.recurrent,
        delta=_delta(card, shapes),
        layers=tuple(_layer(card, shapes, layer, mixed) for layer in range(card.layers)),
    )


def _router(card: ModelCard, shapes: dict[str, tuple[int, ...]]) -> RouterShape:
    """Return how ``card`` chooses experts, by its architecture where the card does not say."""
    stated = card.router or Router()
    biased = any("exp_probs_b" in name for name in shapes)
    normalized, scaled = card.arch not in _RAW_ROUTERS, False
    if card.arch in _STATED_ROUTERS:
        # Where nothing says it, as in the published models: those whose scores are corrected do both.
        normalized = biased if card.router is None else stated.normalized
        scaled = biased if card.router is None else stated.scale not in (0.0, 1.0)
    return RouterShape(biased, normalized, scaled, stated.groups, stated.groups_used)


def _unpacked(shapes: dict[str, tuple[int, ...]]) -> Latent | None:
    """Return the latent attention of old conversions, whose cache holds every head; None where there is none."""
    unpacking, compressing = shapes.get("blk.0.attn_kv_b.weight"), shapes.get("blk.0.attn_kv_a_mqa.weight")
    if unpacking is None or compressing is None:
        return None
    rank, query_rank = unpacking[0], shapes.get("blk.0.attn_q_a.weight", (0,))[-1]
    return Latent(kv_rank=rank, rope_length=compressing[-1] - rank, query_rank=query_rank)


def _fused_width(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the width of an expert whose gate and up projections are one tensor, 0 where there is none."""
    return next((shape[1] // 2 for name, shape in shapes.items() if "ffn_gate_up_exps" in name), 0)


def _layer(card: ModelCard, shapes: dict[str, tuple[int, ...]], layer: int, mixed: bool) -> LayerShape:
    kind, block = card.layer_kinds[layer], f"blk.{layer}."
    queries = shapes.get(f"{block}attn_q.weight", (0,))
    return LayerShape(
        kind=kind,
        kv_heads=card.kv_heads[layer],
        experts=card.experts > 0
        and (not mixed or f"{block}ffn_up_exps.weight" in shapes or f"{block}ffn_gate_up_exps.weight" in shapes),
        fused_qkv=kind is not LayerKind.LINEAR and f"{block}attn_qkv.weight" in shapes,
        fused_gate=f"{block}ffn_up.weight" in shapes and f"{block}ffn_gate.weight" not in shapes,
        gated=kind is LayerKind.FULL and queries[-1] == 2 * card.heads * card.key_length,
    )


def _delta(card: ModelCard, shapes: dict[str, tuple[int, ...]]) -> DeltaNet | None:
    """Return the widths of the first linear layer, None where there is none or its tensors are not known."""
    if card.recurrent is None or LayerKind.LINEAR not in card.layer_kinds:
        return None
    block = f"blk.{card.layer_kinds.index(LayerKind.LINEAR)}."
    convolution = shapes.get(f"{block}ssm_conv1d.weight")
    heads = shapes.get(f"{block}ssm_a")
    out = shapes.get(f"{block}ssm_out.weight")
    if convolution is None or heads is None or out is None:
        return None
    return DeltaNet(
        channels=convolution[1],
        inner=out[0],
        keys=(convolution[1] - out[0]) // 2,  # the channels are queries, keys and values
        heads=prod(heads),
        kernel=convolution[0],
        joined_rates=f"{block}ssm_ba.weight" in shapes,
        joined_input=f"{block}ssm_in.weight" in shapes,
    )


@dataclass(frozen=True)
class Shortened:
    """Layers without most of what repeats. ``alike``: pairs of layers before which the buffer must stand alike.

    Where it does, the repetitions left out would have changed nothing.
    """

    layers: tuple[LayerShape, ...]
    alike: tuple[tuple[int, int], ...]


def shortened(layers: tuple[LayerShape, ...], repeats: int) -> Shortened:
    """Return ``layers`` with every repeating stretch cut to ``repeats`` of it; the last layers stay the last."""
    for period in range(1, LONGEST_PERIOD + 1):
        start = next((at for at in range(period) if _repeats(layers, at, period) > repeats), None)
        if start is not None:
            kept = start + repeats * period
            rest = shortened(layers[start + _repeats(layers, start, period) * period :], repeats)
            alike = (kept - 2 * period, kept - period), *((kept + first, kept + second) for first, second in rest.alike)
            return Shortened(layers[:kept] + rest.layers, alike)
    return Shortened(layers, ())


def _repeats(layers: tuple[LayerShape, ...], start: int, period: int) -> int:
    """Return how often the ``period`` layers from ``start`` on follow one another."""
    stretch = layers[start : start + period]
    count = 0
    while stretch and layers[start + count * period : start + (count + 1) * period] == stretch:
        count += 1
    return count
