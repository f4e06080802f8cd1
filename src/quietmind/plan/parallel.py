"""Plans a run of an engine that shards a model over equal GPUs: vLLM and SGLang.

Every division that the engine accepts is laid out and judged: does it fit with the wanted context, and how fast does
one sequence decode with the context full. Of those that fit, the fewest GPUs are taken unless more are clearly faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from quietmind.base.errors import UsageError
from quietmind.base.units import GIB
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import Ask
from quietmind.plan.engines import EngineKind, engine_kind, kv_word
from quietmind.plan.flags_sglang import host_method, sglang_flags
from quietmind.plan.flags_vllm import vllm_flags
from quietmind.plan.parallel_ledger import (
    Sharding,
    Share,
    gpus_of_node,
    ledger_of,
    left_behind,
    shares,
    with_offloaded_cache,
)
from quietmind.plan.parallel_run import ShardedRun
from quietmind.plan.parallel_speed import parallel_speed
from quietmind.plan.parallel_warn import parallel_warnings
from quietmind.plan.place import FITS_BELOW, available
from quietmind.plan.record import Plan, device_uses, memory_verdict
from quietmind.plan.speed import Speed
from quietmind.plan.split import Split, splits
from quietmind.plan.yarn import yarn_for

LARGEST_DEFAULT_CONTEXT = 32768  # as with llama.cpp: past it a person asks by name

# Tokens of a prefill computed together: what vLLM's server takes by itself, by the memory of the GPU
# (engine/arg_utils.py, get_batch_defaults). A100s are slower with more.
_BATCHED, _BATCHED_ON_LARGE, _LARGE = 2048, 8192, 70 * GIB

# More GPUs are taken for so much more speed, and 8 bits of cache in place of 16.
_WORTH_MORE_GPUS = 1.1
_WORTH_EIGHT_BITS = 1.2

# The KV types that the planner lays out: (what people call it, bytes of a value).
_EIGHT_BITS = ("fp8", 1)


@dataclass(frozen=True)
class _Candidate:
    """A division that was laid out. ``rank`` 0: fits; 1: fits some of the sequences; 2: tight; 3: does not fit."""

    sharding: Sharding
    shares: tuple[Share, ...]
    kv_type: str
    rank: int
    speed: Speed | None

    @property
    def decode(self) -> float:
        """Tokens a second, 0 where nothing is known."""
        return self.speed.decode.mid if self.speed and self.speed.decode else 0.0


def plan_parallel(machine: Machine, card: ModelCard, ask: Ask) -> Plan:
    """Return the plan of ``card`` on equal GPUs of ``machine``, or of ``ask.nodes`` like it, as ``ask.engine`` shards.

    A model that does not fit is still planned. Raises UsageError where the machine has no GPUs for it, or the model
    cannot be divided as asked.
    """
    kind = engine_kind(ask.engine)
    gpus = _equal_gpus(machine, ask, kind)
    if ask.experts_used not in (None, card.experts_used):
        card = replace(card, experts_used=ask.experts_used or card.experts_used)
    layout = _Layout(machine, card, ask, kind, gpus)
    context = ask.context if ask.context is not None else layout.largest_context()
    return _planned(layout, layout.best(context))


def _equal_gpus(machine: Machine, ask: Ask, kind: EngineKind) -> tuple[Device, ...]:
    """Return the GPUs to use at most: the most memory that equal ones have together. Raises UsageError."""
    alike: dict[tuple[str, int | None], list[Device]] = {}
    for device in machine.accelerators:
        if device.kind in ("cuda", "rocm"):
            alike.setdefault((device.name, device.memory_bytes), []).append(device)
    if not alike:
        raise UsageError(
            f"{kind.key} shards over GPUs of NVIDIA or AMD, and {machine.name} has none; plan with --engine llama.cpp"
        )
    best = max(alike.values(), key=lambda devices: len(devices) * (devices[0].memory_bytes or 0))
    if ask.gpus is not None and ask.gpus > len(best):
        raise UsageError(
            f"{machine.name} has {len(best)} equal GPU{'s' if len(best) > 1 else ''}, not {ask.gpus}; give --gpus "
            f"{len(best)}, or --nodes for several machines like it"
        )
    return tuple(best[: ask.gpus])


@dataclass(frozen=True)
class _Layout:
    """Lays out one model on the GPUs of one machine."""

    machine: Machine
    card: ModelCard
    ask: Ask
    kind: EngineKind
    gpus: tuple[Device, ...]

    def best(self, context: int) -> _Candidate:
        """Return the division to take for ``context`` tokens. Raises UsageError if there is none at all."""
        found = [candidate for kv in self._kv_types() for candidate in self._candidates(context, kv)]
        if not found:
            raise UsageError(
                f"{self.card.name}: {self.kind.key} cannot divide its {self.card.heads} heads over "
                f"{self.ask.nodes * len(self.gpus)} GPUs; give another --gpus or --nodes"
            )
        best = min(candidate.rank for candidate in found)
        if best > 1:
            relieve = self._with_weights_on_host if self.kind.key == "vllm" else self._with_experts_on_host
            relieved = [relieve(candidate) for candidate in found]
            found += [candidate for candidate in relieved if candidate is not None]
            best = min(candidate.rank for candidate in found)
        if best == 3:
            return min(found, key=lambda candidate: max(share.total for share in candidate.shares))
        return _fastest([candidate for candidate in found if candidate.rank == best])

    def largest_context(self) -> int:
        """Return the largest context, up to the native one, that does as well as the smallest."""
        step = 256

        def rank(steps: int) -> int:
            return self.best(steps * step).rank

        most = max(1, min(self.card.native_context, LARGEST_DEFAULT_CONTEXT) // step)
        best = rank(1)
        if best == 3 or rank(most) == best:
            return (1 if best == 3 else most) * step
        low, high = 1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if rank(middle) == best else (low, middle)
        return low * step

    def _kv_types(self) -> tuple[tuple[str, int], ...]:
        sixteen = (own_type(self.card), 2)
        if self.ask.kv_type == "auto":
            return (sixteen, _EIGHT_BITS)
        return (sixteen,) if kv_word(self.kind, self.ask.kv_type) == "auto" else (_EIGHT_BITS,)

    def _candidates(self, context: int, kv: tuple[str, int]) -> Iterator[_Candidate]:
        # SGLang deals out the tokens of a cache for some models alone (dcp_size), not for these.
        sharded = self.kind.key == "vllm"
        for split in splits(self.card, len(self.gpus), self.ask.nodes, sharded_context=sharded):
            yield self._laid_out(split, context, kv)

    def _laid_out(self, split: Split, context: int, kv: tuple[str, int]) -> _Candidate:
        name, element = kv
        yarn = yarn_for(self.card, context)
        positions = max(self.card.native_context, round(yarn.original * yarn.factor) if yarn else 0)
        wanted = Sharding(
            split, context, self.ask.sequences, self.ask.sequences, self._batched(context), element, positions
        )
        resident, rank = self.ask.sequences, self._rank(wanted)
        if rank > 0 and resident > 1:
            low, high = 0, resident  # low fits, high does not
            while high - low > 1:
                middle = (low + high) // 2
                fits = self._rank(replace(wanted, resident=middle)) == 0
                low, high = (middle, high) if fits else (low, middle)
            if low:
                rank = 1
                wanted = with_offloaded_cache(self.card, replace(wanted, resident=low))
        return self._judged(wanted, name, rank)

    def _judged(self, sharding: Sharding, kv_type: str, rank: int) -> _Candidate:
        found = shares(self.card, sharding)
        speed = parallel_speed(self.machine, self.gpus[0], self.card, sharding, found, self.kind.title)
        return _Candidate(sharding, found, kv_type, rank, speed)

    def _with_weights_on_host(self, candidate: _Candidate) -> _Candidate | None:
        """Return the division with what it lacks of room for weights in the host's memory, None if that is no help."""
        free = available(self.gpus[0])
        if free is None:
            return None
        lacking = max(share.total for share in candidate.shares) - FITS_BELOW * free
        sharding = replace(candidate.sharding, weights_offloaded=ceil(max(0.0, lacking) / GIB) * GIB)
        if any(
            sum(left_behind(share, sharding).values()) < share.total - FITS_BELOW * free for share in candidate.shares
        ):
            return None
        ledger = ledger_of(self.machine, self.gpus, self.card, sharding)
        if memory_verdict(self.machine, {device: ledger.total(device) for device in ledger.devices}) != "fits":
            return None
        return self._judged(sharding, candidate.kv_type, 1)

    def _with_experts_on_host(self, candidate: _Candidate) -> _Candidate | None:
        """Return the division with so many experts of each layer computed on the host as the GPUs lack room for."""
        free, split, card = available(self.gpus[0]), candidate.sharding.split, self.card
        if free is None or split.experts > 1 or split.pipeline > 1 or host_method(card, self.machine.host) is None:
            return None
        share = candidate.shares[0]
        experts = sum(piece.bytes for piece in share.weights if piece.part == "experts")
        kept = card.experts - ceil((share.total - FITS_BELOW * free) / (experts / card.experts))
        if not 0 <= kept < card.experts:
            return None
        away = round(experts * (1 - kept / card.experts))
        sharding = replace(candidate.sharding, weights_offloaded=away, gpu_experts=kept)
        ledger = ledger_of(self.machine, self.gpus, card, sharding)
        if memory_verdict(self.machine, {device: ledger.total(device) for device in ledger.devices}) != "fits":
            return None
        return self._judged(sharding, candidate.kv_type, 1)

    def _rank(self, sharding: Sharding) -> int:
        free, memory = available(self.gpus[0]), self.gpus[0].memory_bytes
        needed = max(share.total for share in shares(self.card, sharding))
        if memory is not None and needed > memory:
            return 3
        return 0 if free is not None and needed <= FITS_BELOW * free else 2

    def _batched(self, context: int) -> int:
        asked = self.ask.micro_batch
        if asked is None:
            gpu = self.gpus[0]
            large = (gpu.memory_bytes or 0) >= _LARGE and "a100" not in gpu.name.lower()
            asked = _BATCHED_ON_LARGE if large else _BATCHED
        return max(1, min(asked, context * self.ask.sequences))


