"""The words after ``vllm serve`` that reproduce a plan.

Names and meanings: engine/arg_utils.py, config/cache.py and config/parallel.py of vLLM 0.33. How the weights are
quantized, vLLM reads from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor

from quietmind.base.units import GIB
from quietmind.model.card import ModelCard
from quietmind.plan.engines import ENGINES, kv_word
from quietmind.plan.overrides import config_overrides, served_path
from quietmind.plan.parallel_run import ShardedRun

_STEPS = 1000  # a share of memory is given to a thousandth
LARGEST_SHARE = 0.98  # what a display and the driver leave; more is refused at the start


def vllm_flags(card: ModelCard, run: ShardedRun) -> tuple[str, ...]:
    """Return the words after ``vllm serve``. Each word is one argument; none needs a shell's quotes but JSON."""
    sharding, split = run.sharding, run.sharding.split
    return (
        served_path(card),
        *("--max-model-len", str(sharding.context)),
        *("--tensor-parallel-size", str(split.tensor)),
        *(("--pipeline-parallel-size", str(split.pipeline)) if split.pipeline > 1 else ()),
        *(("--enable-expert-parallel",) if split.experts > 1 else ()),
        *(("--decode-context-parallel-size", str(split.context)) if split.context > 1 else ()),
        *(("--distributed-executor-backend", "ray") if split.nodes > 1 else ()),
        *("--kv-cache-dtype", kv_word(ENGINES["vllm"], run.kv_type)),
        *_memory(run),
        *("--max-num-seqs", str(sharding.sequences)),
        *("--max-num-batched-tokens", str(sharding.batched)),
        "--enable-chunked-prefill",
        "--enable-prefix-caching",
        *_offloads(card, run),
        *_overrides(card, run),
    )


def _memory(run: ShardedRun) -> Iterator[str]:
    share = memory_share(run)
    if share is not None:
        yield from ("--gpu-memory-utilization", f"{share:g}")


def memory_share(run: ShardedRun) -> float | None:
    """Return the share of a GPU's memory that the engine may take: the ledger with its estimates at their highest.

    What its own profile of a forward pass leaves of it becomes KV cache (v1/worker/gpu_worker.py,
    determine_available_memory), so too little would refuse the context. None where the memory is not known.
    """
    if not run.gpu_memory:
        return None
    most = max(share.most for share in run.each) - run.sharding.weights_offloaded
    free = LARGEST_SHARE if run.gpu_free is None else min(LARGEST_SHARE, run.gpu_free / run.gpu_memory)
    return min(ceil(_STEPS * most / run.gpu_memory), floor(_STEPS * free)) / _STEPS


def _offloads(card: ModelCard, run: ShardedRun) -> Iterator[str]:
    """Yield what stays in the host's memory, in GiB: of all GPUs together for the cache, of each for weights."""
    sharding = run.sharding
    if sharding.cache_offloaded:
        yield from ("--kv-offloading-size", str(sharding.cache_offloaded // GIB))
        yield from ("--kv-offloading-backend", "native")
    if sharding.weights_offloaded:
        yield from ("--cpu-offload-gb", str(sharding.weights_offloaded // GIB))
        if card.experts:
            yield from ("--cpu-offload-params", "experts")  # of these, a token reads only what is at work


def _overrides(card: ModelCard, run: ShardedRun) -> Iterator[str]:
    overrides = config_overrides(card, run.sharding.context, run.experts_used, run.yarn)
    if overrides is not None:
        yield from ("--hf-overrides", overrides)
