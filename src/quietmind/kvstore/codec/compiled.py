"""The codecs' innermost loops as Numba compiles them: what NumPy goes over several times is gone over once.

Import this through :mod:`quietmind.kvstore.codec.loops`, which knows whether Numba is here. They are compiled when they
are first called, which takes seconds, and kept for later processes beside this file or in the user's cache. They let go
of the interpreter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compiled = njit(nogil=True, cache=True, error_model="numpy")

_BYTE_LOWER = np.uint64(0x0F0F0F0F0F0F0F0F)
_BYTE_UPPER = np.uint64(0xF0F0F0F0F0F0F0F0)
_FOUR = np.uint64(4)

_HALF_SCALE = np.float32(2.0**-112)  # see kvstore/floats.py
_ROUNDING, _DROPPED, _MAGNITUDE = np.uint32(0x1000), np.uint32(13), np.uint32(0x7FFF)
_UPPER, _SIGN = np.uint32(16), np.uint32(0x8000)


# perchannel

CHANNELS = 8  # whole multiples of these: bytes are moved as words


@_compiled
def whole(lower: Any, upper: Any, places: Any, offsets: Any, phases: Any, step: Any, turning: Any, out: Any) -> None:
    """Write numbers to ``out``, uint16 [groups, n, width]: the bits of 16-bit floats, ``step`` times what is coded.

    ``lower`` and ``upper`` are tuples of what codec/symbols.py has of each class of channels, uint8 [groups, n / 2,
    channels]; ``places`` [width / 2] says which two sorted channels come where, ``offsets`` [groups, width] what is
    added. K turn by ``phases``, float32 [groups x n, dimensions], cosine and sine by turns; ``turning`` is the length
    of a head, how many of its channels turn (0: none do), and whether those of a pair lie in two halves.
    """
    groups, n, width = out.shape
    head, dimensions, halves = turning
    low, high = np.empty(width, np.uint8), np.empty(width, np.uint8)
    pair = np.empty((2, width), np.uint8)
    ordered = np.empty(width, np.uint8)
    numbers, turned = np.empty(width, np.float32), np.empty(width, np.float32)
    phase = np.empty(dimensions, np.float32)
    scale = np.float32(1) if dimensions else step * _HALF_SCALE
    for group in range(groups):
        for row in range(n // 2):
            at = 0
            for place in range(len(lower)):
                count = lower[place].shape[2]
                low[at : at + count] = lower[place][group, row]
                high[at : at + count] = upper[place][group, row]
                at += count
            _unpair(low.view(np.uint64), high.view(np.uint64), pair[0].view(np.uint64), pair[1].view(np.uint64))
            for half in range(2):
                token = row + half * (n // 2)
                _reorder(pair[half].view(np.uint16), places, ordered.view(np.uint16))
                _widen(ordered, offsets[group], scale, numbers)
                if dimensions:
                    _times(phases[group * n + token], step, phase)
                    for first in range(0, width, head):
                        end = first + head
                        _turn(numbers[first:end], phase, halves, turned[first:end])
                        _times(numbers[first + dimensions : end], step, turned[first + dimensions : end])
                    _times(turned, _HALF_SCALE, numbers)
                _halve(numbers.view(np.uint32), out[group, token])


@_compiled
def _unpair(low: Any, high: Any, first: Any, second: Any) -> None:
    for at in range(len(low)):
        first[at] = ((high[at] << _FOUR) & _BYTE_UPPER) | (low[at] & _BYTE_LOWER)
        second[at] = ((low[at] >> _FOUR) & _BYTE_LOWER) | (high[at] & _BYTE_UPPER)


@_compiled
def _reorder(symbols: Any, places: Any, out: Any) -> None:
    for at in range(len(places)):
        out[at] = symbols[places[at]]


@_compiled
def _widen(symbols: Any, offsets: Any, scale: Any, out: Any) -> None:
    for at in range(len(symbols)):
        out[at] = (np.float32(symbols[at]) + offsets[at]) * scale


@_compiled
def _times(numbers: Any, scale: Any, out: Any) -> None:
    for at in range(len(numbers)):
        out[at] = numbers[at] * scale


@_compiled
def _turn(numbers: Any, phase: Any, halves: Any, out: Any) -> None:
    pairs = len(phase) // 2
    if halves:  # a loop of its own for each order: with strides that are not known, neither takes vectors
        for at in range(pairs):
            out[at] = numbers[2 * at] * phase[2 * at] - numbers[2 * at + 1] * phase[2 * at + 1]
            out[pairs + at] = numbers[2 * at] * phase[2 * at + 1] + numbers[2 * at + 1] * phase[2 * at]
    else:
        for at in range(pairs):
            out[2 * at] = numbers[2 * at] * phase[2 * at] - numbers[2 * at + 1] * phase[2 * at + 1]
            out[2 * at + 1] = numbers[2 * at] * phase[2 * at + 1] + numbers[2 * at + 1] * phase[2 * at]


@_compiled
def _halve(bits: Any, out: Any) -> None:
    for at in range(len(bits)):
        number = bits[at]
        out[at] = np.uint16((((number + _ROUNDING) >> _DROPPED) & _MAGNITUDE) | ((number >> _UPPER) & _SIGN))


# rans: what codec/rans_numpy.py does. Its numbers stand here once more, since Numba keeps what it has compiled for as
# long as this file, and no other, stays the same; and with their kinds, or 32 and 64 bits would make floats together.

_SLOT, _SLOT_BITS, _ENTRY_BITS = np.uint32(0xFFF), np.uint32(12), np.uint32(20)
_WORD, _WORD_BITS, _LEAST = np.uint32(0xFFFF), np.uint32(16), np.uint32(1 << 16)
_NUMBER, _ESCAPED, _WHOLE = np.uint32(0xFF), np.uint32(1 << 24), np.uint32(1 << 12)
_ESCAPE, _BIAS = np.int64(-128), np.int64(128)


@_compiled
def pull(states: Any, tables: Any, streams: Any, taken: Any, lanes: Any, out: Any) -> Any:
    """Do what ``pull`` of codec/rans_numpy.py does. Where a stream ends too early, more than all of it is taken."""
    table, begins_at, shift_of = tables
    words, values = streams
    word, value = taken
    for row in range(out.shape[0]):
        begins = begins_at[shift_of[row]]
        for place in range(len(lanes)):
            state = states[place]
            entry = table[np.uint32(begins[place] + (state & _SLOT))]
            state = np.uint32((state >> _SLOT_BITS) * (entry >> _ENTRY_BITS) + (entry & _SLOT))
            if state < _LEAST:
                if word >= len(words):
                    return word + 1, value
                state = np.uint32((state << _WORD_BITS) | words[word])
                word += 1
            states[place] = state
            number = np.int8((entry >> _SLOT_BITS) & _NUMBER)
            if number == _ESCAPE:
                if value >= len(values):
                    return word, value + 1
                out[row, lanes[place]] = values[value]
                value += 1
            else:
                out[row, lanes[place]] = number
    return word, value


@_compiled
def push(states: Any, tables: Any, lanes: Any, symbols: Any) -> Any:
    """Do what ``push`` of codec/rans_numpy.py does."""
    table, begins_at, shift_of = tables
    words = np.empty(symbols.shape[0] * len(lanes), np.uint16)
    values = np.empty(len(words), np.int32)
    word, value = len(words), len(values)
    for row in range(symbols.shape[0] - 1, -1, -1):
        begins = begins_at[shift_of[row]]
        for place in range(len(lanes) - 1, -1, -1):
            number = np.int64(symbols[row, lanes[place]])
            entry = table[np.int64(begins[place]) + min(max(number, -_BIAS), _BIAS)]
            if entry >= _ESCAPED:
                value -= 1
                values[value] = number
            frequency = np.uint32((entry >> _SLOT_BITS) & _SLOT)
            state = states[place]
            if state >= np.uint32(frequency << _ENTRY_BITS):
                word -= 1
                words[word] = state & _WORD
                state = np.uint32(state >> _WORD_BITS)
            states[place] = state + np.uint32(state // frequency) * (_WHOLE - frequency) + (entry & _SLOT)
    return words[word:].copy(), values[value:].copy()


@_compiled
def histograms(symbols: Any, buckets: Any) -> Any:
    """Do what ``histograms`` of codec/rans_numpy.py does."""
    counts = np.zeros((symbols.shape[1], buckets), np.float64)
    for row in range(symbols.shape[0]):
        for lane in range(symbols.shape[1]):
            counts[lane, min(abs(np.int64(symbols[row, lane])), buckets - 1)] += 1
    return counts


# following: what codec/following_numpy.py does, and its number once more

_FADING = np.float32(1 / 12)


@_compiled
def rounded(components: Any, times: Any, parts: Any, places: Any, out: Any) -> None:
    """Do what ``rounded`` of codec/following_numpy.py does."""
    symbols, deviations, seen = out
    states, counts, before = places
    cells, lanes = components.shape
    by, own = np.zeros((3, lanes), np.float32), np.empty((cells, lanes), np.float32)
    for at in range(cells):
        part = parts[states[at]]
        _again(own, before[at, : counts[at]], by[2])
        if len(seen):
            seen[at] = by
        time = times[at, 0]
        inverse = np.float32(1) / time
        row = components[at]
        for lane in range(lanes):
            right_before = part[0, lane] * by[0, lane] + part[1, lane] * by[1, lane]
            again = part[2, lane] * by[2, lane]
            deviation = row[lane] - right_before - again
            deviations[at, lane] = deviation
            symbol = np.rint(deviation * time)
            symbols[at, lane] = np.int32(symbol)
            own[at, lane] = symbol * inverse + again
            row[lane] = own[at, lane] + right_before
        _pass_on(row, by)


@_compiled
def follow(deviations: Any, parts: Any, places: Any) -> None:
    """Do what ``follow`` of codec/following_numpy.py does."""
    states, counts, before = places
    cells, lanes = deviations.shape
    by, own = np.zeros((3, lanes), np.float32), np.empty((cells, lanes), np.float32)
    for at in range(cells):
        part = parts[states[at]]
        _again(own, before[at, : counts[at]], by[2])
        row = deviations[at]
        for lane in range(lanes):
            right_before = part[0, lane] * by[0, lane] + part[1, lane] * by[1, lane]
            own[at, lane] = row[lane] + part[2, lane] * by[2, lane]
            row[lane] = own[at, lane] + right_before
        _pass_on(row, by)


@_compiled
def _again(own: Any, before: Any, out: Any) -> None:
    if len(before) == 0:
        out[:] = 0
        return
    out[:] = own[before[0]]
    for place in before[1:]:
        for lane in range(len(out)):
            out[lane] += own[place, lane]
    share = np.float32(1 / len(before))
    for lane in range(len(out)):
        out[lane] *= share


@_compiled
def _pass_on(row: Any, by: Any) -> None:
    for lane in range(len(row)):
        by[0, lane] = row[lane]
        by[1, lane] += _FADING * (row[lane] - by[1, lane])
