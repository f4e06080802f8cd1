"""The ledger of a placement: a row for each device and component, with bytes stored and bytes read for a token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from quietmind.base.units import MIB
from quietmind.machine.machine import Machine
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.ask import Run
from quietmind.plan.kv import KvGroup, kv_formula
from quietmind.plan.ledger import Row
from quietmind.plan.place import (
    CONTEXT_BYTES,
    PIPELINE_COPIES,
    Needs,
    embedding_homes,
    host_compute,
    layer_homes,
    pipelined,
    staged_bytes,
)
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.weights import PARTS, Group, counted

F32 = 4  # bytes

# The engine's process beside the buffers of its own accounting: code, vocabulary, threads, HTTP server, scratch space
# of operations. Measured as the resident memory of a child after a prompt, less those buffers: 64 MiB for a vocabulary
# of 49,152 tokens, the same at contexts of 1k and 2k. How much of it grows with the vocabulary is an estimate.
ENGINE_BASE_BYTES = 48 * MIB
ENGINE_BYTES_PER_TOKEN_OF_VOCABULARY = 512

_KV_NAMES = {
    LayerKind.FULL: "KV cache",
    LayerKind.SLIDING: "KV cache, sliding window",
    LayerKind.LATENT: "KV cache, latent",
    LayerKind.LINEAR: "recurrent state",
}


def output_bytes(card: ModelCard, sequences: int) -> int:
    """Return the bytes of the logits that the engine hands out: one row a sequence."""
    return (
        sequences
        * card.vocabulary  # a logit for every token there is
        * F32
    )


def overhead_bytes(card: ModelCard) -> int:
    """Return what the engine's process takes on the host beside its buffers."""
    return ENGINE_BASE_BYTES + ENGINE_BYTES_PER_TOKEN_OF_VOCABULARY * card.vocabulary


@dataclass(frozen=True)
class Placed:
    """What the rows are made from: a placed model, its settings and sizes."""

    machine: Machine
    card: ModelCard
    placement: Placement
    needs: Needs
    groups: tuple[KvGroup, ...]
    run: Run


def ledger_rows(placed: Placed) -> tuple[Row, ...]:
    """Return the rows by device: the host, the accelerators in the machine's order, the disk."""
    rows = [*_weight_rows(placed), *_kv_rows(placed), *_working_rows(placed)]
    order = ["cpu", *(device.key for device in placed.machine.accelerators), DISK]
    return tuple(sorted(rows, key=lambda row: order.index(row.device)))  # stable: components keep their order


def kv_group_of(groups: tuple[KvGroup, ...], card: ModelCard, layer: int) -> KvGroup | None:
    """Return the group that a layer's cache belongs to, None where the layer keeps nothing."""
    kind = card.layer_kinds[layer]
    heads = 0 if kind is LayerKind.LINEAR else card.kv_heads[layer]
    return next((group for group in groups if group.kind is kind and group.kv_heads == heads), None)


def _weight_rows(placed: Placed) -> Iterator[Row]:
    found: dict[tuple[str, str, bool], list[Group]] = {}
    for group in placed.needs.weights.groups:
        for number, home in enumerate(_homes(placed, group)):
            copied = group.part == "embeddings" and (number > 0 or home != "cpu")
            found.setdefault((home, group.part, copied), []).append(group)
    for (device, part, copied), groups in sorted(found.items(), key=lambda item: PARTS.index(item[0][1])):
        label = "feed-forward" if part == "shared" and not placed.card.experts else part
        formula = counted(groups)
        if copied:
            packed = ", packed for the processor" if device == "cpu" else ""
            label, formula = "output", f"{formula}, tied: a copy of the embeddings{packed}"
        yield Row(
            device=device,
            component=f"weights: {label}",
            bytes=sum(group.bytes for group in groups),
            formula=formula,
            read_per_token=round(sum(_read(placed, group, copied=copied) for group in groups)),
        )


