"""What GPTQ, AWQ and FP8 checkpoints keep for each matrix: the packed weights and all that goes with them.

Sources: the layouts that AutoGPTQ, AutoAWQ and DeepSeek-V3's FP8 checkpoints write, and vLLM and SGLang read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod

from quietmind.model.card import Tensor
from quietmind.model.shape import Stored

Extents = tuple[int, ...]

F16, F32, I32, BYTE = 2, 4, 4, 8  # bytes, and bits of one

# Stay in half precision: norms and other vectors by their shape, these by their names.
_KEPT = ("_norm.weight", "ffn_gate_inp", "ssm_conv1d", "ssm_ba", "ssm_alpha", "ssm_beta")
_ENDS = frozenset({"token_embd.weight", "output.weight"})


@dataclass(frozen=True)
class Scheme:
    """A way to store matrices. ``matrix`` gives the bytes of one with so many inputs and outputs, scales included."""

    type: str
    rest: str  # the type of all that is not quantized
    matrix: Callable[[int, int], int]


def gptq_bytes(inputs: int, outputs: int, *, bits: int, group: int) -> int:
    """Return the bytes of a GPTQ matrix. ``group`` inputs share a scale (0: all do)."""
    groups = -(-inputs // (group or inputs))
    return (
        inputs * outputs * bits // BYTE  # qweight: packed along the inputs
        + groups * outputs * bits // BYTE  # qzeros: packed along the outputs
        + groups * outputs * F16  # scales
        + inputs * I32  # g_idx: the group of each input
    )


def awq_bytes(inputs: int, outputs: int, *, bits: int, group: int) -> int:
    """Return the bytes of an AWQ matrix. ``group`` inputs share a scale (0: all do)."""
    groups = -(-inputs // (group or inputs))
    return (
        inputs * outputs * bits // BYTE  # qweight: packed along the outputs
        + groups * outputs * bits // BYTE  # qzeros
        + groups * outputs * F16  # scales
    )


def fp8_block_bytes(inputs: int, outputs: int, *, block: tuple[int, int]) -> int:
    """Return the bytes of an FP8 matrix whose blocks (outputs x inputs) each have a scale in f32."""
    rows, columns = block
    return (
        inputs * outputs  # weights
        + -(-outputs // rows) * -(-inputs // columns) * F32  # weight_scale_inv
    )


def fp8_channel_bytes(inputs: int, outputs: int) -> int:
    """Return the bytes of an FP8 matrix with a scale in f32 for each output."""
    return inputs * outputs + outputs * F32


SCHEMES: dict[str, Scheme] = {
    "GPTQ-INT4": Scheme("gptq_int4_g128", "f16", partial(gptq_bytes, bits=4, group=128)),
    "GPTQ-INT8": Scheme("gptq_int8_g128", "f16", partial(gptq_bytes, bits=8, group=128)),
    "AWQ-INT4": Scheme("awq_int4_g128", "f16", partial(awq_bytes, bits=4, group=128)),
    "FP8": Scheme("fp8_128x128", "bf16", partial(fp8_block_bytes, block=(128, 128))),
    "FP8-CHANNEL": Scheme("fp8_channel", "bf16", fp8_channel_bytes),
}


def label(stored: Stored) -> str:
    """Return what tensors stored so are called: gptq_int4_g128, fp8_128x128, mxfp4."""
    if stored.method in ("gptq", "awq"):
        return f"{stored.method}_int{stored.bits}" + (f"_g{stored.group}" if stored.group else "")
    if stored.method == "fp8":
        return "fp8_{}x{}".format(*stored.block) if stored.block else "fp8_channel"
    return stored.method


def scheme_of(stored: Stored) -> Scheme | None:
    """Return the scheme that a configuration states; None for MXFP4, which is a type of ggml."""
    match stored.method:
        case "gptq":
            return Scheme(label(stored), "f16", partial(gptq_bytes, bits=stored.bits, group=stored.group))
        case "awq":
            return Scheme(label(stored), "f16", partial(awq_bytes, bits=stored.bits, group=stored.group))
        case "fp8" if stored.block:
            return Scheme(label(stored), "bf16", partial(fp8_block_bytes, block=stored.block))
        case "fp8":
            return Scheme(label(stored), "bf16", fp8_channel_bytes)
    return None


def stored_tensors(rows: Iterable[tuple[str, Extents]], scheme: Scheme) -> list[Tensor]:
    """Return a tensor for each of ``rows`` (GGUF names and extents), with the bytes of all that stands for it."""
    return [_stored(name, extents, scheme) for name, extents in rows]


def _stored(name: str, extents: Extents, scheme: Scheme) -> Tensor:
    if name.endswith("exp_probs_b.bias"):  # what corrects the router's scores is never rounded
        return Tensor(name, extents, "f32", prod(extents) * F32)
    if name in _ENDS or len(extents) < 2 or not name.endswith(".weight") or any(part in name for part in _KEPT):
        return Tensor(name, extents, scheme.rest, prod(extents) * F16)
    inputs, outputs = extents[:2]
    return Tensor(name, extents, scheme.type, scheme.matrix(inputs, outputs) * prod(extents[2:]))
