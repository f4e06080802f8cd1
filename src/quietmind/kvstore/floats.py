"""The engine's number formats as 32-bit floats and back, by arithmetic on bits.

NumPy converts 16-bit floats one by one: 5.0 ns a value from 32 bits and 2.6 ns to them, on a core with AVX-512; what
stands here takes about 0.8. It rests on one identity: the bits of a 16-bit float, moved 13 places up, are those of a
32-bit float 2^112 times smaller (the biases of the exponents, 15 and 127, differ by 112), subnormals included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotNotUnderstood

# Bytes and values of a block of each type that a cache can be read as (ggml/src/ggml-common.h).
BLOCKS = {"f32": (4, 1), "f16": (2, 1), "bf16": (2, 1), "q8_0": (34, 32)}

# What 16-bit floats are multiplied by on their way in, and by its inverse on their way out.
HALF_SCALE = np.float32(2.0**112)
LARGEST_HALF = 65504.0

_AT_ONCE = 1 << 16  # values that are widened: with what is made on the way, 640 KiB

_BLOCK_Q8_0 = np.dtype([("scale", "<u2"), ("quants", "i1", 32)])

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def widen(raw: Bytes, kind: str, out: Floats) -> None:
    """Write what ``raw`` holds in the type ``kind`` to ``out``, a contiguous array of as many values.

    Raises SnapshotNotUnderstood where one of them is infinite or no number.
    """
    if kind == "f32":
        np.copyto(out, raw.view("<f4").reshape(out.shape))
        if not np.isfinite(out).all():
            raise _not_finite()
    elif kind == "f16":
        _widen_half(raw.view("<u2").reshape(out.shape), out)
    elif kind == "bf16":
        bits = out.view(np.uint32)
        np.left_shift(raw.view("<u2").reshape(out.shape), 16, out=bits, dtype=np.uint32, casting="unsafe")
        if not np.isfinite(out).all():
            raise _not_finite()
    else:
        _widen_q8_0(raw.view(_BLOCK_Q8_0), out.reshape(-1, 32))


def narrow(values: Floats, kind: str, out: Bytes) -> None:
    """Write ``values`` to the bytes ``out`` in the type ``kind``, rounded to nearest, ties to even.

    What ``widen`` gave comes back bit by bit, except of q8_0. Values past the largest of the type become that one.
    ``out`` is contiguous, ``values`` may have any shape.
    """
    if kind == "f32":
        np.copyto(out.view("<f4").reshape(values.shape), values)
    elif kind == "f16":
        scaled = np.clip(values, -LARGEST_HALF, LARGEST_HALF)
        scaled *= 1 / HALF_SCALE
        np.copyto(out.view("<u2").reshape(values.shape), half_bits(scaled, even=True), casting="unsafe")
    elif kind == "bf16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = bits >> np.uint32(16)
        rounded &= 1
        rounded += bits
        rounded += 0x7FFF
        rounded >>= 16
        np.copyto(out.view("<u2").reshape(values.shape), rounded, casting="unsafe")
    else:
        _narrow_q8_0(np.ascontiguousarray(values).reshape(-1, 32), out.view(_BLOCK_Q8_0))


def half_bits(scaled: Floats, *, even: bool = False) -> NDArray[np.uint32]:
    """Return 16-bit floats 2^112 times ``scaled``, in the lower halves of the bits of ``scaled``, which they replace.

    That no value is 65,520 or more afterwards is for the caller to know. Rounded to nearest; ties away from zero, or
    to even where that is asked for, which takes longer. ``scaled`` is contiguous.
    """
    bits = scaled.view(np.uint32)
    signs = bits >> np.uint32(16)
    signs &= 0x8000
    if even:
        odd = bits >> np.uint32(13)
        odd &= 1
        bits += odd
        bits += 0x0FFF
    else:
        bits += 0x1000
    bits >>= 13
    bits |= signs  # the sign itself stands above the lower half
    return bits


def _widen_half(halves: NDArray[np.uint16], out: Floats) -> None:
    """Widen contiguous arrays, so many at once that they and what is made on the way stay in a core's cache."""
    narrow, wide = halves.reshape(-1), out.reshape(-1)
    for first in range(0, len(narrow), _AT_ONCE):
        some = narrow[first : first + _AT_ONCE]
        magnitudes = some & np.uint16(0x7FFF)
        if int(magnitudes.max()) >= 0x7C00:
            raise _not_finite()
        values = wide[first : first + _AT_ONCE]
        bits = values.view(np.uint32)
        np.left_shift(magnitudes, 13, out=bits, dtype=np.uint32, casting="unsafe")
        np.bitwise_and(some, 0x8000, out=magnitudes)
        bits |= np.left_shift(magnitudes, 16, dtype=np.uint32, casting="unsafe")
        values *= HALF_SCALE


def _widen_q8_0(blocks: NDArray[Any], out: Floats) -> None:
    scales = np.empty((len(blocks), 1), np.float32)
    _widen_half(np.ascontiguousarray(blocks["scale"])[:, None], scales)
    np.multiply(blocks["quants"], scales, out=out)


def _narrow_q8_0(values: Floats, blocks: NDArray[Any]) -> None:
    """Quantize blocks of 32 values: ``quantize_row_q8_0_ref`` of ggml/src/ggml-quants.c."""
    scales = np.minimum(np.abs(values).max(axis=1, keepdims=True) / np.float32(127), np.float32(LARGEST_HALF))
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    blocks["quants"] = np.clip(np.rint(values * inverse), -127, 127)
    scales *= 1 / HALF_SCALE
    blocks["scale"] = half_bits(scales, even=True)[:, 0].astype(np.uint16)


def _not_finite() -> SnapshotNotUnderstood:
    return SnapshotNotUnderstood("the saved cache holds numbers that are not finite; it is kept losslessly")