def _homes(placed: Placed, group: Group) -> tuple[str, ...]:
    """Return the devices that hold a group of tensors: one, or several where the engine makes copies."""
    placement = placed.placement
    if group.layer is not None:
        keys = placement.experts if group.part == "experts" else placement.dense
        return (keys[group.layer],)
    if group.part == "embeddings":
        return embedding_homes(placed.machine, placement, placed.needs.weights)
    if group.part in ("output", "norms"):
        return (placement.output,)
    return layer_homes(placement)


def _read(placed: Placed, group: Group, *, copied: bool) -> float:
    """Return the bytes of a group that decoding one token reads; ``copied``: of the output's copy of the embeddings."""
    if group.part == "experts":
        return group.bytes * placed.needs.expert_share
    if group.part == "embeddings" and not copied:
        homes = embedding_homes(placed.machine, placed.placement, placed.needs.weights)
        multiplied = placed.needs.weights.tied and len(homes) == 1  # as the output; else one row is looked up
        return group.bytes if multiplied else group.bytes / max(placed.card.vocabulary, 1)
    return group.bytes


def _kv_rows(placed: Placed) -> Iterator[Row]:
    layers: dict[tuple[str, KvGroup], int] = {}
    for layer, device in enumerate(placed.placement.kv):
        group = kv_group_of(placed.groups, placed.card, layer)
        if group is not None:
            layers[device, group] = layers.get((device, group), 0) + 1
    for (device, group), count in sorted(layers.items(), key=lambda item: placed.groups.index(item[0][1])):
        share = replace(group, layers=count)
        sequences = placed.needs.sequences
        formula = kv_formula(placed.card, share, placed.run.kind)
        yield Row(
            device=device,
            component=_KV_NAMES[group.kind],
            bytes=share.bytes * sequences,
            formula=formula if sequences == 1 else f"{sequences} sequences x {formula}",
            read_per_token=share.bytes,  # with the whole context filled
        )


def _working_rows(placed: Placed) -> Iterator[Row]:
    """Return what computing takes: buffers, the engine's process and its contexts on accelerators."""
    needs, machine, card = placed.needs, placed.machine, placed.card
    graph = f"peak of one graph: {needs.micro_batch:,} tokens of {placed.run.context:,} (allocator replayed)"
    used = [device for device in machine.accelerators if device.key in placed.placement.devices]
    on_host = host_compute(machine, placed.placement, needs)
    inputs = f"what the host fills in for {needs.micro_batch:,} tokens of {placed.run.context:,}: masks and embeddings"
    yield Row("cpu", "compute buffer", on_host, graph if not used or on_host == needs.compute else inputs)
    sequences = needs.sequences
    logits = f"{sequences} row{'s' if sequences > 1 else ''} x {card.vocabulary:,} logits x {F32} B (f32)"
    yield Row("cpu", "output buffer", output_bytes(card, sequences), logits)
    yield Row(
        "cpu",
        "engine overhead",
        overhead_bytes(card),
        f"measured: {ENGINE_BASE_BYTES // MIB} MiB + {card.vocabulary:,} tokens of vocabulary "
        f"x {ENGINE_BYTES_PER_TOKEN_OF_VOCABULARY:,} B",
    )
    staged = staged_bytes(machine, placed.placement, needs)
    copies = PIPELINE_COPIES - 1 if pipelined(machine, placed.placement) else 0
    for device in used:
        bound = " on one device, an upper bound" if len(used) > 1 or on_host == needs.compute else ""
        yield Row(device.key, "compute buffer", needs.compute, graph + bound)
        if copies:
            yield Row(
                device.key,
                "compute buffer, input copies",
                copies * needs.inputs,
                f"{copies} more copies of the inputs, so that devices overlap",
            )
        if staged:
            yield Row(
                device.key,
                "compute buffer, weights in transit",
                staged,
                "the largest host tensor, uploaded while a prefill multiplies it",
            )
        if not device.unified:
            yield Row(
                device.key, "engine context", CONTEXT_BYTES, "estimate: driver context, kernels and library workspace"
            )
