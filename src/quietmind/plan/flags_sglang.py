"""The words after ``python -m sglang.launch_server`` that reproduce a plan.

Names and meanings: arg_groups/fields of SGLang 0.5.23, mem_cache/kv_cache_configurator.py for what its share of memory
means.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from quietmind.machine.machine import Host
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.engines import ENGINES, kv_word
from quietmind.plan.overrides import config_overrides, served_path
from quietmind.plan.parallel_run import ShardedRun

_STEPS = 1000
_GIGABYTE = 10**9  # --hicache-size counts decimal ones (mem_cache/pool_host/base.py)
_LARGEST_SHARE = 0.97
_PERCENT = 100

# How kt-kernel, which multiplies with experts on the host, calls the weights that it takes from a checkpoint as they
# are, and the instructions that it needs (Native-Precision-Tutorial of KTransformers). Others have to be converted.
_HOST_METHODS = (
    ("fp8_channel", "FP8_PERCHANNEL", "avx512f"),
    ("fp8_", "FP8", "avx512f"),
    ("bf16", "BF16", "amx_bf16"),
)


def sglang_flags(host: Host, card: ModelCard, run: ShardedRun) -> tuple[str, ...]:
    """Return the words after ``python -m sglang.launch_server``. Each word is one argument."""
    sharding, split = run.sharding, run.sharding.split
    overrides = config_overrides(card, run.sharding.context, run.experts_used, run.yarn)
    return (
        *("--model-path", served_path(card)),
        *("--context-length", str(sharding.context)),
        *("--tp-size", str(split.tensor)),
        *(("--pp-size", str(split.pipeline)) if split.pipeline > 1 else ()),
        *(("--ep-size", str(split.experts)) if split.experts > 1 else ()),
        *(("--nnodes", str(split.nodes)) if split.nodes > 1 else ()),
        *("--kv-cache-dtype", kv_word(ENGINES["sglang"], run.kv_type)),
        *_memory(run),
        *("--max-running-requests", str(sharding.sequences)),
        *("--chunked-prefill-size", str(sharding.batched)),
        *_windows(card, run),
        *_offloads(run),
        *_host_experts(host, card, run),
        *(("--json-model-override-args", overrides) if overrides is not None else ()),
    )


def _memory(run: ShardedRun) -> Iterator[str]:
    share = static_share(run)
    if share is not None:
        yield from ("--mem-fraction-static", f"{share:g}")


def static_share(run: ShardedRun) -> float | None:
    """Return the share of what is free when the weights are loaded that weights and cache may take.

    The driver's context and the collectives' buffers are there before; activations and graphs need the rest. None where
    the memory is not known.
    """
    if not run.gpu_free:
        return None
    fullest = max(run.each, key=lambda share: share.total)
    before = sum(round(size.mid) for name, size, _ in fullest.estimates if name in ("engine context", "collectives"))
    table = sum(round(size.high) for name, size, _ in fullest.estimates if name == "RoPE table")
    static = fullest.counted - run.sharding.weights_offloaded + table
    share = ceil(_STEPS * static / max(1, run.gpu_free - before)) / _STEPS
    return min(_LARGEST_SHARE, share)


def _windows(card: ModelCard, run: ShardedRun) -> Iterator[str]:
    """Yield how much smaller the pool of sliding windows is than that of whole contexts (its default is 0.8)."""
    if card.sliding_window and {LayerKind.SLIDING, LayerKind.FULL} <= set(card.layer_kinds):
        cells = min(run.sharding.context, card.sliding_window + 2 * run.sharding.batched)
        yield from ("--swa-full-tokens-ratio", f"{ceil(_PERCENT * cells / run.sharding.context) / _PERCENT:g}")


def _offloads(run: ShardedRun) -> Iterator[str]:
    """Yield the host's memory for caches that the GPUs have no room for, of each GPU's process."""
    if run.sharding.cache_offloaded:
        each = ceil(run.sharding.cache_offloaded / run.sharding.split.gpus / _GIGABYTE)
        yield from ("--enable-hierarchical-cache", "--hicache-size", str(each))


def host_method(card: ModelCard, host: Host) -> str | None:
    """Return how the host's processor can multiply with the experts of a checkpoint; None where it cannot."""
    kinds = {tensor.type for tensor in card.tensors if tensor.name.endswith("exps.weight")}
    found = [
        next(
            (name for kind, name, needs in _HOST_METHODS if each.startswith(kind) and needs in host.instructions), None
        )
        for each in kinds
    ]
    return found[0] if len(set(found)) == 1 else None


def _host_experts(host: Host, card: ModelCard, run: ShardedRun) -> Iterator[str]:
    if run.sharding.gpu_experts is None:
        return
    yield from ("--kt-weight-path", served_path(card))
    yield from ("--kt-method", host_method(card, host) or "")
    cores = host.usable_cores or host.physical_cores
    if cores:
        yield from ("--kt-cpuinfer", str(cores))
    yield from ("--kt-threadpool-count", str(host.numa_nodes or 1))  # one for each NUMA node
    yield from ("--kt-num-gpu-experts", str(run.sharding.gpu_experts))
