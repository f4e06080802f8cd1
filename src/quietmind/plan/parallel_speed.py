"""How fast a model runs when an engine shards it over GPUs: the roofline of one GPU, and what GPUs wait for each other.

Shares of bandwidth and flops are those of ``roofline``; what collectives cost is from reports, and nothing here was
measured with vLLM or SGLang. ``Speed.basis`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quietmind.base.units import format_bytes
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan import roofline
from quietmind.plan.interval import Interval
from quietmind.plan.parallel_ledger import Sharding, Share, left_behind
from quietmind.plan.parallel_weights import SIXTEEN_BITS
from quietmind.plan.placement import everything_on
from quietmind.plan.speed import Speed
from quietmind.plan.split import Split
from quietmind.plan.traffic import Part, prefill_traffic
from quietmind.plan.waits import Wait, longest, over, rate, slower, times

# A small all-reduce, which waits for the slowest GPU: over NVLink with the engines' own kernels, over PCIe through
# NCCL, over a network. Second-hand.
NVLINK_S = Interval(5e-6, 12e-6, 30e-6)
PCIE_S = Interval(15e-6, 40e-6, 120e-6)
NETWORK_S = Interval(30e-6, 80e-6, 250e-6)
NVLINK_FROM = 100e9  # bytes a second between two GPUs; PCIe 5 with 16 lanes has 63e9
REACHED = Interval(0.35, 0.65, 0.9)  # of a link's bandwidth in a large all-reduce
ASSUMED_LINK = Interval(10e9, 25e9, 55e9)  # PCIe 3 to 5, 16 lanes
ASSUMED_NETWORK = Interval(1e9, 10e9, 45e9)  # 10 to 400 Gbit/s
REDUCES_OF_LAYER = 2  # after attention and after the feed-forward part
GATHERS_OF_SHARDED_CACHE = 3  # queries to all, then outputs and their sums back (v1/attention/ops/dcp.py of vLLM)

_UNMEASURED = "assumed: llama.cpp's shares of bandwidth and flops; no run of {engine} was measured"


def parallel_speed(
    machine: Machine, gpu: Device, card: ModelCard, sharding: Sharding, found: tuple[Share, ...], engine: str
) -> Speed | None:
    """Return the speed of one sequence with ``sharding.context`` tokens in its cache, None where no bandwidth is known.

    ``found`` are the shares of the pipeline's stages, ``gpu`` any of the equal GPUs.
    """
    if gpu.bandwidth_bytes_per_s is None:
        return None
    roof = _Roof(machine, gpu, sharding.split)
    decode = [wait for share in found for wait in roof.decode(share, sharding)]
    decode += list(roof.handovers(1, card.hidden))
    prefill = list(roof.prefill(card, sharding))
    prefill += [wait for share in found for wait in roof.offloaded(share, sharding, tokens=sharding.batched)]
    prefill += list(roof.handovers(sharding.batched, card.hidden))
    basis = (_UNMEASURED.format(engine=engine), *roof.assumed)
    return Speed(
        sharding.context,
        rate(prefill, sharding.batched),
        rate(decode, 1),
        longest(decode),
        tuple(dict.fromkeys(basis)),
    )


class _Roof:
    """The rates of one of the equal GPUs, and of what connects them."""

    def __init__(self, machine: Machine, gpu: Device, split: Split) -> None:
        self._machine = machine
        self._gpu = gpu
        self._split = split
        self.assumed: list[str] = []

    def decode(self, share: Share, sharding: Sharding) -> Iterator[Wait]:
        """Yield what a token waits for in one stage."""
        away = left_behind(share, sharding)
        bandwidth = self._gpu.bandwidth_bytes_per_s or 0.0
        for piece in share.weights:
            here = 1 - min(1.0, away.get(piece.part, 0) / max(1, piece.bytes))
            seconds = over(piece.read * here, times(roofline.GPU_READING, bandwidth))
            yield Wait("reading weights on each GPU", "weights", seconds)
        yield from self.offloaded(share, sharding)
        size = sum(part.read for part in share.cache)
        if size:
            seconds = over(size, times(roofline.GPU_CACHE_READING, bandwidth))
            yield Wait(f"reading {format_bytes(size)} of KV cache on each GPU", "cache", seconds)
        yield Wait("starting layers", "start", times(roofline.GPU_LAYER_S, len(share.layers)))
        if self._split.tensor > 1:
            each = REDUCES_OF_LAYER + (GATHERS_OF_SHARDED_CACHE if self._split.context > 1 else 0)
            yield Wait("collectives of small size", "collectives", times(self._latency(), each * len(share.layers)))

    def offloaded(self, share: Share, sharding: Sharding, tokens: int = 1) -> Iterator[Wait]:
        """Yield the wait for weights that stay in the host's memory, while ``tokens`` are computed together.

        They cross to the GPU where they are needed, or the host's processor multiplies with them.
        """
        away = left_behind(share, sharding)
        for piece in share.weights:
            gone = min(away.get(piece.part, 0), piece.bytes)
            if not gone:
                continue
            read = gone if tokens > 1 else gone * piece.read / max(1, piece.bytes)
            if sharding.gpu_experts is None:
                yield Wait("weights from the host's memory", "link", over(read, self._host_link()))
            else:
                visits = tokens * piece.read / max(1, piece.bytes)  # of each expert, by a token on average
                yield self._on_host(read * self._split.tensor, gone * self._split.tensor * visits, tokens)
                handovers = times(roofline.HANDOVER_S, len(share.layers))
                yield Wait("handing over to the host", "handover", handovers)

    def _on_host(self, size: float, products: float, tokens: int) -> Wait:
        """Return the wait for experts on the host's processor: ``products`` are counted as a byte a weight."""
        host, cpu = self._machine.host, self._machine.cpu
        cores = host.usable_cores or host.physical_cores or 1
        each = roofline.host_rate(
            "bf16", "experts", prefill=tokens > 1, rows=float(tokens), instructions=host.instructions
        )
        reading = over(
            size, times(roofline.HOST_READING, cpu.bandwidth_bytes_per_s or roofline.CORE_READING.mid * cores)
        )
        return Wait("experts on the host", "host", slower(reading, over(products, times(each, cores))))

    def prefill(self, card: ModelCard, sharding: Sharding) -> Iterator[Wait]:
        """Yield what ``batched`` tokens wait for in all stages together, at the depth of the whole context."""
        experts = frozenset(range(card.layers)) if card.experts else frozenset()
        depth = max(0, sharding.context - sharding.batched)
        whole = prefill_traffic(
            card,
            everything_on("gpu", card.layers, experts),
            kv_type="f16",
            depth=depth,
            micro_batch=sharding.batched,
        )["gpu"]
        for part in whole.parts:
            if part.component != "embedding":
                yield self._part(self._local(part, sharding))
        yield Wait("starting layers", "start", times(roofline.GPU_LAYER_S, card.layers))
        if self._split.tensor > 1:
            gpus = self._split.tensor
            ring = 2 * (gpus - 1) / gpus  # of its size, an all-reduce sends and receives so much
            size = REDUCES_OF_LAYER * card.layers * sharding.batched * card.hidden * SIXTEEN_BITS
            yield Wait("all-reduces", "all-reduce", over(ring * size, self._gpu_link()))

    def _local(self, part: Part, sharding: Sharding) -> Part:
        """Return one GPU's share of a part: work is cut evenly, whichever way the weights are."""
        factor = sharding.element / SIXTEEN_BITS if part.component == "kv" else 1.0
        gpus = self._split.tensor
        return replace(part, bytes=part.bytes * factor / gpus, products=part.products / gpus)

    def _part(self, part: Part) -> Wait:
        share = roofline.GPU_CACHE_READING if part.component == "kv" else roofline.GPU_READING
        reading = over(part.bytes, times(share, self._gpu.bandwidth_bytes_per_s or 0.0))
        multiplying = over(part.products, self._multiplying(part.component))
        return Wait(
            f"{part.component} on each GPU", f"arithmetic {part.component == 'kv'}", slower(reading, multiplying)
        )

    def _multiplying(self, component: str) -> Interval:
        share = roofline.gpu_share(self._gpu.name, component)
        if self._gpu.flops is not None:
            return times(share, self._gpu.flops / 2)
        self.assumed.append(f"assumed: the flops of {self._gpu.name}: from its bandwidth")
        guess = times(roofline.FLOPS_PER_BYTE, (self._gpu.bandwidth_bytes_per_s or 0.0) / 2)
        return Interval(share.low * guess.low, share.mid * guess.mid, share.high * guess.high)

    def handovers(self, tokens: int, hidden: int) -> Iterator[Wait]:
        """Yield the waits between stages: from GPU to GPU, or over the network."""
        split = self._split
        between_nodes, inside = split.nodes - 1, split.pipeline - split.nodes
        size = tokens * hidden * SIXTEEN_BITS
        if inside:
            yield Wait("handing over between stages", "stages", times(roofline.HANDOVER_S, inside))
            yield Wait("handing over between stages", "stages", over(size * inside, self._gpu_link()))
        if between_nodes:
            self.assumed.append("assumed: a network of 10 to 400 Gbit/s between the nodes")
            yield Wait("the network between nodes", "network", times(NETWORK_S, between_nodes))
            yield Wait("the network between nodes", "network", over(size * between_nodes, ASSUMED_NETWORK))

    def _between(self) -> float | None:
        """Return the bandwidth that the machine states between two of its GPUs."""
        keys = [device.key for device in self._machine.accelerators if device.name == self._gpu.name]
        link = self._machine.link(keys[0], keys[1]) if len(keys) > 1 else None
        return link.bandwidth_bytes_per_s if link else None

    def _latency(self) -> Interval:
        stated = self._between()
        if stated is None:
            self.assumed.append("assumed: GPUs connected by PCIe, since the machine states no link between them")
        return NVLINK_S if stated is not None and stated >= NVLINK_FROM else PCIE_S

    def _gpu_link(self) -> Interval:
        stated = self._between()
        return times(REACHED, stated) if stated is not None else times(ASSUMED_LINK, 1.0)

    def _host_link(self) -> Interval:
        link = self._machine.link("cpu", self._gpu.key)
        if link is not None and link.bandwidth_bytes_per_s is not None:
            return times(roofline.UPLOADING, link.bandwidth_bytes_per_s)
        self.assumed.append("assumed: the link to the GPUs: PCIe 3 to 5, 16 lanes")
        return ASSUMED_LINK
