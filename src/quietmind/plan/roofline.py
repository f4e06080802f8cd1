"""The constants of the speed model, each with where it comes from. All are shares or rates as (low, mid, high).

Fitted by hand on measurements on a 2-core Xeon with AVX-512 (benchmarks/speed_accuracy.py) and on some of the published
runs of Qwen3-235B-A22B; the others were kept to judge by. A constant is the same for every row: what differs between
machines is their bandwidth, cores, instructions and flops.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from quietmind.plan.interval import Interval

# Reading memory ------------------------------------------------------------------------------------------------
# Share of the stated bandwidth that a pass over weights reaches. A datasheet's number is never reached whole.
HOST_READING = Interval(0.65, 0.9, 1.05)
MEASURED_READING = Interval(0.7, 0.95, 1.15)  # of what threads were seen to read on this very machine
GPU_READING = Interval(0.55, 0.75, 0.92)
DISK_READING = Interval(0.4, 0.7, 0.95)  # scattered experts, read through a mapping
# Attention of one token reads the cache in small pieces. Published: 0.38 (RTX 5090), 0.33 (3090 Ti), 0.14 (A6000).
GPU_CACHE_READING = Interval(0.15, 0.33, 0.7)

# Copying weights to a GPU: share of the link's stated bandwidth. One run at micro-batches of 512 gives 0.88 of PCIe 4.
UPLOADING = Interval(0.55, 0.85, 0.97)
ASSUMED_LINK = Interval(10e9, 25e9, 55e9)  # bytes a second where the machine does not say: PCIe 3 to PCIe 5, 16 lanes

# Multiplying on a GPU ------------------------------------------------------------------------------------------
# Shares of the stated half-precision flops with f32 accumulation. GeForce cards state half of what their chips do, and
# engines multiply quantized weights in int8 and attend in f16, which is not halved. From the pp512 of a 7B in Q4_0:
# RTX 3090 0.97, 4090 0.98, A6000 (the chip of the 3090) 0.37 (llama.cpp's own collection, second-hand).
GPU_MATRICES = Interval(0.15, 0.4, 0.7)
GPU_EXPERTS = Interval(0.06, 0.15, 0.4)  # a few dozen tokens an expert fill the tiles badly
GPU_ATTENTION = Interval(0.35, 0.6, 0.8)
GEFORCE = 2.0  # times the shares above, attention 1.5
GEFORCE_ATTENTION = 1.5
# Where no flops are stated: flops for each byte a second of its memory. From an M2 Ultra (68) to an H100 (295).
FLOPS_PER_BYTE = Interval(60.0, 150.0, 300.0)

# Waiting -------------------------------------------------------------------------------------------------------
GPU_LAYER_S = Interval(15e-6, 50e-6, 110e-6)  # a dozen kernels to start
# On Apple's GPUs. From the decode rates of 8B, 70B and 30B-A3B models that owners of an M2 Ultra report (second-hand).
METAL_LAYER_S = Interval(90e-6, 180e-6, 260e-6)
HOST_LAYER_CORE_S = Interval(1e-6, 4e-6, 10e-6)  # two dozen barriers, which take longer the more threads meet there
EXPERTS_OF_LAYER = 0.2  # of those, the share that a layer's experts alone cost
HANDOVER_S = Interval(30e-6, 90e-6, 220e-6)  # activations there and back, synchronized
UPLOAD_LAYER_S = Interval(50e-6, 150e-6, 600e-6)

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
    "q8_0": (12.0, 32.0),
    "q6_k": (6.9, 33.0),
    "q5_k": (10.0, 50.0),
    "q5_0": (8.0, 17.0),
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
    "iq2_k": (18.0, 50.0),
    "iq3_k": (18.0, 50.0),
    "iq4_k": (18.0, 50.0),
}
OTHER_PRODUCTS = (6.0, 8.0)  # a type that nobody measured: like the slower ones
HOST_SPREAD = Interval(0.45, 1.0, 1.6)  # from one processor of a generation to another
# Attention over a cache in f16, and its share for quantized ones, whose rows are turned back first.
HOST_ATTENTION = (2.9, 16.0)
QUANTIZED_CACHE = 0.6
# Against AVX-512, by the best instructions there are. Second-hand: published runs of the same model on both.
INSTRUCTIONS: tuple[tuple[str, float], ...] = (("amx_int8", 1.0), ("avx512f", 1.0), ("avx2", 0.6), ("neon", 0.6))
UNKNOWN_INSTRUCTIONS = Interval(0.5, 0.8, 1.0)

# How an engine prefills with weights that the host holds: llama.cpp brings them to a GPU, ik_llama.cpp with weights
# repacked for the processor multiplies them where they are, by tiles of its own (iqk_mul_mat).
Engine = Literal["llama.cpp", "ik_llama.cpp"]
IK_TILES = 150.0  # 1e9 products a second and core, whatever the type; fitted on two published runs with an EPYC 9355


_GEFORCE = re.compile(r"geforce|\b[rg]tx ?[1-5]0[5-9]0\b", re.IGNORECASE)


def gpu_share(name: str, component: str) -> Interval:
    """Return which share of its stated flops the GPU called ``name`` reaches on ``component``."""
    share = {"experts": GPU_EXPERTS, "kv": GPU_ATTENTION}.get(component, GPU_MATRICES)
    if not _GEFORCE.search(name):
        return share
    factor = GEFORCE_ATTENTION if component == "kv" else GEFORCE
    return Interval(share.low * factor, share.mid * factor, share.high * factor)


def host_rate(
    kind: str, component: str, *, prefill: bool, instructions: Sequence[str], engine: Engine = "llama.cpp"
) -> Interval:
    """Return multiplications with addition a second that one core does on weights (or a cache) of type ``kind``."""
    column = 1 if prefill else 0
    if component == "kv":
        rate = HOST_ATTENTION[column] * (1.0 if kind in ("f16", "f32", "bf16") else QUANTIZED_CACHE)
    elif prefill and engine == "ik_llama.cpp":
        rate = IK_TILES
    else:
        rate = HOST_PRODUCTS.get(kind, OTHER_PRODUCTS)[column]
    known = next((share for name, share in INSTRUCTIONS if name in instructions), None)
    by_instructions = UNKNOWN_INSTRUCTIONS if known is None else Interval(known, known, known)
    return Interval(
        rate * 1e9 * HOST_SPREAD.low * by_instructions.low,
        rate * 1e9 * by_instructions.mid,
        rate * 1e9 * HOST_SPREAD.high * by_instructions.high,
    )