def own_type(card: ModelCard) -> str:
    """Return the 16-bit type that a checkpoint is run in: that of its embeddings."""
    return next(
        (tensor.type for tensor in card.tensors if tensor.name == "token_embd.weight" and tensor.type == "f16"), "bf16"
    )


def _fastest(found: Sequence[_Candidate]) -> _Candidate:
    """Return of divisions that do equally well the smallest, or a larger one that is worth it."""
    best = None
    for candidate in sorted(found, key=lambda each: (each.sharding.split.gpus, -each.sharding.element, -each.decode)):
        if best is None:
            best = candidate
            continue
        same_gpus = candidate.sharding.split.gpus == best.sharding.split.gpus
        worth = 1.0 if same_gpus else _WORTH_MORE_GPUS
        if candidate.sharding.element < best.sharding.element:
            worth = max(worth, _WORTH_EIGHT_BITS)
        if candidate.decode > worth * best.decode:
            best = candidate
    assert best is not None
    return best


def _planned(layout: _Layout, chosen: _Candidate) -> Plan:
    machine, card, ask, sharding = layout.machine, layout.card, layout.ask, chosen.sharding
    ledger = ledger_of(machine, layout.gpus, card, sharding)
    held = {device: ledger.total(device) for device in ledger.devices}
    run = ShardedRun(
        sharding=sharding,
        kv_type=chosen.kv_type,
        experts_used=None if ask.experts_used is None else card.experts_used,
        yarn=yarn_for(card, sharding.context),
        gpu_memory=layout.gpus[0].memory_bytes,
        gpu_free=available(layout.gpus[0]),
        each=gpus_of_node(chosen.shares, sharding.split),
    )
    flags = vllm_flags(card, run) if layout.kind.key == "vllm" else sglang_flags(machine.host, card, run)
    return Plan(
        model=card.name,
        arch=card.arch,
        machine=machine.name,
        engine=layout.kind.title,
        verdict=memory_verdict(machine, held),
        context=sharding.context,
        kv_type=chosen.kv_type,
        micro_batch=sharding.batched,
        batch=sharding.batched,
        threads=None,
        devices=device_uses(machine, held),
        ledger=ledger,
        warnings=parallel_warnings(machine, layout.gpus, card, run, layout.kind),
        flags=flags,
        speed=chosen.speed if chosen.rank < 3 else None,
        experts_used=card.experts_used,
        sequences=ask.sequences,
        quantization=card.quantization,
        native_context=card.native_context,
        engine_key=layout.kind.key,
        split=sharding.split,
    )
