"""Small numbers as bytes, packed by what their frequencies ask for: nibbles, channels sorted by spread, then Zstandard.

Zstandard codes bytes with one table of Huffman codes for each of its blocks. Three things make its codes fit: a number
from 0 to 255 is split in two halves of 4 bits, of which the upper is nearly always the same; the halves of two tokens
share a byte, so that a code stands for two numbers and a fraction of a bit is enough for one; and channels of like
spread lie together, each class of them with codes of its own. Whole bytes would be found to repeat by chance, which
takes more bits than codes do: 3.11 where the frequencies ask for 2.66 (numbers of a deviation of 1.5).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UNPACKING = (ValueError, zstd.ZstdError)  # what ``unframed`` and ``Symbols`` raise

Numbers = NDArray[np.uint8]

CLASSES = 8  # of channels; each costs a table of codes
MOST_CHANNELS = 1 << 16

# Two neighbours keep together when channels are sorted: of K they turn together and spread alike, and they are moved
# at half the cost.
_NEIGHBOURS = 2

_SHORTEST_REPEAT = 7  # the longest that can be asked for: what repeats here does so by chance
_PACKING: Mapping[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.min_match: _SHORTEST_REPEAT,
}


def packed(symbols: Numbers, spread: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return the parts of numbers [groups, n, channels], ``n`` even, to be ``framed``.

    ``spread`` says of each channel how far its numbers lie apart, in any unit: the order in which they pack best.
    """
    channels = symbols.shape[2]
    order = np.argsort(spread.reshape(-1, _together(channels)).mean(axis=1), kind="stable")
    halves = _paired(np.take(symbols.view(_moved(channels)), order, axis=2).view(np.uint8))
    return [order.astype("<u2"), *(half[..., first:last] for half in halves for first, last in _cuts(channels))]


class Symbols:
    """Numbers [groups, n, channels] that were ``packed``; some groups at a time are made whole again."""

    def __init__(self, parts: Sequence[bytes | memoryview], groups: int, n: int, channels: int) -> None:
        """Take the parts, whose :meth:`sizes` were checked. Raises ValueError where they do not make sense."""
        order = np.frombuffer(parts[0], "<u2")
        self.places = np.argsort(order)
        """Which of the sorted channels comes where; neighbours that are kept together count as one."""
        if not np.array_equal(order[self.places], np.arange(len(order))):
            raise ValueError("an order of channels that is none")
        self._cuts = _cuts(channels)
        shapes = 2 * [(groups, n // 2, last - first) for first, last in self._cuts]
        classes = [np.frombuffer(part, np.uint8).reshape(shape) for part, shape in zip(parts[1:], shapes, strict=True)]
        self.halves = tuple(classes[: len(self._cuts)]), tuple(classes[len(self._cuts) :])
        """Of each class of channels the lower halves of two tokens in a byte, and the upper: [groups, n / 2, these]."""

    @staticmethod
    def sizes(groups: int, n: int, channels: int) -> list[int]:
        """Return the sizes in bytes of the parts."""
        return [
            2 * (channels // _together(channels)),
            *2 * [groups * n // 2 * (last - first) for first, last in _cuts(channels)],
        ]

    def take(self, at: int, out: Numbers) -> None:
        """Write the groups from ``at`` on to ``out`` [some groups, n, channels], which is contiguous."""
        count, n, channels = out.shape
        halves = np.empty((2, count, n // 2, channels), np.uint8)
        for half, classes in zip(halves, self.halves, strict=True):
            for (first, last), of_class in zip(self._cuts, classes, strict=True):
                half[..., first:last] = of_class[at : at + count]
        whole = np.empty((count, 2, n // 2, channels), np.uint8)
        _unpair(halves, whole)
        some, kind = whole.reshape(out.shape), _moved(channels)
        # All places are within, and to "raise" where one is not would take a copy.
        np.take(some.view(kind), self.places, axis=2, out=out.view(kind), mode="clip")


def _paired(numbers: Numbers) -> Numbers:
    """Return the lower and the upper halves of ``numbers`` [groups, n, channels], those of two tokens in a byte.

    They are [2, groups, n / 2, channels].
    """
    groups, n, channels = numbers.shape
    kind, lower, upper, four = _words(channels)
    halves = np.empty((2, groups, n // 2, channels), np.uint8)
    low, high = halves.view(kind)
    first, second = numbers.reshape(groups, 2, n // 2, channels).view(kind).swapaxes(0, 1)
    np.left_shift(second, four, out=low)
    low &= upper
    low |= first & lower
    np.right_shift(first, four, out=high)
    high &= lower
    high |= second & upper
    return halves


def _unpair(halves: Numbers, numbers: Numbers) -> None:
    """Write to ``numbers`` [groups, 2, n / 2, channels] what is ``_paired`` in ``halves``."""
    kind, lower, upper, four = _words(halves.shape[3])
    low, high = halves.view(kind)
    first, second = numbers.view(kind).swapaxes(0, 1)
    np.left_shift(high, four, out=first)
    first &= upper
    first |= low & lower
    np.right_shift(low, four, out=second)
    second &= lower
    second |= high & upper


def framed(parts: Sequence[bytes | NDArray[Any]]) -> bytes:
    """Return the parts packed in one frame of Zstandard, each in blocks of its own, and so with codes of its own."""
    packer = zstd.ZstdCompressor(options=_PACKING)
    framed = [
        packer.compress(part if isinstance(part, bytes) else part.tobytes(), zstd.ZstdCompressor.FLUSH_BLOCK)
        for part in parts
    ]
    return b"".join((*framed, packer.flush()))


def unframed(block: memoryview | bytes, sizes: Sequence[int]) -> list[memoryview]:
    """Return the parts of a block that was ``framed``, which have these ``sizes`` in bytes.

    Raises UNPACKING for anything else, before more memory is taken than the sizes say.
    """
    unpacker = zstd.ZstdDecompressor()
    total = sum(sizes)
    content = memoryview(unpacker.decompress(block, max_length=total + 1))
    if len(content) != total or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"{len(content):,} bytes in the place of {total:,}")
    ends = [0, *accumulate(sizes)]
    return [content[first:last] for first, last in pairwise(ends)]


def _words(channels: int) -> tuple[np.dtype[Any], Any, Any, Any]:
    """Return a kind of whole numbers that rows of bytes are seen as, its lower and upper half bytes, and 4.

    Eight bytes at a time where they are whole rows: NumPy moves the bits of those by the vector, of bytes one by one.
    """
    kind: np.dtype[Any] = np.dtype(np.uint64 if channels % 8 == 0 else np.uint8)
    lower = np.frombuffer(b"\x0f" * kind.itemsize, kind)[0]
    return kind, lower, ~lower, kind.type(4)


def _together(channels: int) -> int:
    return _NEIGHBOURS if channels % _NEIGHBOURS == 0 else 1


def _moved(channels: int) -> type[np.unsignedinteger[Any]]:
    """Return as what channels are moved to where they are sorted: those that keep together, as one number."""
    return np.uint16 if _together(channels) == _NEIGHBOURS else np.uint8


def _cuts(channels: int) -> list[tuple[int, int]]:
    """Return where each class of sorted channels begins and ends."""
    together = _together(channels)
    ends = [channels // together * number // CLASSES * together for number in range(CLASSES + 1)]
    return [(first, last) for first, last in pairwise(ends) if first < last]
