"""Whole numbers around 0 as bytes, in hardly more bits than their frequencies ask for: rANS, a state for each lane.

Asymmetric numeral systems (Duda, arXiv 1311.2540) with 32-bit states and 16-bit words, interleaved as in Giesen
("Interleaved entropy coders", arXiv 1402.3392): one step codes a row of numbers, a lane's number with the lane's state,
and the words of all lanes make one stream in the order in which the decoder asks for them. Every step is a few array
operations over the lanes, so NumPy's own loops can do the work (codec/rans_numpy.py), or compiled ones do it.

A lane's numbers follow one of ``CLASSES`` distributions, all symmetric: generalized Gaussians (exp(-|x/a|^p)), rounded
to whole numbers, of three exponents and a geometric grid of deviations. Class 0 is a lane of zeros: nothing is stored.
Where rows are of several sizes, each moves all its lanes along the grid by so many ``shifts``. What is far out for its
class is coded as an escape; its value follows in a list of its own.

What is stored: a head (how many words there are, and how many bytes the values of escapes take), the states, the words,
the values.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.kvstore.codec import loops, rans_numpy
from quietmind.kvstore.codec.rans_numpy import (
    BIAS,
    ESCAPED,
    FREQUENCY_SHIFT,
    LEAST,
    NUMBER_SHIFT,
    PROBABILITY_BITS,
    WHOLE,
    Symbols,
    Words,
)

Classes = NDArray[np.uint8]
Shifts = NDArray[np.int64]

# Exponent and smallest deviation: one at which a number in some thousands is not 0. Neighbours on the grid lie 17 %
# apart in deviation: a grid twice as fine saves 0.06 % of the bits, and its tables of 4 MiB fit no second cache.
_SHAPES = ((1.0, 0.085), (1.4, 0.11), (2.0, 0.14))
_SCALES = 42
_LARGEST_DEVIATION = 44.0
CLASSES = 1 + len(_SHAPES) * _SCALES
# Deviations that lie a shift apart, in octaves: of the exponent in the middle; of the others it is 4 % off.
SHIFT = math.log2(_LARGEST_DEVIATION / _SHAPES[1][1]) / (_SCALES - 1)

_START = LEAST

_REACH = BIAS - 1  # the farthest number that any class has a code for
_SPAN = 2 * BIAS + 1  # -128 to 128, of which both ends are escapes
_ESCAPE_AT = 2 * _REACH + 1  # index of the escape in a table of frequencies: behind those of -127 to 127

_HEAD = struct.Struct("<II")
_WIDEST = 2048  # states; twice as many decode an eighth faster and take 0.6 % more bytes, at 0.8 bits a number
_NARROWEST = 512
_NUMBERS_A_STATE = 1024  # or more, since a state costs 3 bytes, about, beyond what it says of its numbers
_ALIKE = 64  # lanes whose frequencies are taken together
_ROUGHLY = 3  # shifts that count as one when classes are chosen: half the time for 0.04 % more bits
_VARINT_BITS = 7
_LONGEST_VARINT = 5


def choose(symbols: Symbols, shifts: Shifts | None = None) -> Classes:
    """Return the class [lanes] in which each lane of ``symbols`` [n, lanes] takes the fewest bits, or nearly so.

    ``shifts`` [n] says of each row how many steps of the grid its numbers are larger than classes say; None: none.
    """
    every = np.arange(1, CLASSES)
    bits = np.zeros((symbols.shape[1], len(every)))
    rough = None if shifts is None else (np.rint(shifts / _ROUGHLY) * _ROUGHLY).astype(np.int64)
    for shift in np.unique(rough) if rough is not None else [0]:
        counts = _made_by().histograms(symbols if rough is None else symbols[rough == shift], _REACH + 2)
        of_class = _tables().bits[:, _shifted(every, shift) - 1]
        for first in range(0, len(counts), _ALIKE):  # lanes of principal components lie in the order of their spread
            some = counts[first : first + _ALIKE]
            farthest = int(np.flatnonzero(some.any(axis=0)).max(initial=0)) + 1
            bits[first : first + _ALIKE] += some[:, :farthest] @ of_class[:farthest]
    return np.where(symbols.any(axis=0), 1 + np.argmin(bits, axis=1), 0).astype(np.uint8)


def encode(symbols: Symbols, classes: Classes, shifts: Shifts | None = None) -> bytes:
    """Return ``symbols`` [n, lanes] as bytes, each lane in its class, moved by its row's shift.

    Raises ValueError for classes that do not fit.
    """
    n, lanes = symbols.shape
    if classes.shape != (lanes,) or symbols[:, classes == 0].any():
        raise ValueError("classes that are not those of the numbers")
    coding = _Coding.of(classes, n)
    states = np.full(coding.width, _START, np.uint32)
    words: list[NDArray[Any]] = []  # the last first, as the escapes
    escapes: list[NDArray[Any]] = []
    for turn in reversed(coding.turns()):
        begins_at, shift_of = _begins(turn.classes, shifts, n, _SPAN)
        tables = (_tables().encoder, begins_at + np.uint32(BIAS), shift_of)
        taken, escaped = _made_by().push(states[: len(turn.lanes)], tables, turn.lanes, symbols)
        words.append(taken)
        escapes.append(escaped)
    stream = np.concatenate([*reversed(words), np.empty(0, np.uint32)]).astype("<u2")
    values = _varints(np.concatenate([*reversed(escapes), np.empty(0, np.int64)]))
    return b"".join((_HEAD.pack(len(stream), len(values)), states.astype("<u4").tobytes(), stream.tobytes(), values))


def decode(content: bytes | memoryview, classes: Classes, out: Symbols, shifts: Shifts | None = None) -> None:
    """Write the numbers that were encoded with ``classes`` [lanes] and ``shifts`` [n] to ``out`` [n, lanes].

    Raises ValueError for what ``encode`` cannot have made of numbers of this shape and classes; ``out`` may then hold
    anything. No more memory is taken than ``content`` and a few blocks need.
    """
    n, lanes = out.shape
    if classes.shape != (lanes,):
        raise ValueError(f"classes of {classes.size:,} lanes for {lanes:,}")
    coding = _Coding.of(classes, n)
    states, words, values = _parts(memoryview(content), coding.width)
    if len(values) and not np.iinfo(out.dtype).min <= values.min() <= values.max() <= np.iinfo(out.dtype).max:
        raise ValueError("a number too large")
    if not len(coding.lanes):
        out[...] = 0
    taken = (0, 0)
    for turn in coding.turns():
        tables = (_tables().decoder, *_begins(turn.classes, shifts, n, WHOLE))
        target = out[:, turn.first : turn.last]
        if len(turn.lanes) < target.shape[1]:
            target[...] = 0
        own = states[: len(turn.lanes)]
        taken = _made_by().pull(own, tables, (words, values), taken, turn.lanes - turn.first, target)
        if taken[0] > len(words) or taken[1] > len(values):
            raise ValueError("numbers that end too early")
    if taken != (len(words), len(values)) or (states != _START).any():
        raise ValueError("numbers that do not end where they should")


@dataclass(frozen=True)
class _Turn:
    """Lanes that are coded together, their classes, and the stretch of all lanes, from ``first`` on, that they fill.

    What lies between them there is of class 0.
    """

    lanes: NDArray[np.intp]
    classes: Classes
    first: int
    last: int


@dataclass(frozen=True)
class _Coding:
    """Which lanes are coded, by how many states, and in which order; everything that both directions agree on.

    Lanes share states where they are short or many: ``width`` of them take their turn, then the next with the states
    that those have left.
    """

    lanes: NDArray[np.intp]
    classes: Classes
    n: int
    width: int

    @classmethod
    def of(cls, classes: Classes, n: int) -> _Coding:
        if (classes >= CLASSES).any():
            raise ValueError(f"a class past {CLASSES - 1}")
        lanes = np.flatnonzero(classes) if n else np.empty(0, np.intp)
        most = min(max(len(lanes) * n // _NUMBERS_A_STATE, _NARROWEST), _WIDEST)
        turns = -(-len(lanes) // most)
        return cls(lanes, classes, n, -(-len(lanes) // turns) if turns else 0)

    def turns(self) -> list[_Turn]:
        turns = []
        first = 0
        for at in range(0, len(self.lanes), max(self.width, 1)):
            lanes, after = self.lanes[at : at + self.width], self.lanes[at + self.width :]
            last = int(after[0]) if len(after) else len(self.classes)
            turns.append(_Turn(lanes, self.classes[lanes], first, last))
            first = last
        return turns


def _made_by() -> ModuleType:
    """Return the module that makes the innermost loops."""
    return loops.found() or rans_numpy


def _shifted(classes: NDArray[Any], shift: int) -> NDArray[np.int64]:
    """Return ``classes``, none of them 0, so many steps of the grid wider, as far as it goes."""
    shapes, scales = np.divmod(classes.astype(np.int64) - 1, _SCALES)
    found: NDArray[np.int64] = 1 + shapes * _SCALES + np.clip(scales + shift, 0, _SCALES - 1)
    return found


def _begins(classes: Classes, shifts: Shifts | None, n: int, length: int) -> tuple[Words, NDArray[np.intp]]:
    """Return where in tables of ``length`` a class those of each lane begin: [shifts that there are, lanes].

    And which of these shifts each of ``n`` rows has.
    """
    if shifts is None:
        return classes.astype(np.uint32)[None] * np.uint32(length), np.zeros(n, np.intp)
    each, of_rows = np.unique(shifts, return_inverse=True)
    shifted = np.stack([_shifted(classes, int(shift)) for shift in each])
    return shifted.astype(np.uint32) * np.uint32(length), of_rows


def _parts(content: memoryview, width: int) -> tuple[Words, Words, NDArray[np.int64]]:
    """Return the states, the words and the values of escapes. Raises ValueError where they are not all of it."""
    if len(content) < _HEAD.size:
        raise ValueError("no head")
    words, values = map(int, _HEAD.unpack_from(content))
    words_at = _HEAD.size + 4 * width
    values_at = words_at + 2 * words
    if values_at + values != len(content):
        raise ValueError(f"{len(content):,} bytes where the head says {values_at + values:,}")
    return (
        np.frombuffer(content, "<u4", width, _HEAD.size).astype(np.uint32),
        np.frombuffer(content, "<u2", words, words_at).astype(np.uint32),
        _from_varints(np.frombuffer(content, np.uint8, values, values_at)),
    )


def _varints(values: NDArray[np.int64]) -> bytes:
    """Return 32-bit numbers as LEB128 of their zigzag: 0, -1, 1, -2 ... are 0, 1, 2, 3 ..., 7 bits a byte."""
    zigzag = (values << 1) ^ (values >> 63)
    shifts = np.arange(0, _VARINT_BITS * _LONGEST_VARINT, _VARINT_BITS)
    groups = zigzag[:, None] >> shifts
    follows = np.concatenate((groups[:, 1:] > 0, np.zeros((len(groups), 1), np.bool_)), axis=1)
    kept = np.concatenate((np.ones((len(groups), 1), np.bool_), follows[:, :-1]), axis=1)
    return ((groups & 0x7F) | (follows << _VARINT_BITS))[kept].astype(np.uint8).tobytes()


def _from_varints(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers of ``_varints``. Raises ValueError for what is none."""
    (ends,) = np.nonzero(content < 0x80)
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    lengths = ends + 1 - starts
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1 or lengths.max() > _LONGEST_VARINT):
        raise ValueError("values that make no sense")
    if not len(content):
        return np.empty(0, np.int64)
    places = np.arange(len(content)) - np.repeat(starts, lengths)
    zigzag = np.add.reduceat((content & 0x7F).astype(np.int64) << (places * _VARINT_BITS), starts)
    values: NDArray[np.int64] = (zigzag >> 1) ^ -(zigzag & 1)
    return values


