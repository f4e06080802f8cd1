"""The ledger of a model that an engine shards: what each GPU holds, and the host beside them.

Weights and KV cache are counted; what the engine measures by itself at its start (activations, CUDA graphs, buffers of
collectives, the driver's context) is an estimate and says so, with the most that it is likely to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from quietmind.base.units import GIB, MIB
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.interval import Interval
from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.parallel_kv import Cached, cached
from quietmind.plan.parallel_weights import SIXTEEN_BITS, VOCABULARY_STEP, Piece, expected_busiest, pieces
from quietmind.plan.split import Split, local_heads, stages

F32 = 4  # bytes

# Driver context with PyTorch's kernels, cuBLAS and cuDNN; 300 to 900 MiB are reported, by driver and device.
CONTEXT = Interval(400 * MIB, 600 * MIB, 1000 * MIB)
# NCCL's channels and the engine's own all-reduce buffers, for a group of GPUs. An estimate.
COLLECTIVES = Interval(150 * MIB, 350 * MIB, 800 * MIB)
# FlashInfer's workspace (VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE, 394 MiB; SGLang's has 384); other kernels take less.
WORKSPACE = Interval(32 * MIB, 394 * MIB, 394 * MIB)
# Memory of a CUDA graph that is not PyTorch's: SGLang reserves 8 MiB (arg_groups/memory_hook.py, reserve_for_graph_mb);
# sizes are captured for decode and again for mixed batches.
GRAPH = Interval(2 * MIB, 8 * MIB, 32 * MIB)
MOST_GRAPHS = 51  # of each kind: 1, 2, 4, then every 8th and every 16th batch size up to 512
# Peak of the activations against the formula below: kernels that need less, allocators that round up.
ACTIVATIONS = Interval(0.5, 1.0, 1.8)
# Resident memory of a process with PyTorch and the engine loaded, one for each GPU and two for scheduling and HTTP.
PROCESS = Interval(1.2 * GIB, 2 * GIB, 4 * GIB)
EXTRA_PROCESSES = 2

_KV_NAMES = {
    LayerKind.FULL: "KV cache",
    LayerKind.SLIDING: "KV cache, sliding window",
    LayerKind.LATENT: "KV cache, latent",
    LayerKind.LINEAR: "recurrent state",
}


@dataclass(frozen=True)
class Sharding:
    """What an engine that shards is told. ``resident`` of the ``sequences`` keep their cache on the GPUs at once.

    ``batched`` tokens are computed together; ``element`` bytes hold a value of the cache. ``weights_offloaded`` bytes
    of each GPU's weights stay in the host's memory, ``cache_offloaded`` bytes of all GPUs' cache go there. Where the
    host's processor multiplies with the experts that stay there, ``gpu_experts`` of each layer are on the GPUs.
    """

    split: Split
    context: int
    sequences: int
    resident: int
    batched: int
    element: int
    positions: int  # rows of the table of rotary embeddings
    weights_offloaded: int = 0
    cache_offloaded: int = 0
    gpu_experts: int | None = None


@dataclass(frozen=True)
class Share:
    """What one GPU of a stage holds. ``estimates`` are (component, bytes as an interval, formula)."""

    layers: range
    weights: tuple[Piece, ...]
    cache: tuple[Cached, ...]
    estimates: tuple[tuple[str, Interval, str], ...]

    @property
    def counted(self) -> int:
        """Bytes of weights and cache."""
        return sum(piece.bytes for piece in self.weights) + sum(part.bytes for part in self.cache)

    @property
    def total(self) -> int:
        """Bytes as the ledger shows them."""
        return self.counted + sum(round(size.mid) for _, size, _ in self.estimates)

    @property
    def most(self) -> int:
        """Bytes if every estimate is at its highest."""
        return self.counted + sum(round(size.high) for _, size, _ in self.estimates)


def shares(card: ModelCard, sharding: Sharding) -> tuple[Share, ...]:
    """Return what a GPU of each stage holds, in the pipeline's order."""
    split = sharding.split
    busiest = expected_busiest(card.experts_used, split.experts) if card.experts else 0.0
    return tuple(
        Share(
            layers,
            pieces(card, split, layers, busiest),
            cached(
                card,
                split,
                layers,
                context=sharding.context,
                sequences=sharding.resident,
                element=sharding.element,
                in_flight=2 * sharding.batched,  # one batch computes while the next is scheduled
            ),
            tuple(_estimates(card, sharding)),
        )
        for layers in stages(card.layers, split.pipeline)
    )


