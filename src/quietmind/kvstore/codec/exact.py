"""The engine's own bytes, losslessly packed: byte planes, then Zstandard.

A cache of 16-bit floats is a row of numbers whose high bytes (sign and exponent) are alike and whose low bytes are
noise. Put apart, the first pack well and the second not at all: they are kept as they are, which costs nothing to read.
Quantized caches come in blocks of a few bytes of scales and then weights, where the same holds for other distances.

    block      u8 stride, u32 bytes that come out of it, then as many planes as the stride:
    plane      u32 length, bytes; a plane of as many bytes as come out of it is plain, a shorter one is packed
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, BinaryIO

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.port import exactly
from quietmind.kvstore.codec.side_by_side import side_by_side

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

BLOCK_BYTES = 2 << 20  # a block and its planes stay in a core's cache: 4 MiB take a third more time
LEVEL = 1  # of floats, higher levels gain less than 1 % and take several times as long (benchmarks/exact_codec.py)
PLAIN_ABOVE = 0.97  # a plane that packs worse is kept plain: to unpack it costs as much as of one that packs well

# Distances in bytes between values of one kind: bytes as they are, 16-bit and 32-bit floats, and the blocks of
# q4_0 and iq4_nl (18), q4_1 (20), q5_0 (22), q5_1 (24) and q8_0 (34) in ggml/src/ggml-common.h.
STRIDES = (1, 2, 4, 18, 20, 22, 24, 34)
_SAMPLE_BYTES = 32 << 10

_HEAD = struct.Struct("<BI")
_LENGTH = struct.Struct("<I")


class Exact:
    """Lossless."""

    name = "exact-2"

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield a packed block for each 2 MiB of ``source``."""
        pieces = (exactly(source, min(BLOCK_BYTES, size - start)) for start in range(0, size, BLOCK_BYTES))
        yield from side_by_side(_pack_best, pieces)

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` with what ``encode`` was given. Raises SnapshotDamaged."""
        fill(target, blocks, name=self.name, block_bytes=BLOCK_BYTES, plain=True)


def fill(target: memoryview, blocks: Iterable[bytes], *, name: str, block_bytes: int, plain: bool) -> None:
    """Unpack ``blocks``, each of ``block_bytes`` but the last, into ``target``. Raises SnapshotDamaged.

    ``plain`` says whether a plane of full length is plain: in the first form of this codec it was packed too.
    """
    numbered = zip(count(step=block_bytes), blocks, strict=False)
    work = side_by_side(lambda piece: _unpack(target[piece[0] : piece[0] + block_bytes], piece[1], plain), numbered)
    try:
        filled = sum(work)
        if filled != len(target):
            raise ValueError(f"{filled:,} bytes in the place of {len(target):,}")
    except (struct.error, zstd.ZstdError, ValueError, MemoryError) as error:
        raise SnapshotDamaged(
            f"a block of codec {name} cannot be unpacked ({error}); read the notebook again"
        ) from error


def _unpack(target: memoryview, packed: bytes, plain: bool) -> int:
    """Fill ``target`` with one block; return its bytes."""
    import numpy as np

    stride, size = _HEAD.unpack_from(packed)
    if stride not in STRIDES or not size or size != len(target):
        raise ValueError(f"{size:,} bytes in {stride} planes in the place of {len(target):,}")
    bytes_ = np.frombuffer(target, np.uint8)
    at = _HEAD.size
    for plane in range(stride):
        (length,) = _LENGTH.unpack_from(packed, at)
        at += _LENGTH.size
        content = memoryview(packed)[at : at + length]
        wanted = len(range(plane, size, stride))
        if not plain or length != wanted:
            content = _unpacked(content, wanted)
        bytes_[plane::stride] = np.frombuffer(content, np.uint8)
        at += length
    if at != len(packed):
        raise ValueError(f"{len(packed):,} bytes in the place of {at:,}")
    return int(size)


def _unpacked(content: memoryview, wanted: int) -> memoryview:
    """Return the ``wanted`` bytes of a plane. Raises ValueError, ZstdError."""
    # Unpacking stops one byte past what fits, so that a few hostile bytes cannot fill the memory.
    unpacker = zstd.ZstdDecompressor()
    plane = unpacker.decompress(content, max_length=wanted + 1)
    if len(plane) != wanted or not (unpacker.eof or wanted == 0):
        raise ValueError(f"a plane of {len(plane):,} bytes in the place of {wanted:,}")
    return memoryview(plane)


def _pack_best(block: bytes) -> bytes:
    """Pack a block with the stride that packs a stretch from its middle best; the first of equals."""
    import numpy as np

    packer = zstd.ZstdCompressor(level=LEVEL)  # for all planes: making one costs as much as packing a sample's plane
    content = np.frombuffer(block, np.uint8)
    start = max(0, (len(block) - _SAMPLE_BYTES) // 2)
    sample = content[start : start + _SAMPLE_BYTES]
    return _pack(content, min(STRIDES, key=lambda stride: len(_pack(sample, stride, packer))), packer)


def _pack(block: Bytes, stride: int, packer: zstd.ZstdCompressor) -> bytes:
    parts = [_HEAD.pack(stride, len(block))]
    for plane in range(stride):
        content = block[plane::stride].tobytes()
        packed = packer.compress(content, mode=packer.FLUSH_FRAME)
        best = packed if len(packed) < PLAIN_ABOVE * len(content) else content
        parts += [_LENGTH.pack(len(best)), best]
    return b"".join(parts)
