"""Plans a run: which engine settings a model gets on a machine, and to the byte what it will take there.

Pure arithmetic over records: no files, no processes, no clock. This version keeps everything in the host's memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from quietmind.base.errors import UsageError
from quietmind.base.units import MIB
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.ggml_types import GgmlType
from quietmind.plan.compute import F32, compute_bytes
from quietmind.plan.kv import CELL_STEP, kv_formula, kv_groups, kv_type, padded
from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.placement import Placement
from quietmind.plan.speed import Speed

Verdict = Literal["fits", "tight", "does not fit"]

ENGINE = "llama.cpp"
LARGEST_DEFAULT_CONTEXT = 32768  # beyond it a person asks by name: prefill grows with it, in time and in memory
LARGEST_CONTEXT = 1 << 31  # positions are 32-bit in the engine
FITS_BELOW = 0.9  # the share of free memory that a model may take and leave the system in comfort

# The engine's process beside the buffers of its own accounting: code, vocabulary, threads, HTTP server, scratch space
# of operations. Measured as the resident memory of a child after a prompt, less those buffers: 64 MiB for a vocabulary
# of 49,152 tokens, the same at contexts of 1k and 2k. How much of it grows with the vocabulary is an estimate.
ENGINE_BASE_BYTES = 48 * MIB
ENGINE_BYTES_PER_TOKEN_OF_VOCABULARY = 512


@dataclass(frozen=True)
class Ask:
    """What the person wants of a run.

    ``context`` in tokens, None for the largest sensible that fits. ``batch`` tokens are handed to the engine at once,
    and ``micro_batch`` of them computed together. ``threads`` None: one for each physical core that we may use.
    ``sequences`` are answered at once, each with a context of its own. ``experts_used`` None: as the model was trained.
    """

    context: int | None = None
    kv_type: str = "f16"
    micro_batch: int = 512
    batch: int = 2048
    threads: int | None = None
    sequences: int = 1
    experts_used: int | None = None
    flash_attention: bool = True


@dataclass(frozen=True)
class DeviceUse:
    """What a plan does to a device. ``capacity_bytes`` and ``free_bytes`` are None where the machine does not say."""

    device: str
    name: str
    capacity_bytes: int | None
    free_bytes: int | None
    needed_bytes: int


@dataclass(frozen=True)
class Plan:
    """A model on a machine. ``context`` is what the engine allocates: the asked one, padded to its step.

    ``free`` is what each device would give now, so a verdict of "tight" may become "fits" by closing programs.
    """

    model: str
    arch: str
    machine: str
    engine: str
    verdict: Verdict
    context: int
    kv_type: str
    micro_batch: int
    batch: int
    threads: int | None
    devices: tuple[DeviceUse, ...]
    ledger: Ledger
    warnings: tuple[str, ...]
    placement: Placement | None = None
    flags: tuple[str, ...] = ()
    speed: Speed | None = None
    experts_used: int = 0
    sequences: int = 1


def plan(machine: Machine, card: ModelCard, ask: Ask | None = None) -> Plan:
    """Return the plan of ``card`` on ``machine``. Raises UsageError for an ask that makes no sense.

    A model that does not fit is still planned: the verdict says so and the ledger shows why.
    """
    ask = ask or Ask()
    _refuse_nonsense(ask)
    kind = kv_type(ask.kv_type)
    if ask.context is not None:
        return _planned(machine, card, ask, kind, ask.context)
    return _largest_that_fits(machine, card, ask, kind)


def _refuse_nonsense(ask: Ask) -> None:
    for what, value, largest in (
        ("context", ask.context, LARGEST_CONTEXT),
        ("micro-batch", ask.micro_batch, 1 << 20),
        ("batch", ask.batch, 1 << 20),
        ("number of threads", ask.threads, 1 << 12),
    ):
        if value is not None and not 1 <= value <= largest:
            raise UsageError(f"a {what} of {value:,} makes no sense; give a number from 1 to {largest:,}")


def _largest_that_fits(machine: Machine, card: ModelCard, ask: Ask, kind: GgmlType) -> Plan:
    """Search the multiples of the engine's step up to the native context. If none fits, plan the smallest."""
    steps = max(1, min(card.native_context, LARGEST_DEFAULT_CONTEXT) // CELL_STEP)
    best = _planned(machine, card, ask, kind, steps * CELL_STEP)
    if best.verdict == "fits":
        return best
    smallest = _planned(machine, card, ask, kind, CELL_STEP)
    if smallest.verdict != "fits":
        return smallest
    low, high, best = 1, steps, smallest  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        tried = _planned(machine, card, ask, kind, middle * CELL_STEP)
        if tried.verdict == "fits":
            low, best = middle, tried
        else:
            high = middle
    return best


def _planned(machine: Machine, card: ModelCard, ask: Ask, kind: GgmlType, tokens: int) -> Plan:
    cpu = machine.cpu
    context = padded(tokens)
    batch = min(ask.batch, tokens)  # the engine lowers both likewise, before it pads the context
    micro_batch = min(ask.micro_batch, batch)
    groups = kv_groups(card, context, micro_batch, kind)
    compute = compute_bytes(card, context, micro_batch, kind)
    output = F32 * card.vocabulary
    overhead = ENGINE_BASE_BYTES + ENGINE_BYTES_PER_TOKEN_OF_VOCABULARY * card.vocabulary
    rows = [
        *_weight_rows(card),
        *(Row("cpu", _KV_ROWS[group.kind], group.bytes, kv_formula(card, group, kind)) for group in groups),
        Row(
            "cpu",
            "compute buffer",
            compute,
            f"peak of one graph: {micro_batch:,} tokens of {context:,} (allocator replayed)",
        ),
        Row("cpu", "output buffer", output, f"1 row x {card.vocabulary:,} logits x {F32} B (f32)"),
        Row(
            "cpu",
            "engine overhead",
            overhead,
            f"measured: {ENGINE_BASE_BYTES // MIB} MiB + {card.vocabulary:,} tokens of vocabulary "
            f"x {ENGINE_BYTES_PER_TOKEN_OF_VOCABULARY:,} B",
        ),
    ]
    ledger = Ledger(tuple(rows))
    kv = sum(group.bytes for group in groups)
    needed = card.weight_bytes + kv + compute + output + overhead
    ledger.prove({"cpu": needed}, {"weights": card.weight_bytes, "KV cache": kv})
    verdict = _verdict(cpu, needed)
    return Plan(
        model=card.name,
        arch=card.arch,
        machine=machine.name,
        engine=ENGINE,
        verdict=verdict,
        context=context,
        kv_type=kind.name,
        micro_batch=micro_batch,
        batch=batch,
        threads=ask.threads or machine.host.usable_cores or machine.host.physical_cores,
        devices=(DeviceUse("cpu", cpu.name, cpu.memory_bytes, cpu.free_bytes, needed),),
        ledger=ledger,
        warnings=tuple(_warnings(machine, card, context)),
    )


def _verdict(device: Device, needed: int) -> Verdict:
    """Compare with what is free now; up to all that the device has, it is tight. Unknown memory is never enough."""
    if device.memory_bytes is not None and needed > device.memory_bytes:
        return "does not fit"
    free = device.free_bytes if device.free_bytes is not None else device.memory_bytes
    return "fits" if free is not None and needed <= FITS_BELOW * free else "tight"


def _warnings(machine: Machine, card: ModelCard, context: int) -> list[str]:
    warnings = []
    if context > padded(card.native_context):
        factor = context / card.native_context
        warnings.append(
            f"context {context:,} is past the model's native {card.native_context:,}: it takes YaRN with a factor of "
            f"{factor:.2f} (and an override of {card.arch}.context_length), and answers to short prompts get worse"
        )
    cpu = machine.cpu
    if cpu.memory_bytes is None and cpu.free_bytes is None:
        warnings.append("how much memory this machine has could not be found out; the verdict is a guess")
    idle = sorted({device.name for device in machine.devices if device.kind != "cpu"})
    if idle:
        warnings.append(f"{', '.join(idle)} stays unused: this version plans for the host's memory only")
    return warnings


_KV_ROWS = {LayerKind.FULL: "KV cache", LayerKind.SLIDING: "KV cache, sliding window"}

_WEIGHT_CLASSES = ("embeddings", "attention", "feed-forward", "experts", "norms", "output", "other")


def _weight_class(name: str) -> str:
    """Return which part of a model a tensor belongs to, by GGUF's names."""
    if name == "output.weight":
        return "output"
    if "norm" in name:
        return "norms"
    for mark, part in (
        ("_embd", "embeddings"),
        ("_exps", "experts"),
        (".attn_", "attention"),
        (".ffn_", "feed-forward"),
    ):
        if mark in name:
            return part
    return "other"


def _weight_rows(card: ModelCard) -> list[Row]:
    """Return the mapped bytes of the weights by class, in a fixed order, empty classes left out."""
    classes: dict[str, list[Tensor]] = {name: [] for name in _WEIGHT_CLASSES}
    for tensor in card.tensors:
        classes[_weight_class(tensor.name)].append(tensor)
    return [
        Row("cpu", f"weights: {name}", sum(tensor.bytes for tensor in tensors), _counted(tensors))
        for name, tensors in classes.items()
        if tensors
    ]


def _counted(tensors: list[Tensor]) -> str:
    types = Counter(tensor.type for tensor in tensors).most_common()
    listed = ", ".join(f"{count} of {name}" for name, count in types) if len(types) > 1 else types[0][0]
    return f"{len(tensors)} tensors: {listed}" if len(tensors) > 1 else f"1 tensor: {listed}"