def _estimates(card: ModelCard, sharding: Sharding) -> Iterator[tuple[str, Interval, str]]:
    split = sharding.split
    peak = activation_bytes(card, sharding)
    yield (
        "compute buffer: activations",
        Interval(peak * ACTIVATIONS.low, peak * ACTIVATIONS.mid, peak * ACTIVATIONS.high),
        f"estimate: {sharding.batched:,} tokens of one layer, and {sharding.sequences} rows of logits",
    )
    if card.rope is not None:
        rows, width = sharding.positions, card.rope.dimensions
        size = rows * width * F32
        yield (
            "RoPE table",
            Interval(size / 2, size, size),
            f"at most {rows:,} positions x {width} x {F32} B (f32; half in 16 bits)",
        )
    graphs = 2 * min(MOST_GRAPHS, len(captured(2 * sharding.sequences)))
    yield "CUDA graphs", _times(GRAPH, graphs), f"estimate: {graphs} graphs x {GRAPH.mid / MIB:.0f} MiB"
    yield "attention workspace", WORKSPACE, "FlashInfer's; other kernels take less"
    if split.gpus > 1:
        yield "collectives", COLLECTIVES, "estimate: NCCL channels and all-reduce buffers"
    yield "engine context", CONTEXT, "estimate: driver context, PyTorch and its libraries"


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(interval.low * factor, interval.mid * factor, interval.high * factor)


def captured(most: int) -> tuple[int, ...]:
    """Return the batch sizes that CUDA graphs are captured for (config/vllm.py of vLLM, _set_cudagraph_sizes)."""
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    return tuple(size for size in sizes if size <= most)