@dataclass(frozen=True)
class _Tables:
    """What all classes together look up. The tables of a class are as long as those of any other."""

    decoder: Words  # [classes * whole]
    encoder: Words  # [classes * 257]: of -128 to 128
    bits: NDArray[np.float64]  # [129, classes - 1]: of 0, of 1 or -1, ... and of all past 127


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    frequencies = _frequencies()
    begins = np.cumsum(frequencies, axis=1) - frequencies
    # Class 0 is never looked up; zeros stand in its place.
    decoder = np.zeros((CLASSES, WHOLE), np.uint32)
    encoder = np.zeros((CLASSES, _SPAN), np.uint32)
    numbers = (np.arange(-_REACH, _REACH + 2) & 0xFF) << NUMBER_SHIFT  # the one behind the last is the escape: -128
    for number, (of_class, begin) in enumerate(zip(frequencies, begins, strict=True), start=1):
        slots = np.arange(WHOLE) - np.repeat(begin, of_class)
        decoder[number] = np.repeat((of_class << FREQUENCY_SHIFT) | numbers, of_class) | slots
        escape = ESCAPED | (of_class[_ESCAPE_AT] << PROBABILITY_BITS) | begin[_ESCAPE_AT]
        known = np.where(of_class > 0, (of_class << PROBABILITY_BITS) | begin, escape)
        encoder[number, 1:-1] = known[:_ESCAPE_AT]
        encoder[number, [0, -1]] = escape
    return _Tables(decoder.reshape(-1), encoder.reshape(-1), _bits(frequencies))


