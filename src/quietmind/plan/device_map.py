"""Plans a run of transformers with Accelerate: whole layers on GPUs, then in the host's memory, then on the disk.

Layers that are not on a GPU are brought to the first one whole, experts that no token visits included, whenever one
passes them, and computed there (accelerate/hooks.py, AlignDevicesHook); their cache lives there too. Without a GPU the
host computes. The cache grows by copying (DynamicCache of transformers 5), so a layer's is there twice for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from quietmind.base.errors import ModelNotUnderstood
from quietmind.base.units import GIB, MIB
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.ask import DEFAULT_MICRO_BATCH, Ask
from quietmind.plan.device_speed import mapped_speed
from quietmind.plan.engines import engine_kind
from quietmind.plan.flags_transformers import transformers_flags
from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.parallel_weights import SIXTEEN_BITS, loaded_bytes
from quietmind.plan.place import FITS_BELOW, available
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.record import Plan, Verdict, device_uses, memory_verdict, worst
from quietmind.plan.warn import past_known, unsure
from quietmind.plan.weights import Weights, weights_of
from quietmind.plan.yarn import Yarn, yarn_for

LARGEST_DEFAULT_CONTEXT = 32768
HOST = "cpu"
F32 = 4

# The process with PyTorch and transformers loaded, on the host and in a GPU's memory. Estimates.
PROCESS_BYTES = 2 * GIB
CONTEXT_BYTES = 600 * MIB

_SIXTEEN = frozenset({"f32", "f16", "bf16"})


@dataclass(frozen=True)
class Mapped:
    """A model laid out. Bytes have one entry a layer, ``cache`` of all sequences.

    ``working`` is what computing takes, ``staged`` a layer on its way to a GPU, where some come and go. Layers that no
    GPU holds are ``computed_on`` a device that has their cache too.
    """

    placement: Placement
    weights: Weights
    cache: tuple[int, ...]
    working: int
    staged: int
    computed_on: str

    @property
    def ends(self) -> int:
        """Bytes of the embeddings, the output and its norm."""
        return self.weights.embedding + self.weights.output


def plan_mapped(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
    """Return the plan of ``card`` with transformers on ``machine``. Raises ModelNotUnderstood for quantized weights."""
    quantized = next((tensor.type for tensor in card.tensors if tensor.type not in _SIXTEEN), None)
    if quantized:
        raise ModelNotUnderstood(
            f"{card.name}: transformers is planned with 16-bit weights alone, and these are {quantized}; give "
            "--quant BF16 or its folder, or --engine vllm"
        )
    if ask.experts_used not in (None, card.experts_used):
        card = replace(card, experts_used=ask.experts_used or card.experts_used)
    card = replace(card, tensors=tuple(replace(tensor, bytes=loaded_bytes(tensor)) for tensor in card.tensors))
    weights = weights_of(card)
    context = ask.context if ask.context is not None else _largest_context(machine, card, weights, ask)
    return _planned(machine, card, ask, context, mapped(machine, card, weights, ask, context))


def _largest_context(machine: Machine, card: ModelCard, weights: Weights, ask: Ask) -> int:
    """Return the longest context, halved from the native one, that sends hardly more to the disk than the shortest."""
    shortest, hardly = 512, 1.1

    def on_disk(context: int) -> int:
        return mapped(machine, card, weights, ask, context).placement.dense.count(DISK)

    most, least = min(card.native_context, LARGEST_DEFAULT_CONTEXT), on_disk(shortest)
    while most > shortest and on_disk(most) > hardly * least:
        most //= 2
    return most


def mapped(machine: Machine, card: ModelCard, weights: Weights, ask: Ask, context: int) -> Mapped:
    """Return where each layer goes with ``context`` tokens of cache: as many as fit on GPUs in order, then the host."""
    layers = tuple(dense + experts for dense, experts in zip(weights.dense, weights.experts, strict=True))
    cache = tuple(_cache_bytes(card, layer, context) * ask.sequences for layer in range(card.layers))
    ends = weights.embedding + weights.output
    working = _working_bytes(card, min(ask.micro_batch or DEFAULT_MICRO_BATCH, context), context, ask.sequences) + max(
        cache, default=0
    )
    gpus = [device for device in machine.accelerators if available(device) and not device.unified]
    unified = [device for device in machine.accelerators if available(device) and device.unified]
    first = (gpus or unified or [machine.cpu])[0]
    for on_gpus in range(card.layers, -1, -1):
        staged = max(layers[on_gpus:], default=0) if first.key != HOST else 0
        here = ends + working + staged + CONTEXT_BYTES + sum(cache[on_gpus:])
        homes = _filled(gpus or unified, layers[:on_gpus], cache[:on_gpus], {first.key: here})
        if homes is not None:
            break
    else:
        homes, on_gpus, staged = [], 0, 0
    homes += _off_gpu(machine, first, layers[on_gpus:], cache[on_gpus:], ends + working)
    experts = {group.layer for group in weights.groups if group.part == "experts"}
    placement = Placement(
        dense=tuple(homes),
        experts=tuple(home if layer in experts else "" for layer, home in enumerate(homes)),
        kv=tuple(first.key if home in (HOST, DISK) else home for home in homes),
        embedding=first.key,
        output=first.key,
    )
    return Mapped(placement, weights, cache, working, staged, first.key)


def _filled(
    gpus: Sequence[Device], layers: Sequence[int], cache: Sequence[int], reserved: dict[str, int]
) -> list[str] | None:
    """Return the device of each layer if they fit on ``gpus`` in order, beside what is ``reserved``; else None."""
    homes: list[str] = []
    for device in gpus:
        left = FITS_BELOW * (available(device) or 0) - reserved.get(device.key, CONTEXT_BYTES)
        if device.key in reserved and left < 0:
            return None
        while len(homes) < len(layers) and layers[len(homes)] + cache[len(homes)] <= left:
            left -= layers[len(homes)] + cache[len(homes)]
            homes.append(device.key)
    return homes if len(homes) == len(layers) else None


def _off_gpu(
    machine: Machine, first: Device, layers: Sequence[int], cache: Sequence[int], computing: int
) -> Iterator[str]:
    """Yield where layers go that no GPU holds: the host's memory while there is room, then the disk."""
    free = available(machine.cpu)
    shared = first.key == HOST or first.unified
    left = float("inf") if free is None else FITS_BELOW * free - PROCESS_BYTES - (computing if shared else 0)
    left -= sum(cache) if shared else 0
    for size in layers:
        left -= size
        yield HOST if left >= 0 else DISK


