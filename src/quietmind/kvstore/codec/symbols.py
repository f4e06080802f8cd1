"""Small numbers as bytes: two to a byte, then Zstandard, whose Huffman codes take what their frequencies ask for.

Two symbols of one channel share a byte, so that one code stands for both: half the work, and less than a bit is lost.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UNPACKING = (ValueError, zstd.ZstdError)  # what ``unframed`` raises

Symbols = NDArray[np.uint8]

MOST_SYMBOLS = 16
_LEVEL = 1  # of symbols, higher levels gain nothing: there is nothing that repeats
_LENGTH = struct.Struct("<I")


def paired(symbols: Symbols) -> Symbols:
    """Return the symbols [runs, n, width], all below 16 and ``n`` even, two to a byte: [runs, n / 2, width]."""
    half = symbols.shape[1] // 2
    joined: Symbols = symbols[:, :half] | (symbols[:, half:] << np.uint8(4))
    return joined


def unpaired(pairs: Symbols, out: Symbols) -> None:
    """Write what was ``paired`` to ``out`` [runs, n, width]."""
    half = pairs.shape[1]
    np.bitwise_and(pairs, 15, out=out[:, :half])
    np.right_shift(pairs, 4, out=out[:, half:])


def framed(parts: Sequence[bytes | memoryview | NDArray[Any]]) -> bytes:
    """Return the parts, each packed and after its length."""
    framed: list[bytes] = []
    for part in parts:
        content = zstd.compress(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part, level=_LEVEL)
        framed += [_LENGTH.pack(len(content)), content]
    return b"".join(framed)


def unframed(block: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Return the parts of a block that was ``framed``, which have these ``sizes`` in bytes.

    Raises UNPACKING for anything else, before more memory is taken than the sizes say.
    """
    parts, at = [], 0
    for size in sizes:
        if at + _LENGTH.size > len(block):
            raise ValueError("it ends too early")
        (length,) = _LENGTH.unpack_from(block, at)
        at += _LENGTH.size
        unpacker = zstd.ZstdDecompressor()
        content = unpacker.decompress(memoryview(block)[at : at + length], max_length=size + 1)
        if len(content) != size or not unpacker.eof or unpacker.unused_data:
            raise ValueError(f"{len(content):,} bytes in the place of {size:,}")
        at += length
        parts.append(content)
    if at != len(block):
        raise ValueError(f"{len(block) - at:,} bytes too many")
    return parts
