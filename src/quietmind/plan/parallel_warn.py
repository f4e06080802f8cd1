"""What a person should know of a plan that shards a model, one line each."""

from __future__ import annotations

from collections.abc import Iterator

from quietmind.base.units import GIB, format_bytes
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan.engines import EngineKind
from quietmind.plan.parallel_run import ShardedRun
from quietmind.plan.parallel_weights import expected_busiest
from quietmind.plan.place import available
from quietmind.plan.warn import past_known, unsure
from quietmind.plan.yarn import documented_context

# Models whose makers reach 1M tokens with dual chunk attention, by their native context.
_DUAL_CHUNK = {("qwen3moe", 262_144)}


def parallel_warnings(
    machine: Machine, gpus: tuple[Device, ...], card: ModelCard, run: ShardedRun, kind: EngineKind
) -> tuple[str, ...]:
    """Return the warnings of a sharded model, the costliest mistake first."""
    return (
        *unsure(card),
        *_past_native(card, run, kind),
        *_other_experts(card, run),
        *_waiting(run, kind),
        *_from_host(card, run),
        *_nodes(run, kind),
        *_dealt_out(card, run),
        *_eight_bits(run),
        *_unknown(gpus, run),
        *_unused(machine, gpus, run),
    )


def _past_native(card: ModelCard, run: ShardedRun, kind: EngineKind) -> Iterator[str]:
    yarn, promised = run.yarn, documented_context(card)
    if yarn is None and promised < min(run.sharding.context, card.native_context):
        yield (
            f"context {run.sharding.context:,} is within the native {card.native_context:,} of the model's file, but "
            f"past the {promised:,} that its makers document"
        )
    if yarn is None:
        return
    trained = "" if yarn.original == card.native_context else f" of the {yarn.original:,} trained on"
    yield (
        f"context {run.sharding.context:,} is past the model's native {card.native_context:,}: it takes YaRN with a "
        f"factor of {yarn.factor:,.2f}{trained}, and answers to short prompts get worse{past_known(card, yarn)}"
    )
    if (card.arch, card.native_context) in _DUAL_CHUNK:
        yield (
            "the model's makers reach 1M tokens with dual chunk attention, which vLLM no longer has; of YaRN alone, as "
            f"{kind.title} runs it here, nothing is published: try it on your own questions first"
        )


def _other_experts(card: ModelCard, run: ShardedRun) -> Iterator[str]:
    if run.experts_used is not None:
        yield (
            f"{run.experts_used} of {card.experts} experts are used, not as many as in training: the bytes read for a "
            "token change with them, the bytes held do not, and answers may get worse"
        )


def _waiting(run: ShardedRun, kind: EngineKind) -> Iterator[str]:
    sharding = run.sharding
    waiting = sharding.sequences - sharding.resident
    if waiting:
        yield (
            f"the GPUs hold the caches of {sharding.resident} of {sharding.sequences} sequences with the context full; "
            f"the others wait in {format_bytes(sharding.cache_offloaded)} of the host's memory until their turn comes, "
            f"since {kind.title} attends to what is on the GPUs alone"
        )


def _from_host(card: ModelCard, run: ShardedRun) -> Iterator[str]:
    if run.sharding.gpu_experts is not None:
        yield (
            f"{run.sharding.gpu_experts} of {card.experts} experts of a layer are on the GPUs, and the processor "
            "multiplies with the others: SGLang needs the kt-kernel package for that"
        )
    elif run.sharding.weights_offloaded:
        yield (
            f"{run.sharding.weights_offloaded / GIB:.0f} GiB of each GPU's weights stay in the host's memory and cross "
            "the link whenever they are needed; fewer bits a weight or more GPUs are faster"
        )


def _nodes(run: ShardedRun, kind: EngineKind) -> Iterator[str]:
    if run.sharding.split.nodes > 1:
        yield (
            f"one of {run.sharding.split.nodes} equal nodes is shown; what {kind.title} sends between them leaves the "
            "machine and is not encrypted: use a network of their own"
        )


def _dealt_out(card: ModelCard, run: ShardedRun) -> Iterator[str]:
    split = run.sharding.split
    if split.experts > 1:
        busiest = expected_busiest(card.experts_used, split.experts)
        yield (
            f"experts are dealt out whole: their width of {card.expert_feed_forward:,} cut in {split.tensor} would "
            f"break the blocks of their quantization; of one token the busiest GPU reads {busiest:.1f} experts a "
            f"layer, where {card.experts_used / split.experts:.1f} would be even"
        )


def _eight_bits(run: ShardedRun) -> Iterator[str]:
    if run.kv_type == "fp8":
        yield (
            "an FP8 cache is rounded with a scale of 1 unless the checkpoint brings its own; what that costs on your "
            "questions was not measured"
        )


def _unknown(gpus: tuple[Device, ...], run: ShardedRun) -> Iterator[str]:
    if run.gpu_memory is None:
        yield (
            f"{gpus[0].name}: how much memory it has could not be found out; the verdict is a guess, and the engine "
            "takes the share of it that it takes by itself"
        )


def _unused(machine: Machine, gpus: tuple[Device, ...], run: ShardedRun) -> Iterator[str]:
    used = {device.key for device in gpus[: run.sharding.split.gpus_per_node]}
    idle = [device for device in machine.accelerators if device.key not in used and available(device)]
    if idle:
        names = ", ".join(device.key for device in idle)
        yield f"{names} unused: the model is not clearly faster with more GPUs, they differ, or it was asked so"
