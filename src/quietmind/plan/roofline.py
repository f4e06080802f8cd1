"""The constants of the speed model, each with where it comes from. All are shares or rates as (low, mid, high).

Fitted on measurements on a 2-core Xeon with AVX-512 (benchmarks/speed_here.py) and on those published runs that
benchmarks/published_speeds.csv marks as fitted; its other rows were kept to judge by, though residuals of many were in
view when a form was chosen. A constant is the same for every row of a kind of hardware: what differs between machines
is their bandwidth, cores, instructions and flops, and between types of weights the kernels that an engine has for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, prod, sqrt
from typing import Literal

from quietmind.machine.machine import DeviceKind
from quietmind.plan.interval import Interval
from quietmind.plan.waits import times

# Reading memory ------------------------------------------------------------------------------------------------
# Share of the stated bandwidth that a pass over weights reaches. A datasheet's number is never reached whole.
HOST_READING = Interval(0.5, 0.85, 1.08)
# A Ryzen reads through the links between its dies: 65 GB/s on a 7950X (an 8B's decode; ik_llama.cpp, pull request 54),
# 63 of 89.6 on a 9700X (memtest86plus, issue 557).
RYZEN_READING = Interval(0.5, 0.72, 0.92)
MEASURED_READING = Interval(0.7, 0.95, 1.15)  # of what threads were seen to read on this very machine
# Of the sum over several NUMA nodes: pages are dealt to the nodes in turn or all to one, and most reads cross over.
# Two sockets of Xeon 6138 with 256 GB/s together reach 57 to 90 GB/s (ik_llama.cpp, discussions 258 and 385).
NUMA_READING = Interval(0.2, 0.4, 0.8)
DISK_READING = Interval(0.4, 0.7, 0.95)  # scattered experts, read through a mapping

# Copying weights to a GPU: share of the link's stated bandwidth. An A6000 reached 0.88 of it, an RTX 4080 0.7 with one
# build and a third with another (ik_llama.cpp, issue 437 and discussion 357): pages mapped from a file are not pinned.
UPLOADING = Interval(0.32, 0.82, 1.0)
ASSUMED_LINK = Interval(10e9, 25e9, 55e9)  # bytes a second where the machine does not say: PCIe 3 to PCIe 5, 16 lanes


@dataclass(frozen=True)
class GpuRates:
    """What GPUs of one kind reach. Readings are shares of the memory's bandwidth, the others of the stated flops.

    ``matrices`` holds for weights with many tokens; of that, ``experts`` is what a mixture reaches, times
    rows / (rows + ``tile``) with so many rows an expert: kernels multiply whole tiles, and every expert that any token
    visits costs at least one. ``flops_per_byte`` stands in for flops that are not stated.

    ``layer_s`` is what starting a layer costs, ``mixture_s`` what its experts add (routing, gathering, more kernels);
    ``recurrent_s`` what a layer with a recurrent state adds to a decoded token, ``recurrent_token_s`` to each token
    of a prefill, whose chunks run one after another.
    """

    reading: Interval
    cache_reading: Interval
    matrices: Interval
    experts: Interval
    tile: float
    attention: Interval
    layer_s: Interval
    mixture_s: Interval
    recurrent_s: Interval
    recurrent_token_s: Interval
    flops_per_byte: Interval


GPU_READING = Interval(0.68, 0.86, 0.97)
# Attention of one token reads the cache in small pieces: with few heads a large GPU is hardly busy (published: 0.38 of
# an RTX 5090, 0.33 of a 3090 Ti, 0.44 of a 4080, 0.7 of a GB10).
GPU_CACHE_READING = Interval(0.2, 0.45, 0.8)
GPU_LAYER_S = Interval(12e-6, 35e-6, 75e-6)  # a dozen kernels, in a graph that is started at once
FLOPS_PER_BYTE = Interval(60.0, 150.0, 300.0)  # from an RTX 4070 Ti (159) to an H100 (295)

# Of NVIDIA's, the stated flops are those with f32 accumulation.
CUDA = GpuRates(
    reading=GPU_READING,
    cache_reading=GPU_CACHE_READING,
    matrices=Interval(0.2, 0.31, 0.45),
    experts=Interval(0.34, 0.57, 0.9),
    tile=24.0,
    attention=Interval(0.2, 0.4, 0.75),
    layer_s=GPU_LAYER_S,
    mixture_s=Interval(5e-6, 15e-6, 40e-6),
    recurrent_s=Interval(5e-6, 15e-6, 40e-6),
    recurrent_token_s=Interval(1e-6, 3e-6, 8e-6),
    flops_per_byte=FLOPS_PER_BYTE,
)
# Apple's GPUs reach as much of their flops in half as in single precision. Flops for each byte a second of memory:
# M1 Ultra 26, M1 Max 26, M2 Ultra 34, M3 Max 36, M3 Ultra 35, M4 Max 34.
METAL = GpuRates(
    reading=Interval(0.65, 0.88, 0.99),
    cache_reading=Interval(0.15, 0.4, 0.8),
    matrices=Interval(0.5, 0.65, 0.8),
    experts=Interval(0.5, 0.7, 0.95),
    tile=6.0,
    attention=Interval(0.25, 0.38, 0.55),
    layer_s=Interval(120e-6, 165e-6, 220e-6),
    mixture_s=Interval(0.0, 10e-6, 40e-6),
    recurrent_s=Interval(40e-6, 130e-6, 300e-6),
    recurrent_token_s=Interval(3e-6, 9e-6, 20e-6),
    flops_per_byte=Interval(24.0, 32.0, 40.0),
)
ROCM = GpuRates(
    reading=Interval(0.6, 0.85, 0.95),
    cache_reading=Interval(0.2, 0.5, 0.85),
    matrices=Interval(0.22, 0.42, 0.6),
    experts=Interval(0.35, 0.6, 0.95),
    tile=8.0,
    attention=Interval(0.08, 0.2, 0.45),
    layer_s=Interval(40e-6, 100e-6, 160e-6),
    mixture_s=Interval(0.0, 15e-6, 40e-6),
    recurrent_s=Interval(10e-6, 40e-6, 120e-6),
    recurrent_token_s=Interval(2e-6, 6e-6, 20e-6),
    flops_per_byte=Interval(60.0, 130.0, 300.0),
)
GPU_RATES: dict[DeviceKind, GpuRates] = {"cuda": CUDA, "metal": METAL, "rocm": ROCM}

# Stacked memory needs more reads under way than one token's products start: 70B in Q4_0 reaches 0.49 of an A100's
# bandwidth where an A6000 reaches 0.77 with the same build.
HBM_READING = Interval(0.38, 0.55, 0.85)
_HBM = re.compile(r"\b(?:[ahbv][12]00|gh200|h800|mi\d{2,3}x?)\b", re.IGNORECASE)

# GeForce cards state half of what their chips do, and engines multiply quantized weights in int8, which is not halved.
# Published for an 8B: 0.7 to 0.9 of what an RTX 3070, 3080 or 3090 states, 1.0 to 1.3 of an RTX 4080, 4090 or 5090,
# whose caches hold what the tiles of a matrix share; experts' matrices fit into the smaller ones.
GEFORCE = 2.4
GEFORCE_LARGE_CACHE = 3.5
GEFORCE_ATTENTION = 1.75  # accumulates in f16 for the most part
_GEFORCE = re.compile(r"geforce|\b[rg]tx ?[1-5]0[5-9]0\b", re.IGNORECASE)
_LARGE_CACHE = re.compile(r"\b[rg]tx ?[45]0[5-9]0\b", re.IGNORECASE)

# Matrices in half precision go to cuBLAS, which multiplies while it reads. The engine's own kernels unpack a tile of a
# quantized matrix, then multiply it, so that reading and multiplying add up: an 8B in Q4_0 takes an RTX 4090 7 ms and
# 0.08 ms a token from 16 tokens at once to 512 (llama.cpp, pull request 7676).
WHOLE_TYPES = frozenset({"f32", "f16", "bf16"})
WHOLE = 1.15

# Blackwell multiplies four bits as they are: a quarter more tokens a second with MXFP4 (llama.cpp, pull request 17906).
FOUR_BIT_TYPES = frozenset({"mxfp4", "nvfp4"})
FOUR_BITS = 1.26
_BLACKWELL = re.compile(r"blackwell|\bgb10\b|\bg?b[123]00\b|\brtx ?50[5-9]0\b", re.IGNORECASE)

# The exponential of each score costs the same however few products stand behind it: shorter heads fill less.
FULL_HEAD = 128

# Waiting -------------------------------------------------------------------------------------------------------
HOST_LAYER_CORE_S = Interval(1e-6, 4e-6, 10e-6)  # two dozen barriers, which take longer the more threads meet there
EXPERTS_OF_LAYER = 0.2  # of those, the share that a layer's experts alone cost
# With experts on the host a GPU's graph is cut at every one of these layers, and its kernels are started one by one: an
# RTX 4080 with 14 of 48 layers' experts on the host needs a tenth of a millisecond more for each layer.
SPLIT_LAYER_S = Interval(40e-6, 85e-6, 190e-6)
HANDOVER_S = Interval(30e-6, 90e-6, 220e-6)  # activations there and back, synchronized
UPLOAD_LAYER_S = Interval(50e-6, 150e-6, 600e-6)
# A recurrent layer on the host: many small operations, each with its barriers. Builds before the fused kernel took
# 2 to 3 ms (llama.cpp, issue 19480; ik_llama.cpp, pull request 1266), with it about half a millisecond.
HOST_RECURRENT_S = Interval(0.1e-3, 0.6e-3, 3e-3)
HOST_RECURRENT_TOKEN_S = Interval(8e-6, 50e-6, 250e-6)

# The host's processor ------------------------------------------------------------------------------------------
CORE_READING = Interval(8e9, 16e9, 40e9)  # bytes a second that one core alone can read
# Bytes a second of memory that machines have for each core: 5.6 GB/s on desktops, 12 to 18 on servers. For hosts of
# which only the memory is known.
BANDWIDTH_OF_CORE = Interval(5e9, 13e9, 20e9)

# 1e9 multiplications with addition a second and core, by the type of the weights, (decode, prefill). Decode multiplies
# row by row (ggml-cpu, vec_dot), prefill of some types by tiles (repacked weights, llamafile's sgemm). Measured with
# AVX-512 VNNI, one thread a core, on random weights.
HOST_PRODUCTS: dict[str, tuple[float, float]] = {
    "f32": (3.0, 12.0),
    "f16": (6.0, 17.0),  # its decode, and that of bf16 and q8_0, waited for memory: at least so many
    "bf16": (6.0, 21.0),
    "q8_0": (13.0, 32.0),
    "q6_k": (6.9, 33.0),
    "q5_k": (10.0, 50.0),
    "q5_0": (8.0, 22.0),
    "q5_1": (8.0, 17.0),
    "q4_k": (12.5, 53.0),
    "q4_1": (10.0, 15.0),
    "q4_0": (12.4, 34.0),
    "iq4_xs": (12.1, 43.0),
    "iq4_nl": (12.7, 36.0),
    "mxfp4": (12.0, 30.0),  # not measured: packed like iq4_nl
    "q3_k": (13.8, 50.0),
    "iq3_s": (6.2, 51.0),
    "iq3_xxs": (8.8, 51.0),
    "q2_k": (16.0, 42.0),
    "iq2_xs": (9.8, 50.0),
    # Of ik_llama.cpp; decode fitted on a published run of IQ3_K with an EPYC 9355, whose cores are quicker.
    "iq2_k": (20.0, 50.0),
    "iq3_k": (20.0, 50.0),
    "iq4_k": (20.0, 50.0),
    "iq5_k": (20.0, 50.0),
    "iq6_k": (20.0, 50.0),
}
OTHER_PRODUCTS = (6.0, 8.0)  # a type that nobody measured: like the slower ones
# Of n cores a prefill keeps n / (1 + n / this) busy: matrices are cut into ever smaller pieces, and every piece waits
# for the slowest. Products a core of mixtures: 86e9 on 16 cores, 79e9 on 32, 52e9 on 88 (ik_llama.cpp, discussion 357
# and issue 296); on one socket of 128 cores 43 prefill 41 tokens a second, 86 62 and 128 79 (discussion 201).
SCALING_CORES = 200.0
HOST_SPREAD = Interval(0.45, 1.0, 1.6)  # from one processor of a generation to another
# What an expert's products reach of a dense matrix's: this share, times rows / (rows + so many). Types that llama.cpp
# repacks lose more, since their tiles are filled from scattered rows. Measured with 8, 32 and 128 rows an expert, which
# matters little.
HOST_EXPERTS = (0.97, 1.0)
HOST_EXPERTS_REPACKED = (0.58, 1.0)
REPACKED_TYPES = frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4"})  # ggml_repack_get_optimal_repack_type, of AVX2
# Desktop processors and workstations run at 4 to 5 GHz where servers do 2 to 3.5, but until Zen 5 take 512 bits in two
# cycles: kernels of 256 bits (llamafile's sgemm) gain twice, those of 512 bits less (a Ryzen 7950X against the Xeon; a
# Threadripper 5975WX).
DESKTOP = 1.5
DESKTOP_NARROW = 1.95
NARROW_TYPES = frozenset({"f32", "f16", "bf16", "q8_0", "q4_0", "q5_0", "iq4_nl"})
_RYZEN = re.compile(r"ryzen(?!.*threadripper)", re.IGNORECASE)
_DESKTOP = re.compile(r"ryzen|threadripper|core\W*(?:tm)?\W*(?:i[3579]|ultra)|\bi[3579]-", re.IGNORECASE)
# Attention over a cache in f16, and its share for quantized ones, whose rows are turned back first.
HOST_ATTENTION = (2.9, 16.0)
QUANTIZED_CACHE = 0.6
# Against AVX-512, by the best instructions there are. Second-hand: published runs of the same model on both.
INSTRUCTIONS: tuple[tuple[str, float], ...] = (
    ("avx512_vnni", 1.0),
    ("amx_int8", 1.0),
    ("avx512f", 0.6),
    ("avx2", 0.6),
    ("neon", 0.6),
)
UNKNOWN_INSTRUCTIONS = Interval(0.5, 0.85, 1.0)

# How an engine prefills with weights that the host holds: llama.cpp brings them to a GPU, ik_llama.cpp with weights
# repacked for the processor multiplies them where they are, by tiles of its own (iqk_mul_mat). llama.cpp up to b3000
# (June 2024) unpacked whole quantized matrices for cuBLAS.
Engine = Literal["llama.cpp", "llama.cpp b3000", "ik_llama.cpp", "ik_llama.cpp 2025-05"]
IK = ("ik_llama.cpp", "ik_llama.cpp 2025-05")
# 1e9 products a second and core, whatever the type: a matrix is unpacked to eight bits first, which costs as much as so
# many rows of products, and an expert has few. From an 8B and from mixtures on a Ryzen 7950X, an EPYC 9355, a
# Threadripper 3995WX and a Xeon 6980P. Zen 5 multiplies 512 bits a cycle, those before it half.
IK_TILES = 280.0
IK_UNPACKED_ROWS = 32.0
IK_HALF_WIDTH = 0.635  # of those that are known and older
IK_BEFORE_UNPACKING = (
    0.74  # builds until May 2025 multiplied packed matrices, however repacked (pull requests 182, 533)
)
_ZEN_5 = re.compile(r"epyc\W*9\d\d5|ryzen\W*(?:\d\W*9\d{3}|ai\b)|threadripper.*\b99[0-9]{2}wx", re.IGNORECASE)
IK_SPREAD = Interval(0.25, 1.0, 1.6)
IK_ATTENTION = (24.0, 85.0)  # a cache of any type (ik_llama.cpp, discussion 357: a Ryzen 7950X at 8 and 16 thousand)


def gpu_share(
    name: str,
    component: str,
    rows: float | None = None,
    kind: DeviceKind = "cuda",
    head: int = 0,
    weights: str = "",
    engine: Engine = "llama.cpp",
) -> Interval:
    """Return which share of its stated flops the GPU called ``name`` reaches on ``component``, of type ``weights``.

    ``rows`` tokens are multiplied with a matrix at once (None: many): with an expert those that chose it. ``head`` is
    the length of attention's heads (0: long). ``weights`` "": those of another engine, for which less is promised.
    """
    rates = GPU_RATES[kind]
    if component == "kv":
        wide = min(1.0, head / FULL_HEAD) if head else 1.0
        geforce = kind == "cuda" and _GEFORCE.search(name) is not None
        return times(rates.attention, wide * (GEFORCE_ATTENTION if geforce else 1.0))
    share = times(rates.matrices, _of_stated(name, component, weights, engine) if kind == "cuda" else 1.0)
    if component != "experts":
        return share
    reached = product(share, rates.experts)
    if rows is None or rows <= 1:  # one token is multiplied without tiles
        return reached
    return times(reached, rows / (rows + rates.tile))


def _of_stated(name: str, component: str, weights: str, engine: Engine) -> float:
    """Return what a CUDA GPU does with weights of this type, against one that states all that its chip does."""
    geforce = GEFORCE if _GEFORCE.search(name) else 1.0
    if weights in WHOLE_TYPES:
        return geforce * WHOLE
    if weights in FOUR_BIT_TYPES and _BLACKWELL.search(name):
        return geforce * FOUR_BITS
    if component == "dense" and weights and engine != "llama.cpp b3000" and _LARGE_CACHE.search(name):
        return GEFORCE_LARGE_CACHE
    return geforce


def adds_up(component: str, weights: Sequence[str], engine: Engine) -> bool:
    """Say whether a GPU reads weights of these types before it multiplies them, and not meanwhile.

    With experts, many of which are multiplied at once, the reading of some goes on while others are multiplied.
    """
    return component == "dense" and engine != "llama.cpp b3000" and not WHOLE_TYPES.issuperset(weights)


def gpu_reading(kind: DeviceKind, name: str, component: str) -> Interval:
    """Return which share of its memory's bandwidth the GPU called ``name`` reads ``component`` with."""
    if component == "kv":
        return GPU_RATES[kind].cache_reading
    return HBM_READING if _HBM.search(name) else GPU_RATES[kind].reading