def _cache_bytes(card: ModelCard, layer: int, context: int) -> int:
    """Return the cache of one layer for one sequence, in 16 bits. Raises ModelNotUnderstood."""
    kind = card.layer_kinds[layer]
    if kind is LayerKind.LINEAR:
        if card.recurrent is None:
            raise ModelNotUnderstood(f"{card.name}: no arithmetic for the cache of its linear attention layers")
        return (card.recurrent.state_elements + card.recurrent.convolution_elements) * F32
    if kind is LayerKind.LATENT:  # transformers caches the keys and values of all heads, not the latent row
        return context * card.heads * (card.key_length + card.value_length) * SIXTEEN_BITS
    cells = min(context, card.sliding_window or context) if kind is LayerKind.SLIDING else context
    return cells * card.kv_heads[layer] * (card.key_length + card.value_length) * SIXTEEN_BITS


def _working_bytes(card: ModelCard, tokens: int, context: int, sequences: int) -> int:
    """Return what computing ``tokens`` at once takes: an estimate, with PyTorch's own attention and eager kernels."""
    heads = max(card.kv_heads, default=1)
    width = max(card.feed_forward, card.shared_feed_forward, card.experts_used * card.expert_feed_forward)
    return (
        sequences
        * tokens
        * (4 * card.hidden + 2 * card.heads * card.key_length + 3 * width)  # residual, norms, queries and output, gate
        * SIXTEEN_BITS
        + sequences * tokens * context * SIXTEEN_BITS  # the mask
        + 2 * sequences * heads * context * (card.key_length + card.value_length) * SIXTEEN_BITS  # a layer's, repeated
        + 2 * sequences * card.vocabulary * F32  # logits of the last token
    )


