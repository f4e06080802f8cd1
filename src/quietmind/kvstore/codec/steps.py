"""What the codec ``transform`` makes of a group's components: whole numbers of steps, entropy coded, and back.

A stretch of text has averages of its own: they are written, and what is around them is coded. Of each token a part is
expected by those before it, and what it deviates by is rounded (codec/following.py). Tokens deviate in all components
by more or by less: their sizes move the distributions that they are coded with.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.codec import following, rans
from quietmind.kvstore.codec.places import Places
from quietmind.kvstore.codec.products import Written
from quietmind.kvstore.codec.symbols import framed, unframed
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.grades import Grades, octaves

Sizes = NDArray[np.int8]
"""By how many shifts of codec/rans.py each token of a group deviates more than others: [cells]."""

_LARGEST_SYMBOL = 1 << 23

_PARTS_OF_A_STEP = 4  # that averages are written in

_SEEN = 0.3  # of a step: components that deviate less on average say little of a token's size
_LARGEST_SIZE = 40  # either way: the whole grid of distributions

# What symbols may take at most, so that a few hostile bytes cannot fill the memory; coding each state costs as much as
# a few symbols do.
_MOST_BYTES_A_SYMBOL, _WARMING = 8, 16

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Fineness:
    """How many times smaller the steps of cells are, float32 [cells, 1], and how far that moves their distributions."""

    times: Floats
    shifts: rans.Shifts

    @classmethod
    def of(cls, grades: Grades) -> Self:
        """Return what grades come to."""
        return cls(
            np.exp2(octaves(grades)).astype(np.float32)[:, None],
            np.rint(octaves(grades) / rans.SHIFT).astype(np.int64),
        )


def coded(components: Floats, fine: Fineness, places: Places) -> tuple[bytes, Sizes, Written]:
    """Return the block of ``components`` [cells, rank] in steps, the tokens' sizes, and what comes back of them.

    ``components`` is overwritten. Raises SnapshotNotUnderstood.
    """
    if max(float(components.max(initial=0)), -float(components.min(initial=0))) >= _LARGEST_SYMBOL:
        raise SnapshotNotUnderstood("the saved cache is nothing like what the basis was made of; calibrate again")
    averages = np.clip(np.rint(components.mean(axis=0) * _PARTS_OF_A_STEP), -127, 127).astype(np.int8)
    components -= averages / np.float32(_PARTS_OF_A_STEP)
    parts = following.learned(components, fine.times, places)
    each = following.spread(parts, components.shape[1])
    symbols, deviations = following.rounded(components, fine.times, each, places)
    sizes = _sizes(deviations)
    shifts = fine.shifts + sizes
    classes = rans.choose(symbols, shifts)
    content = rans.encode(symbols, classes, shifts)
    block = _LENGTH.pack(len(content)) + framed([classes.tobytes(), averages.tobytes(), parts.tobytes(), content])
    used = _used(classes, averages)
    components += averages / np.float32(_PARTS_OF_A_STEP)
    return block, sizes, (used, components if len(used) == len(classes) else components.take(used, axis=1))


def read(
    block: bytes, cells: int, rank: int, fine: Fineness | None, sizes: Sizes | None, places: Places | None
) -> Written:
    """Return what comes back of what :func:`coded` has made. Raises ValueError and its like.

    Earlier forms know less: without ``places`` the same parts are expected of all tokens, without ``sizes`` none, and
    without ``fine`` all take the same steps.
    """
    (length,) = _LENGTH.unpack_from(block)
    if length > _MOST_BYTES_A_SYMBOL * (rank + 1) * (cells + _WARMING):
        raise ValueError(f"{length:,} bytes of symbols")
    learned = 0 if places is None else math.prod(following.SHAPE)
    packed, means, said, content = unframed(memoryview(block)[_LENGTH.size :], [rank, rank, learned, length])
    classes, averages = np.frombuffer(packed, np.uint8), np.frombuffer(means, np.int8)
    symbols = np.empty((cells, rank), np.int32)
    shifts = None if fine is None else fine.shifts if sizes is None else fine.shifts + sizes
    rans.decode(content, classes, symbols, shifts)
    used = _used(classes, averages)
    steps = (symbols if len(used) == len(classes) else symbols.take(used, axis=1)).astype(np.float32)
    if fine is not None:
        steps *= 1 / fine.times
    if places is not None:
        parts = following.spread(np.frombuffer(said, np.int8).reshape(following.SHAPE), rank)
        following.follow(steps, parts.take(used, axis=2), places)
    elif sizes is not None:
        following.follow(steps, following.usual(len(used)), Places.nowhere(cells))
    steps += averages[used] / np.float32(_PARTS_OF_A_STEP)
    return used, steps


def _used(classes: rans.Classes, averages: NDArray[np.int8]) -> NDArray[np.intp]:
    return np.flatnonzero((classes != 0) | (averages != 0))


def _sizes(deviations: Floats) -> Sizes:
    """Return the sizes of tokens by their ``deviations`` [cells, rank], which are overwritten."""
    np.abs(deviations, out=deviations)
    usual = deviations.mean(axis=0)
    seen = usual > _SEEN
    if not seen.any():
        return np.zeros(len(deviations), np.int8)
    each = np.maximum(deviations @ np.divide(1, usual, out=np.zeros_like(usual), where=seen), 1e-6)
    octave = np.log2(each)
    found: Sizes = np.rint((octave - octave.mean()) / rans.SHIFT).clip(-_LARGEST_SIZE, _LARGEST_SIZE).astype(np.int8)
    return found
