"""What an engine that shards is told, settled: the input of its flags and warnings."""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.plan.parallel_ledger import Sharding, Share
from quietmind.plan.yarn import Yarn


@dataclass(frozen=True)
class ShardedRun:
    """``each`` is what every GPU of a node holds. ``experts_used`` and ``yarn`` are None where nothing is overridden.

    ``gpu_memory`` and ``gpu_free`` are bytes of one of the equal GPUs, None where the machine does not say.
    """

    sharding: Sharding
    kv_type: str
    experts_used: int | None
    yarn: Yarn | None
    gpu_memory: int | None
    gpu_free: int | None
    each: tuple[Share, ...]