def host_reading(processor: str, numa_nodes: int, *, measured: bool) -> Interval:
    """Return which share of the host's bandwidth, stated or ``measured``, is read with."""
    if measured:
        return MEASURED_READING
    if numa_nodes > 1:
        return NUMA_READING
    return RYZEN_READING if _RYZEN.search(processor) else HOST_READING


def host_rate(
    kind: str,
    component: str,
    *,
    prefill: bool,
    rows: float,
    instructions: Sequence[str],
    processor: str = "",
    engine: Engine = "llama.cpp",
) -> Interval:
    """Return multiplications with addition a second that one core does on weights (or a cache) of type ``kind``."""
    column, spread = (1 if prefill else 0), HOST_SPREAD
    if engine in IK and component == "kv":
        rate = IK_ATTENTION[column]
    elif component == "kv":
        rate = HOST_ATTENTION[column] * (1.0 if kind in ("f16", "f32", "bf16") else QUANTIZED_CACHE)
    elif prefill and engine in IK:
        rate, spread = IK_TILES, IK_SPREAD
    else:
        rate = HOST_PRODUCTS.get(kind, OTHER_PRODUCTS)[column]
    if prefill and engine in IK and component != "kv":
        rate *= rows / (rows + IK_UNPACKED_ROWS)
        rate *= IK_HALF_WIDTH if instructions and not _ZEN_5.search(processor) else 1.0
        rate *= IK_BEFORE_UNPACKING if engine == "ik_llama.cpp 2025-05" else 1.0
    elif prefill and component == "experts":
        share, tile = HOST_EXPERTS_REPACKED if kind in REPACKED_TYPES else HOST_EXPERTS
        rate *= share * rows / (rows + tile)
    if prefill and engine not in IK and _DESKTOP.search(processor):
        rate *= DESKTOP_NARROW if kind in NARROW_TYPES else DESKTOP
    known = next((share for name, share in INSTRUCTIONS if name in instructions), None)
    by_instructions = UNKNOWN_INSTRUCTIONS if known is None else Interval(known, known, known)
    return times(product(spread, by_instructions), rate * 1e9)


def product(*factors: Interval) -> Interval:
    """Return the product of factors that know nothing of each other.

    The deviations add up as the root of their squares, in the logarithm: all at their worst at once is no nine in ten.
    """
    mid = prod(factor.mid for factor in factors)
    if mid == 0:
        return Interval(0.0, 0.0, 0.0)
    low = sqrt(sum(log(factor.mid / factor.low) ** 2 for factor in factors))
    high = sqrt(sum(log(factor.high / factor.mid) ** 2 for factor in factors))
    return Interval(mid * exp(-low), mid, mid * exp(high))
