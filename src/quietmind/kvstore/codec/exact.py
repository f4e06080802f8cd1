"""The engine's own bytes, losslessly packed: byte planes, then Zstandard.

A cache of 16-bit floats is a row of numbers whose high bytes (sign and exponent) are alike and whose low bytes are
noise. Put apart, the first pack well and the second not at all, which costs nothing to find out. Quantized caches come
in blocks of a few bytes of scales and then weights, where the same holds for other distances.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import BinaryIO

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.port import exactly
from quietmind.kvstore.codec.side_by_side import side_by_side

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 4 << 20
LEVEL = 1  # of floats, higher levels gain less than 1 % and take several times as long (benchmarks/exact_codec.py)

# Distances in bytes between values of one kind: bytes as they are, 16-bit and 32-bit floats, and the blocks of
# q4_0 and iq4_nl (18), q4_1 (20), q5_0 (22), q5_1 (24) and q8_0 (34) in ggml/src/ggml-common.h.
STRIDES = (1, 2, 4, 18, 20, 22, 24, 34)
_SAMPLE_BYTES = 64 << 10

# Of each block: the stride, and the bytes that come out of it. Then for each plane its packed length and its bytes.
_HEAD = struct.Struct("<BI")
_LENGTH = struct.Struct("<I")


class Exact:
    """Lossless."""

    name = "exact-1"

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield a packed block for each 4 MiB of ``source``."""
        pieces = (exactly(source, min(BLOCK_BYTES, size - start)) for start in range(0, size, BLOCK_BYTES))
        yield from side_by_side(lambda block: _pack(block, _best_stride(block)), pieces)

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` with what ``encode`` was given. Raises SnapshotDamaged."""
        starts = count(step=BLOCK_BYTES)
        try:
            ends = side_by_side(lambda piece: _unpack_at(target, *piece), zip(starts, blocks, strict=False))
            end = deque(ends, maxlen=1)
            if (end[0] if end else 0) != len(target):
                raise ValueError("it ends too early")
        except (struct.error, zstd.ZstdError, ValueError, MemoryError) as error:
            raise SnapshotDamaged(
                f"a block of codec {self.name} cannot be unpacked ({error}); read the notebook again"
            ) from error


def _pack(block: bytes, stride: int) -> bytes:
    packed = [_HEAD.pack(stride, len(block))]
    for plane in range(stride):
        content = zstd.compress(block[plane::stride], level=LEVEL)
        packed += [_LENGTH.pack(len(content)), content]
    return b"".join(packed)


def _unpack_at(target: memoryview, start: int, packed: bytes) -> int:
    """Unpack the block that begins at ``start`` of ``target``; return where it ends."""
    stride, size = map(int, _HEAD.unpack_from(packed))
    if stride not in STRIDES or size != min(BLOCK_BYTES, len(target) - start) or size == 0:
        raise ValueError(f"{size:,} bytes in {stride} planes at {start:,} of {len(target):,}")
    block = bytearray(size)
    at = _HEAD.size
    for plane in range(stride):
        (length,) = _LENGTH.unpack_from(packed, at)
        at += _LENGTH.size
        # Unpacking stops one byte past what fits, so that a few hostile bytes cannot fill the memory.
        wanted = len(range(plane, size, stride))
        unpacker = zstd.ZstdDecompressor()
        content = unpacker.decompress(packed[at : at + length], max_length=wanted + 1)
        if len(content) != wanted or not (unpacker.eof or wanted == 0):
            raise ValueError(f"plane {plane} holds {len(content):,} bytes in the place of {wanted:,}")
        block[plane::stride] = content
        at += length
    if at != len(packed):
        raise ValueError(f"{len(packed) - at:,} bytes too many")
    target[start : start + size] = block
    return start + size


def _best_stride(block: bytes) -> int:
    """Return the stride that packs a stretch from the middle of ``block`` best; the first of equals."""
    start = max(0, (len(block) - _SAMPLE_BYTES) // 2)
    sample = block[start : start + _SAMPLE_BYTES]
    return min(STRIDES, key=lambda stride: len(_pack(sample, stride)))