def _bits(frequencies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what a number of each magnitude takes in each class."""
    bits: NDArray[np.float64] = PROBABILITY_BITS - np.log2(np.maximum(frequencies, 1))
    magnitudes = np.arange(_REACH + 2)
    values = np.where(magnitudes < 1 << (_VARINT_BITS - 1), 8.0, 16.0)
    found = bits[:, _ESCAPE_AT, None] + values
    np.copyto(found[:, :-1], bits[:, _REACH:_ESCAPE_AT], where=frequencies[:, _REACH:_ESCAPE_AT] > 0)
    return found.T.copy()


def _frequencies() -> NDArray[np.int64]:
    """Return of classes 1 on how many of ``WHOLE`` slots -127 to 127 and the escape have: [classes - 1, 256].

    These are the same wherever they are computed: no share of slots lies so near to a half that the last bits of a
    platform's exp or pow could move what it is rounded to.
    """
    shares = _shares()
    positive = np.rint(shares[:, 1:]).astype(np.int64)
    coded = shares[:, :1] + 2 * np.where(positive > 0, shares[:, 1:], 0).sum(axis=1, keepdims=True)
    escapes = np.maximum(1, np.rint(WHOLE - coded).astype(np.int64))
    zeros = WHOLE - 2 * positive.sum(axis=1, keepdims=True) - escapes
    return np.concatenate((positive[:, ::-1], zeros, positive, escapes), axis=1)


def _shares() -> NDArray[np.float64]:
    """Return of classes 1 on which part of ``WHOLE`` slots 0, 1 ... 127 are due: [classes - 1, 128]."""
    points = 16  # of the density for each whole number
    bins = 2 * (_REACH + 1)
    at = (np.arange(bins * points) + 0.5) / points
    found = []
    for exponent, smallest in _SHAPES:
        steps = np.arange(_SCALES) / (_SCALES - 1)
        deviations = smallest * (_LARGEST_DEVIATION / smallest) ** steps
        widths = deviations * math.sqrt(math.gamma(1 / exponent) / math.gamma(3 / exponent))
        density = np.exp(-((at / widths[:, None]) ** exponent))
        masses = np.add.reduceat(density, [0, *range(points // 2, bins * points, points)], axis=1)
        masses[:, 0] *= 2  # of which the other half lies below 0
        found.append(masses[:, : _REACH + 1] / (2 * density.sum(axis=1, keepdims=True)) * WHOLE)
    return np.concatenate(found)
