"""What the codec ``transform`` makes of a group's components: whole numbers of steps, entropy coded, and back.

A stretch of text has averages of its own: they are written, and what is around them is coded. Tokens follow each other
by what they are about, so that of each a part is expected: ``_OF_LAST`` of what has come back of the token before, and
``_OF_LASTING`` of an average in which older ones fade. What it deviates by is rounded (differential pulse-code
modulation; Jayant & Noll, "Digital Coding of Waveforms", 6.2); what comes back errs by rounding alone. Parts that suit
each component save two thousandths more. And tokens deviate in all components by more or by less: their sizes move
the distributions that they are coded with.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.codec import rans
from quietmind.kvstore.codec.products import Written
from quietmind.kvstore.codec.symbols import framed, unframed
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.grades import Grades, octaves

Sizes = NDArray[np.int8]
"""By how many shifts of codec/rans.py each token of a group deviates more than others: [cells]."""

_LARGEST_SYMBOL = 1 << 23

_PARTS_OF_A_STEP = 4  # that averages are written in

_OF_LAST, _OF_LASTING = np.float32(0.2), np.float32(0.4)
_FADING = np.float32(1 / 12)  # of that average, with each token
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


def coded(components: Floats, fine: Fineness) -> tuple[bytes, Sizes, Written]:
    """Return the block of ``components`` [cells, rank] in steps, the tokens' sizes, and what comes back of them.

    ``components`` is overwritten. Raises SnapshotNotUnderstood.
    """
    if max(float(components.max(initial=0)), -float(components.min(initial=0))) >= _LARGEST_SYMBOL:
        raise SnapshotNotUnderstood("the saved cache is nothing like what the basis was made of; calibrate again")
    averages = np.clip(np.rint(components.mean(axis=0) * _PARTS_OF_A_STEP), -127, 127).astype(np.int8)
    components -= averages / np.float32(_PARTS_OF_A_STEP)
    sizes = _sizes(components)
    symbols = _rounded(components, fine)
    shifts = fine.shifts + sizes
    classes = rans.choose(symbols, shifts)
    content = rans.encode(symbols, classes, shifts)
    block = _LENGTH.pack(len(content)) + framed([classes.tobytes(), averages.tobytes(), content])
    used = _used(classes, averages)
    components += averages / np.float32(_PARTS_OF_A_STEP)
    return block, sizes, (used, components if len(used) == len(classes) else components.take(used, axis=1))


def read(block: bytes, cells: int, rank: int, fine: Fineness | None, sizes: Sizes | None) -> Written:
    """Return what comes back of what :func:`coded` has made. Raises ValueError and its like.

    Without ``sizes`` it is of a form in which no token is expected to be like those before, and without ``fine`` of the
    one in which all take the same steps.
    """
    (length,) = _LENGTH.unpack_from(block)
    if length > _MOST_BYTES_A_SYMBOL * (rank + 1) * (cells + _WARMING):
        raise ValueError(f"{length:,} bytes of symbols")
    packed, means, content = unframed(memoryview(block)[_LENGTH.size :], [rank, rank, length])
    classes, averages = np.frombuffer(packed, np.uint8), np.frombuffer(means, np.int8)
    symbols = np.empty((cells, rank), np.int32)
    shifts = None if fine is None else fine.shifts if sizes is None else fine.shifts + sizes
    rans.decode(content, classes, symbols, shifts)
    used = _used(classes, averages)
    steps = (symbols if len(used) == len(classes) else symbols.take(used, axis=1)).astype(np.float32)
    if fine is not None:
        steps *= 1 / fine.times
    if sizes is not None:
        _follow(steps)
    steps += averages[used] / np.float32(_PARTS_OF_A_STEP)
    return used, steps


def _used(classes: rans.Classes, averages: NDArray[np.int8]) -> NDArray[np.intp]:
    return np.flatnonzero((classes != 0) | (averages != 0))


def _sizes(components: Floats) -> Sizes:
    """Return the sizes of tokens by how their ``components`` [cells, rank] deviate from 0."""
    deviations = np.abs(components)
    usual = deviations.mean(axis=0)
    seen = usual > _SEEN
    if not seen.any():
        return np.zeros(len(components), np.int8)
    each = np.maximum(deviations @ np.divide(1, usual, out=np.zeros_like(usual), where=seen), 1e-6)
    octave = np.log2(each)
    found: Sizes = np.rint((octave - octave.mean()) / rans.SHIFT).clip(-_LARGEST_SIZE, _LARGEST_SIZE).astype(np.int8)
    return found


def _rounded(components: Floats, fine: Fineness) -> NDArray[np.int32]:
    """Return the whole numbers for ``components`` [cells, rank], which become what comes back of them."""
    symbols = np.empty(components.shape, np.int32)
    last, lasting = np.zeros((2, components.shape[1]), np.float32)
    inverse = 1 / fine.times
    for at in range(len(components)):
        row = components[at]
        expected = _OF_LAST * last + _OF_LASTING * lasting
        row -= expected
        row *= fine.times[at]
        np.rint(row, out=row)
        np.copyto(symbols[at], row, casting="unsafe")
        row *= inverse[at]
        row += expected
        last = row
        lasting += _FADING * (row - lasting)
    return symbols


def _follow(deviations: Floats) -> None:
    """Add to ``deviations`` [cells, lanes] what was expected of each."""
    last, lasting = np.zeros((2, deviations.shape[1]), np.float32)
    for at in range(len(deviations)):
        row = deviations[at]
        row += _OF_LAST * last + _OF_LASTING * lasting
        last = row
        lasting += _FADING * (row - lasting)
