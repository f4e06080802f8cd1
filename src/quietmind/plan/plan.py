"""Plans a run: which engine settings a model gets on a machine, where its parts go, and to the byte what they take.

Pure arithmetic over records: no files, no processes, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quietmind.base.errors import DoesNotFit
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import DEFAULT_MICRO_BATCH, LARGEST_CONTEXT, Ask, Run, refuse_nonsense
from quietmind.plan.compute import compute_bytes
from quietmind.plan.device_map import plan_mapped
from quietmind.plan.engines import engine_kind
from quietmind.plan.flags import engine_flags
from quietmind.plan.kv import CELL_STEP, KvGroup, kv_groups, kv_type, padded
from quietmind.plan.ledger import Ledger
from quietmind.plan.measured import Measurement
from quietmind.plan.micro_batch import DECODE_KEPT, SIZES, worth_trying
from quietmind.plan.parallel import plan_parallel
from quietmind.plan.place import Needs, available, embedding_homes, layer_homes, place, resident
from quietmind.plan.placement import DISK
from quietmind.plan.record import DeviceUse, Plan, Verdict, device_uses, memory_verdict, worst
from quietmind.plan.rows import F32, Placed, kv_group_of, ledger_rows, output_bytes, overhead_bytes
from quietmind.plan.speed import Speed, predict
from quietmind.plan.warn import warnings_of
from quietmind.plan.weights import ENGINE_ALIGNMENT, Weights, weights_of
from quietmind.plan.yarn import yarn_for

__all__ = [
    "ENGINE",
    "LARGEST_CONTEXT",
    "LARGEST_DEFAULT_CONTEXT",
    "Ask",
    "DeviceUse",
    "Plan",
    "Verdict",
    "device_uses",
    "memory_verdict",
    "plan",
    "worst",
]

ENGINE = "llama.cpp"
LARGEST_DEFAULT_CONTEXT = 32768  # beyond it a person asks by name: prefill grows with it, in time and in memory

# Of the experts, at most this share may be read from the disk: past it the disk is all that decoding waits for.
PAGED_AT_MOST = 0.5


def plan(machine: Machine, card: ModelCard, ask: Ask | None = None, measured: Sequence[Measurement] = ()) -> Plan:
    """Return the plan of ``card`` on ``machine``. ``measured`` runs of this machine correct its speed.

    A model that does not fit is still planned: the verdict says so and the ledger shows why. Raises UsageError for an
    ask that makes no sense, ModelNotUnderstood for weights that the engine cannot load, DoesNotFit where the machine
    has no memory to plan with.
    """
    ask = ask or Ask()
    refuse_nonsense(ask, card)
    refuse_no_memory(machine)
    placing = engine_kind(ask.engine).placing
    if placing == "parallel":
        return plan_parallel(machine, card, ask)
    if placing == "device map":
        return plan_mapped(machine, card, ask)
    sized = _Sized(card, weights_of(card, ENGINE_ALIGNMENT))
    tokens = ask.context if ask.context is not None else _largest_context(machine, sized, ask)
    return _planned(_settled(machine, sized, ask, tokens), measured, ask.engine)


def refuse_no_memory(machine: Machine) -> None:
    """Raise DoesNotFit where the machine has no memory to plan with."""
    if available(machine.cpu) == 0:
        raise DoesNotFit(f"{machine.name}: no memory is free on the {machine.cpu.name}; close programs and try again")


@dataclass(frozen=True)
class _Sized:
    """A model with its weights sorted, which is done once for many contexts."""

    card: ModelCard
    weights: Weights


def _largest_context(machine: Machine, sized: _Sized, ask: Ask) -> int:
    """Return the largest multiple of the engine's step, up to the native context, that does as well as the smallest.

    That is: it fits if anything fits. If nothing does, the smallest.
    """

    def verdict(steps: int) -> Verdict:
        return _verdict(_placed(machine, sized, ask, steps * CELL_STEP))

    most = max(1, min(sized.card.native_context, LARGEST_DEFAULT_CONTEXT) // CELL_STEP)
    if verdict(most) == "fits":
        return most * CELL_STEP
    best = verdict(1)
    if best == "does not fit":
        return CELL_STEP
    low, high = 1, most + 1  # low does as well as the smallest, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if verdict(middle) == best else (low, middle)
    return low * CELL_STEP


def _settled(machine: Machine, sized: _Sized, ask: Ask, tokens: int) -> Placed:
    """Find the place of every part, and the micro-batch where the ask leaves it open.

    It is chosen by what is predicted, not by what was measured: a machine that has just been measured computes as it
    did before, and what notebooks hold stays what it was.
    """
    default = _placed(machine, sized, ask, tokens)
    if ask.micro_batch is not None or ask.batch < DEFAULT_MICRO_BATCH or _verdict(default) == "does not fit":
        return default
    sizes = [size for size in SIZES if size <= tokens * ask.sequences]
    promised = {size: _speed(default, size) for size in sizes}
    prefill = {size: speed.prefill.mid for size, speed in promised.items() if speed and speed.prefill}
    for size in worth_trying(prefill) if len(prefill) > 1 else ():
        larger = _placed(machine, sized, replace(ask, micro_batch=size, batch=max(ask.batch, size)), tokens)
        if _verdict(larger) == _verdict(default) and _decodes_alike(_speed(larger), _speed(default)):
            return larger
    return default


def _decodes_alike(one: Speed | None, other: Speed | None) -> bool:
    if one is None or other is None or one.decode is None or other.decode is None:
        return False
    return one.decode.mid >= DECODE_KEPT * other.decode.mid


def _placed(machine: Machine, sized: _Sized, ask: Ask, tokens: int) -> Placed:
    """Settle the ask at ``tokens`` of context for each sequence, and find the place of every part."""
    card, context = sized.card, padded(tokens)
    batch = min(ask.batch, tokens * ask.sequences)  # the engine lowers both likewise, before it pads the context
    run = Run(
        context=context,
        batch=batch,
        micro_batch=min(ask.micro_batch or DEFAULT_MICRO_BATCH, batch),
        kind=kv_type(ask.kv_type),
        threads=ask.threads or machine.host.usable_cores or machine.host.physical_cores,
        sequences=ask.sequences,
        experts_used=None if ask.experts_used == card.experts_used else ask.experts_used,
        flash_attention=ask.flash_attention,
        yarn=yarn_for(card, context),
    )
    if run.experts_used is not None:
        card = replace(card, experts_used=run.experts_used)
    groups = kv_groups(card, context, run.micro_batch, run.kind)
    needs = _needs(card, sized.weights, groups, run)
    return Placed(machine, card, place(machine, ask, needs), needs, groups, run)


def _needs(card: ModelCard, weights: Weights, groups: tuple[KvGroup, ...], run: Run) -> Needs:
    tokens = -(-run.micro_batch // run.sequences) * run.sequences  # the engine gives every sequence equally many
    compute = compute_bytes(
        card, run.context, tokens, run.kind, flash_attention=run.flash_attention, sequences=run.sequences
    )
    cache = [kv_group_of(groups, card, layer) for layer in range(card.layers)]
    inputs = (
        (2 if run.flash_attention else F32)  # a mask, in half precision for flash attention
        * run.context  # over the whole cache
        * tokens  # for every token of the micro-batch
        + F32  # and the embeddings
        * card.hidden
        * tokens
    )
    return Needs(
        weights=weights,
        kv=tuple(0 if group is None else group.bytes // group.layers * run.sequences for group in cache),
        compute=compute,
        inputs=min(inputs, compute),
        host=output_bytes(card, run.sequences) + overhead_bytes(card),
        micro_batch=tokens,
        expert_share=card.experts_used / card.experts if card.experts else 0.0,
        sequences=run.sequences,
    )


def _planned(placed: Placed, measured: Sequence[Measurement], engine: str) -> Plan:
    machine, card, run, placement = placed.machine, placed.card, placed.run, placed.placement
    ledger = Ledger(ledger_rows(placed))
    held = resident(machine, placement, placed.needs)
    _prove(ledger, placed, held)
    return Plan(
        model=card.name,
        arch=card.arch,
        machine=machine.name,
        engine=ENGINE if engine == "llama.cpp" else engine_kind(engine).title,
        verdict=_verdict(placed),
        context=run.context,
        kv_type=run.kind.name,
        micro_batch=run.micro_batch,
        batch=run.batch,
        threads=run.threads,
        devices=device_uses(machine, held),
        ledger=ledger,
        warnings=warnings_of(machine, card, placement, run, ledger),
        placement=placement,
        flags=engine_flags(machine, card, placement, run),
        speed=_speed(placed, measured=measured),
        experts_used=card.experts_used,
        sequences=run.sequences,
        quantization=card.quantization,
        native_context=card.native_context,
        engine_key=engine,
    )


def _prove(ledger: Ledger, placed: Placed, held: dict[str, int]) -> None:
    """Compare the rows with the sums that the placement was chosen by, and with the model's own totals."""
    weights, placement = placed.needs.weights, placed.placement
    copies = (len(embedding_homes(placed.machine, placement, weights)) - 1) * weights.embedding + (
        len(layer_homes(placement)) - 1
    ) * weights.common
    stored = sum(group.bytes for group in placed.groups) * placed.run.sequences
    cached = ledger.component("recurrent state")
    gaps = sum(-tensor.bytes % ENGINE_ALIGNMENT for tensor in placed.card.tensors)
    ledger.prove(held, {"weights": placed.card.weight_bytes + gaps + copies, "KV cache": stored - cached})


def _speed(placed: Placed, micro_batch: int | None = None, measured: Sequence[Measurement] = ()) -> Speed | None:
    """Return how fast it runs with its whole context filled, the slowest that it gets."""
    run = placed.run
    return predict(
        placed.machine,
        placed.card,
        placed.placement,
        kv_type=run.kind.name,
        micro_batch=micro_batch or run.micro_batch,
        depth=run.context,
        experts_used=run.experts_used,
        threads=run.threads,
        measured=measured,
    )


def _verdict(placed: Placed) -> Verdict:
    """Return the verdict of memory, or a worse one of the disk: experts read from it are tight, if most are not."""
    weights, placement = placed.needs.weights, placed.placement
    paged = sum(size for key, size in zip(placement.experts, weights.experts, strict=True) if key == DISK)
    disk: Verdict = (
        "fits" if not paged else "tight" if paged <= PAGED_AT_MOST * sum(weights.experts) else "does not fit"
    )
    return worst(memory_verdict(placed.machine, resident(placed.machine, placement, placed.needs)), disk)