def activation_bytes(card: ModelCard, sharding: Sharding) -> int:
    """Return what a forward pass over ``batched`` tokens holds at its peak, at least.

    The residual and the normed input, and of a layer either attention's queries, keys, values and output, or the
    feed-forward part; of experts, the two workspaces of vLLM's Triton kernel (workspace_shapes in
    fused_moe/experts/triton_moe.py). The logits are computed for one token of each sequence, in f32, twice.
    """
    split, hidden = sharding.split, card.hidden
    heads = max((local_heads(count, split.tensor) for count in card.kv_heads), default=1)
    attention = (
        card.heads // split.tensor * (card.key_length + card.value_length)  # queries, and what comes out
        + heads * (card.key_length + card.value_length)  # keys and values
    )
    feed_forward = 3 * max(card.feed_forward, card.shared_feed_forward) // split.tensor  # gate and up, their product
    experts = 0
    if card.experts:
        width = card.expert_feed_forward // (1 if split.experts > 1 else split.tensor)
        experts = card.experts_used * (max(width, hidden) + max(2 * width, hidden)) + hidden
    vocabulary = -(-card.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP
    return (
        sharding.batched * (2 * hidden + max(attention, feed_forward, experts)) * SIXTEEN_BITS
        + 2 * sharding.sequences * vocabulary * F32
    )


def gpus_of_node(found: tuple[Share, ...], split: Split) -> tuple[Share, ...]:
    """Return one share for each GPU of a node, in order: of all nodes' stages at that place, the fullest."""
    stages_each = split.pipeline // split.nodes
    return tuple(
        max((found[node * stages_each + place] for node in range(split.nodes)), key=lambda share: share.total)
        for place in range(stages_each)
        for _ in range(split.tensor)
    )


def ledger_of(machine: Machine, gpus: tuple[Device, ...], card: ModelCard, sharding: Sharding) -> Ledger:
    """Return the ledger of one node whose GPUs are ``gpus``, proved against sums by device."""
    each = gpus_of_node(shares(card, sharding), sharding.split)
    rows = list(_host_rows(card, sharding, each))
    totals = {"cpu": sum(row.bytes for row in rows)}
    for device, share in zip(gpus, each, strict=False):
        rows += _gpu_rows(device.key, share, sharding)
        totals[device.key] = share.total - sum(left_behind(share, sharding).values())
    ledger = Ledger(tuple(rows))
    ledger.prove(
        totals,
        {"KV cache": sum(part.bytes for share in each for part in share.cache if part.kind is not LayerKind.LINEAR)},
    )
    return ledger


def left_behind(share: Share, sharding: Sharding) -> dict[str, int]:
    """Return the bytes of weights that stay in the host's memory, by part: experts before all else of the layers."""
    inside = [piece for piece in share.weights if piece.part not in ("embeddings", "output")]
    left, found = sharding.weights_offloaded, dict[str, int]()
    for piece in [piece for piece in inside if piece.part == "experts"] or inside:
        away = min(left, piece.bytes)
        found[piece.part] = found.get(piece.part, 0) + away
        left -= away
    return {part: size for part, size in found.items() if size}


def _read_from_host(share: Share, sharding: Sharding) -> float:
    """Return the bytes of a GPU's offloaded weights that a token reads."""
    parts = left_behind(share, sharding)
    sizes = {part: sum(piece.bytes for piece in share.weights if piece.part == part) for part in parts}
    return sum(piece.read * parts[piece.part] / sizes[piece.part] for piece in share.weights if piece.part in parts)


def _gpu_rows(device: str, share: Share, sharding: Sharding) -> Iterator[Row]:
    away = left_behind(share, sharding)
    for piece in share.weights:
        gone = min(away.get(piece.part, 0), piece.bytes)
        away[piece.part] = away.get(piece.part, 0) - gone
        tensors = f"{piece.tensors} tensor{'s' if piece.tensors > 1 else ''}"
        formula = f"{tensors}: {piece.how}" if piece.how else tensors
        yield Row(
            device,
            f"weights: {piece.part}",
            piece.bytes - gone,
            formula + (f"; {gone / GIB:.2f} GiB of it in the host's memory" if gone else ""),
            round(piece.read * (piece.bytes - gone) / max(1, piece.bytes)),
        )
    for part in share.cache:
        yield Row(device, _KV_NAMES[part.kind], part.bytes, part.formula, part.read)
    for component, size, formula in share.estimates:
        yield Row(device, component, round(size.mid), formula)


def _host_rows(card: ModelCard, sharding: Sharding, each: tuple[Share, ...]) -> Iterator[Row]:
    gpus = sharding.split.gpus_per_node
    count = gpus + EXTRA_PROCESSES
    yield Row(
        "cpu",
        "engine processes",
        round(count * PROCESS.mid),
        f"estimate: {count} processes x {PROCESS.mid / GIB:.0f} GiB",
    )
    if sharding.weights_offloaded:
        used = "pinned" if sharding.gpu_experts is None else "which the processor multiplies with"
        yield Row(
            "cpu",
            f"weights: {'experts' if card.experts else 'layers'}, offloaded",
            sharding.weights_offloaded * gpus,
            f"{sharding.weights_offloaded / GIB:.2f} GiB of {gpus} GPU{'s' if gpus > 1 else ''}, {used}",
            round(sum(_read_from_host(share, sharding) for share in each)),
        )
    if sharding.cache_offloaded:
        sequences = sharding.sequences - sharding.resident
        yield Row(
            "cpu",
            "KV offload",
            sharding.cache_offloaded // sharding.split.nodes,
            f"the caches of {sequences} sequence{'s' if sequences > 1 else ''} that the GPUs have no room for",
        )


def with_offloaded_cache(card: ModelCard, sharding: Sharding) -> Sharding:
    """Return ``sharding`` with room in the host's memory for the caches that do not stay on the GPUs, in whole GiB."""
    waiting = sharding.sequences - sharding.resident
    if not waiting:
        return sharding
    one = shares(card, replace(sharding, resident=1))
    per_sequence = sum(part.bytes for share in one for part in share.cache) * sharding.split.tensor
    return replace(sharding, cache_offloaded=ceil(per_sequence * waiting / GIB) * GIB)