def _planned(machine: Machine, card: ModelCard, ask: Ask, context: int, layout: Mapped) -> Plan:
    yarn = yarn_for(card, context)
    ledger = Ledger(tuple(_rows(machine, card, layout, context)))
    held = {device: ledger.total(device) for device in ledger.devices}
    weights = sum(layout.weights.dense) + sum(layout.weights.experts) + layout.ends
    ledger.prove(held, {"weights": weights, "KV cache": sum(layout.cache)})
    disk: Verdict = "tight" if DISK in held else "fits"
    kind = engine_kind(ask.engine)
    chunk = min(ask.micro_batch or DEFAULT_MICRO_BATCH, context)
    return Plan(
        model=card.name,
        arch=card.arch,
        machine=machine.name,
        engine=kind.title,
        verdict=worst(memory_verdict(machine, held), disk),
        context=context,
        kv_type="bf16",
        micro_batch=chunk,
        batch=chunk,
        threads=ask.threads or machine.host.usable_cores or machine.host.physical_cores,
        devices=device_uses(machine, held),
        ledger=ledger,
        warnings=tuple(_warnings(card, layout, context, yarn)),
        placement=layout.placement,
        flags=transformers_flags(machine, card, ask, layout.placement, context, yarn),
        speed=mapped_speed(machine, card, layout.placement, context, chunk, ask.threads),
        experts_used=card.experts_used,
        sequences=ask.sequences,
        quantization=card.quantization,
        native_context=card.native_context,
        engine_key=kind.key,
    )


def _rows(machine: Machine, card: ModelCard, layout: Mapped, context: int) -> Iterator[Row]:
    placement, first = layout.placement, layout.computed_on
    order = [HOST, *(device.key for device in machine.accelerators), DISK]
    for device in order:
        yield from _weight_rows(card, layout, device)
        held = [layer for layer, key in enumerate(placement.kv) if key == device]
        if held:
            size = sum(layout.cache[layer] for layer in held)
            yield Row(device, "KV cache", size, f"{len(held)} layers x {context:,} tokens in bf16", size)
        if device == first:
            yield Row(device, "compute buffer", layout.working, "estimate: activations, mask, logits, a layer's cache")
            if layout.staged:
                yield Row(device, "compute buffer, weights in transit", layout.staged, "one layer on its way")
        if device == HOST:
            yield Row(device, "engine process", PROCESS_BYTES, "estimate: PyTorch and transformers")
        elif device in placement.devices and device != DISK:
            yield Row(device, "engine context", CONTEXT_BYTES, "estimate: driver context and PyTorch's kernels")


def _weight_rows(card: ModelCard, layout: Mapped, device: str) -> Iterator[Row]:
    placement, weights = layout.placement, layout.weights
    if placement.embedding == device:
        yield Row(device, "weights: embeddings and output", layout.ends, "in 16 bits", layout.ends)
    held = [layer for layer, key in enumerate(placement.dense) if key == device]
    if not held:
        return
    said = f"layers {held[0]} to {held[-1]}"  # layers come in order, so a device's are a stretch
    moved = device in (HOST, DISK) and device != layout.computed_on
    dense = sum(weights.dense[layer] for layer in held)
    yield Row(device, "weights: layers", dense, said, dense)
    experts = sum(weights.experts[layer] for layer in held)
    if experts:
        read = experts if moved else round(experts * card.experts_used / card.experts)
        yield Row(device, "weights: experts", experts, f"{said}, all read for a token" if moved else said, read)


def _warnings(card: ModelCard, layout: Mapped, context: int, yarn: Yarn | None) -> Iterator[str]:
    yield from unsure(card)
    if yarn is not None:
        yield (
            f"context {context:,} is past the model's native {card.native_context:,}: it takes YaRN with a factor of "
            f"{yarn.factor:,.2f}, and answers to short prompts get worse{past_known(card, yarn)}"
        )
    away = [home for home in layout.placement.dense if home in (HOST, DISK)]
    if away and layout.computed_on != HOST:
        whole = ", every expert of a layer with it" if card.experts else ""
        yield (
            f"{len(away)} of {card.layers} layers are brought to {layout.computed_on} whole for each token{whole}; "
            "llama.cpp with a GGUF computes them where they are, and is faster"
        )
