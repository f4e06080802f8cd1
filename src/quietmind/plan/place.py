"""Chooses where the parts of a model go, among what llama.cpp can really do.

It can keep whole layers on accelerators (``-ngl``: the last ones, the output first), split them over several in
consecutive stretches (``-ts``), keep a layer's routed experts in the host's memory while the rest of the layer stays on
the accelerator (``--n-cpu-moe``, ``-ot``), and keep the KV cache there (``--no-kv-offload``). Weights are mapped from
their file, so what exceeds all memory is read from the disk again. Source: src/llama-model.cpp (load_tensors) and
common/arg.cpp of llama.cpp, autumn 2026.

The choice maximizes the bytes read for each token that come from accelerators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from quietmind.base.units import MIB
from quietmind.machine.machine import Device, Machine
from quietmind.plan.ask import Ask
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.weights import Weights

FITS_BELOW = 0.9  # the share of free memory that a model may take and leave the system in comfort

# What stays free on an accelerator beyond all that is planned there: the engine's own default (`-fitt 1024`).
MARGIN_BYTES = 1024 * MIB

# What a process takes of an accelerator before its first buffer: driver context, kernels, cuBLAS workspace. It differs
# by driver and device (300 to 700 MiB are reported); this middle is an estimate, not a measurement of this machine.
CONTEXT_BYTES = 512 * MIB

# From this many tokens at once the engine multiplies host weights on the accelerator, one tensor at a time
# (op_offload; the constant is in ggml/src/ggml-cuda/ggml-cuda.cu).
OFFLOAD_FROM_TOKENS = 32

# What llama.cpp packs anew for AVX2, in groups of so many rows (ggml_repack_get_optimal_repack_type in repack.cpp).
PACKED_TYPES = frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4"})
PACKED_ROWS = 8

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES: inputs are kept so often when whole layers are split over accelerators


@dataclass(frozen=True)
class Needs:
    """What a placement must find room for, in bytes. ``kv`` has one entry a layer, all sequences together.

    ``compute`` is the peak of one graph, wherever it runs; ``inputs`` the part of it that the host fills in for each
    micro-batch. ``host`` is what the host holds in any case: logits and the engine's process. ``expert_share`` of the
    expert bytes are read for each token.
    """

    weights: Weights
    kv: tuple[int, ...]
    compute: int
    inputs: int
    host: int
    micro_batch: int
    expert_share: float
    sequences: int = 1

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.kv)


def available(device: Device) -> int | None:
    """Return the bytes that ``device`` would give now, None where the machine does not say."""
    return device.memory_bytes if device.free_bytes is None else device.free_bytes


def place(machine: Machine, ask: Ask, needs: Needs) -> Placement:
    """Return the placement that serves the most bytes a token from accelerators, or the one that ``ask`` spells out.

    An accelerator of unknown memory gets something only when ``ask.gpu_layers`` says so.
    """
    host = _all_on_host(needs)
    options = [host]
    targets = _targets(machine, ask)
    if targets and ask.gpu_layers != 0:
        options = [*_options(machine, targets, ask, needs), host]
        if ask.gpu_layers:
            options = options[:1]
    best = max(options, key=lambda option: served(machine, option, needs))  # of equals the first
    return _paged(machine, best, needs)


def served(machine: Machine, placement: Placement, needs: Needs) -> float:
    """Return the bytes that decoding one token reads from accelerators."""
    fast = {device.key for device in machine.accelerators}
    weights = needs.weights
    total = float(weights.output + (weights.embedding if weights.tied else 0)) if placement.output in fast else 0.0
    for layer in range(needs.layers):
        if placement.dense[layer] in fast:
            total += weights.dense[layer]
        if placement.experts[layer] in fast:
            total += weights.experts[layer] * needs.expert_share
        if placement.kv[layer] in fast:
            total += needs.kv[layer] / needs.sequences
    return total


def pipelined(machine: Machine, placement: Placement) -> bool:
    """Return whether the engine overlaps micro-batches over several accelerators.

    It does when all layers, their experts and their cache are there (llama_context's constructor).
    """
    parts = {*placement.dense, *filter(None, placement.experts), *placement.kv, placement.output}
    return len(parts) > 1 and parts <= {device.key for device in machine.accelerators}


def staged_bytes(machine: Machine, placement: Placement, needs: Needs) -> int:
    """Return the room that an accelerator keeps for host weights which it multiplies in a prefill.

    One tensor at a time is uploaded into its compute buffer (ggml_backend_sched_split_graph starts a new split for
    each), so it is the largest of them.
    """
    if needs.micro_batch < OFFLOAD_FROM_TOKENS or any(device.unified for device in machine.accelerators):
        return 0
    fast = {device.key for device in machine.accelerators}
    largest = 0
    for group in needs.weights.groups:
        if group.layer is not None:
            keys = placement.experts if group.part == "experts" else placement.dense
            if keys[group.layer] not in fast:
                largest = max(largest, group.largest)
    return largest


def _targets(machine: Machine, ask: Ask) -> list[Device]:
    """Return the accelerators that may be used, the fastest memory first."""
    known = [device for device in machine.accelerators if ask.gpu_layers or available(device)]
    return sorted(known, key=lambda device: -(device.bandwidth_bytes_per_s or 0))


def _options(machine: Machine, targets: list[Device], ask: Ask, needs: Needs) -> Iterator[Placement]:
    """Yield the whole model on the fewest accelerators that hold it; failing that, what they hold of it."""
    slots = needs.layers + 1 if ask.gpu_layers is None else min(ask.gpu_layers, needs.layers + 1)
    # Attention runs where its cache is, and a prefill on the host would wait for it: only when nothing else is left.
    caches = (True, False) if ask.kv_offload is None else (ask.kv_offload,)
    for count in range(1, len(targets) + 1):
        devices = [device for device in machine.accelerators if device in targets[:count]]
        whole = _Offload(devices, needs, slots, caches[0], ask.cpu_experts or 0).placed()
        if whole is not None:
            yield whole
            return
    devices = [device for device in machine.accelerators if device in targets]
    for cache in caches:
        for held in [slots] if ask.gpu_layers else range(slots, 0, -1):
            found = _Offload(devices, needs, held, cache, ask.cpu_experts).placed()
            if found is not None:
                yield found
                return
    if ask.gpu_layers:  # asked for by name: planned as asked, and the verdict says that it does not fit
        yield _Offload(devices, needs, slots, caches[0], ask.cpu_experts, forced=True).forced_placement()


class _Offload:
    """The last ``slots`` of the layers and the output on ``devices``, in their order.

    ``cpu_experts``: the experts of so many first layers stay on the host; None: as many as do not fit.
    """

    def __init__(
        self,
        devices: list[Device],
        needs: Needs,
        slots: int,
        cache: bool,
        cpu_experts: int | None,
        forced: bool = False,
    ) -> None:
        weights = needs.weights
        self._needs, self._cache, self._cpu_experts = needs, cache, cpu_experts
        self._first = needs.layers + 1 - slots  # the first layer on an accelerator
        tied = weights.embedding if weights.tied else 0  # a copy, or in unified memory the table itself
        self._costs = [self._fixed(layer) for layer in range(self._first, needs.layers)]
        self._costs.append(weights.output + tied)
        self._keys = [device.key for device in devices]
        staged = 0 if devices[0].unified or needs.micro_batch < OFFLOAD_FROM_TOKENS else self._staged()
        copies = PIPELINE_COPIES - 1 if len(devices) > 1 and cache and self._first == 0 else 0
        either = max(staged, copies * needs.inputs)  # inputs are only copied where no weight is left to stage
        working = needs.compute + either + weights.common
        self._rooms = [_room(device) - working for device in devices]

    def _fixed(self, layer: int) -> int:
        """Return the bytes of a layer that cannot stay on the host: its experts too, where that was said."""
        weights = self._needs.weights
        experts = self._cpu_experts is not None and layer >= self._cpu_experts
        return (
            weights.dense[layer]
            + (self._needs.kv[layer] if self._cache else 0)
            + (weights.experts[layer] if experts else 0)
        )

    def _staged(self) -> int:
        """Return the largest tensor that may stay on the host."""
        on_host = [
            group.largest
            for group in self._needs.weights.groups
            if group.layer is not None
            and (
                group.layer < self._first
                or (group.part == "experts" and (self._cpu_experts is None or group.layer < self._cpu_experts))
            )
        ]
        return max(on_host, default=0)

    def placed(self) -> Placement | None:
        """Return the placement, None where the devices do not hold it."""
        counts = divided(self._costs, self._rooms)
        return None if counts is None else self._placement(counts)

    def forced_placement(self) -> Placement:
        """Return a placement whether or not it fits: divided in proportion to the memory."""
        return self._placement(_in_proportion(self._costs, [max(room, 1) for room in self._rooms]))

    def _placement(self, counts: tuple[int, ...]) -> Placement:
        needs, first = self._needs, self._first
        weights = needs.weights
        owners = [key for key, count in zip(self._keys, counts, strict=True) for _ in range(count)]
        layers = ["cpu"] * first + owners[:-1]
        experts = [
            "" if not size else key if self._cpu_experts is not None and layer >= self._cpu_experts else "cpu"
            for layer, (key, size) in enumerate(zip(layers, weights.experts, strict=True))
        ]
        if self._cpu_experts is None:
            self._fill(experts, layers, owners)
        return Placement(
            dense=tuple(layers),
            experts=tuple(experts),
            kv=tuple(layers) if self._cache else ("cpu",) * needs.layers,
            embedding="cpu",
            output=owners[-1],
        )

    def _fill(self, experts: list[str], layers: list[str], owners: list[str]) -> None:
        """Bring the experts of the last layers of each stretch to its device, as long as there is room."""
        left = dict(zip(self._keys, self._rooms, strict=True))
        for key, cost in zip(owners, self._costs, strict=True):
            left[key] -= cost
        full: set[str] = set()
        for layer in range(self._needs.layers - 1, self._first - 1, -1):
            key, size = layers[layer], self._needs.weights.experts[layer]
            if size and key not in full:
                if size <= left[key]:
                    left[key] -= size
                    experts[layer] = key
                else:
                    full.add(key)  # the rest of its stretch stays on the host, so that the flags stay short


def _room(device: Device) -> int:
    """Return what a model may take of an accelerator in comfort, the engine's own context paid for."""
    free = available(device) or 0
    return min(int(FITS_BELOW * free), free - MARGIN_BYTES) - (0 if device.unified else CONTEXT_BYTES)


def divided(costs: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...] | None:
    """Divide consecutive slots of these costs over rooms, in order. Return how many each gets, None if they do not fit.

    In proportion to the rooms where that fits; else each is filled before the next.
    """
    usable = [max(room, 0) for room in rooms]
    if sum(costs) > sum(usable):
        return None
    counts = _in_proportion(costs, usable)
    starts = list(accumulate(counts, initial=0))
    if all(
        sum(costs[start : start + count]) <= room for start, count, room in zip(starts, counts, usable, strict=False)
    ):
        return counts
    filled, slot = [], 0
    for room in usable:
        begun, left = slot, room
        while slot < len(costs) and costs[slot] <= left:
            left -= costs[slot]
            slot += 1
        filled.append(slot - begun)
    return tuple(filled) if slot == len(costs) else None


def _in_proportion(costs: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...]:
    """Give each slot to the room in whose share of the total its middle lies."""
    total, space = sum(costs), sum(rooms)
    ends = [total * end / space for end in accumulate(rooms)] if space else []
    counts, done = [0] * len(rooms), 0
    for cost in costs:
        middle = done + cost / 2
        counts[next((index for index, end in enumerate(ends) if middle <= end), len(rooms) - 1)] += 1
        done += cost
    return tuple(counts)


def _all_on_host(needs: Needs) -> Placement:
    return Placement(
        dense=("cpu",) * needs.layers,
        experts=tuple("cpu" if size else "" for size in needs.weights.experts),
        kv=("cpu",) * needs.layers,
        embedding="cpu",
        output="cpu",
    )


def _paged(machine: Machine, placement: Placement, needs: Needs) -> Placement:
    """Leave the experts of the first layers on the disk when the host's memory cannot hold what is planned there."""
    memory = machine.cpu.memory_bytes
    if memory is None:
        return placement
    pool = {"cpu"} | {device.key for device in machine.accelerators if device.unified}
    held = resident(machine, placement, needs)
    used = sum(held.get(key, 0) for key in pool)
    if used <= memory:
        return placement
    experts = list(placement.experts)
    for layer in needs.weights.expert_layers:
        if used <= FITS_BELOW * memory:
            break
        if experts[layer] in pool:
            used -= needs.weights.experts[layer]
            experts[layer] = DISK
    return replace(placement, experts=tuple(experts))


def resident(machine: Machine, placement: Placement, needs: Needs) -> dict[str, int]:
    """Return the bytes that the placement takes of each device it uses, the host always among them."""
    weights = needs.weights
    fast = [device for device in machine.accelerators if device.key in placement.devices]
    used = {"cpu": needs.host}
    for key, size in (
        *zip(placement.dense, weights.dense, strict=True),
        *zip(placement.experts, weights.experts, strict=True),
        *zip(placement.kv, needs.kv, strict=True),
        (placement.output, weights.output),
        *((key, weights.embedding) for key in embedding_homes(machine, placement, weights)),
        *((key, weights.common) for key in layer_homes(placement)),
    ):
        if key:
            used[key] = used.get(key, 0) + size
    staged = staged_bytes(machine, placement, needs)
    copies = PIPELINE_COPIES - 1 if pipelined(machine, placement) else 0
    for device in fast:
        used[device.key] += needs.compute + copies * needs.inputs + staged
        used[device.key] += 0 if device.unified else CONTEXT_BYTES
    used["cpu"] += host_compute(machine, placement, needs)
    return used


def host_compute(machine: Machine, placement: Placement, needs: Needs) -> int:
    """Return the host's compute buffer: the whole graph where it computes layers, else the inputs of the others."""
    fast = {device.key for device in machine.accelerators}
    computes = not fast.issuperset((*placement.dense, *placement.kv, placement.output))
    return needs.compute if computes else needs.inputs


def embedding_homes(machine: Machine, placement: Placement, weights: Weights) -> tuple[str, ...]:
    """Return the devices that hold the embedding table, one twice where it holds a copy for the output.

    The engine always looks rows up on the host. A tied output on an accelerator is a second copy there, but not in
    unified memory, where both map the same pages: these are counted to the accelerator's working set. A tied output on
    the host is a second copy where the engine repacks it: rows cannot be looked up in what is packed.
    """
    if not weights.tied:
        return (placement.embedding,)
    if placement.output == placement.embedding:
        return (placement.embedding,) * (2 if _repacked(machine, weights) else 1)
    unified = {device.key for device in machine.accelerators if device.unified}
    return (placement.output,) if placement.output in unified else (placement.embedding, placement.output)


def _repacked(machine: Machine, weights: Weights) -> bool:
    """Whether the engine multiplies the embedding in a packing of its own (ggml-cpu/repack.cpp; beside a GPU, never).

    Known of x86 with AVX2 alone: others pack more types, by what each has.
    """
    types = {name for group in weights.groups if group.part == "embeddings" for name, _ in group.types}
    return (
        not machine.accelerators
        and "avx2" in machine.host.instructions
        and weights.embedding_rows % PACKED_ROWS == 0
        and types <= PACKED_TYPES
    )


def layer_homes(placement: Placement) -> tuple[str, ...]:
    """Return the devices that compute layers, each with its copy of what all layers share."""
    return tuple(dict.fromkeys(placement.dense))
