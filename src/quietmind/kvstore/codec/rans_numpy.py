"""The innermost loops of codec/rans.py as NumPy makes them: a step codes a row, by a few operations over all lanes.

What is compiled (codec/compiled.py) does the same, number by number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int16] | NDArray[np.int32]
Words = NDArray[np.uint32]
Tables = tuple[Words, NDArray[Any], NDArray[np.intp]]

PROBABILITY_BITS = 12
WHOLE = 1 << PROBABILITY_BITS
WORD_BITS = 16
LEAST = 1 << 16  # states lie from here to 2^32

ESCAPE = -128  # stands for all numbers that a class has no code for
BIAS = -ESCAPE

# An entry of the decoder's table: frequency (12 bits), number or escape (8 bits, signed), slot within it (12 bits).
FREQUENCY_SHIFT = 20
NUMBER_SHIFT = 12
# An entry of the encoder's: whether it is an escape (1 bit), frequency (12 bits), where its slots begin (12 bits).
ESCAPED = 1 << 24

_SLOTS = WHOLE - 1

# The same as arrays, which NumPy need not convert in every step: whole numbers of Python cost half as much again.
_SLOT_MASK, _SLOT_SHIFT, _ENTRY_SHIFT, _WORD_MASK, _WORD_SHIFT, _LEAST_STATE = (
    np.array(number, np.uint32)
    for number in (_SLOTS, PROBABILITY_BITS, FREQUENCY_SHIFT, (1 << WORD_BITS) - 1, WORD_BITS, LEAST)
)

_BLOCK = 1 << 16  # numbers that are looked up or counted at once: they stay in a core's second cache


def push(states: Words, tables: Tables, lanes: NDArray[np.intp], symbols: Symbols) -> tuple[NDArray[Any], NDArray[Any]]:
    """Code the columns ``lanes`` of ``symbols`` in their ``states``, the last row first.

    ``tables`` are the encoder's table, where in it those of each lane begin for each shift, and the rows' shifts.
    Returns the words and the values of escapes that this takes.
    """
    table, begins_at, shift_of = tables
    words: list[NDArray[Any]] = []  # the last first, as the escapes
    escapes: list[NDArray[Any]] = []
    for first, last in reversed(_blocks(len(symbols), len(lanes))):
        piece = symbols[first:last].take(lanes, axis=1).astype(np.int64)
        places = np.clip(piece, -BIAS, BIAS)
        places += begins_at[shift_of[first:last]]
        entries = table.take(places)
        escapes.append(piece[entries >= ESCAPED])
        _push_rows(states, entries, words)
    nothing = np.empty(0, np.int64)
    return np.concatenate([*reversed(words), nothing]), np.concatenate([*reversed(escapes), nothing])


def _push_rows(states: Words, entries: Words, words: list[NDArray[Any]]) -> None:
    """Code rows, the last first, of numbers whose ``entries`` [rows, states] these are; append the words they take."""
    frequencies = (entries >> PROBABILITY_BITS) & _SLOTS
    begins = entries & _SLOTS
    # A state of x becomes x // f * whole + begin + x % f, which is x + x // f * (whole - f) + begin, below 2^32.
    factors = WHOLE - frequencies
    limits = frequencies << (32 - PROBABILITY_BITS)
    divisors = frequencies.astype(np.float64)  # exact: x / f is never nearer to a whole number than 1 / f
    quotients = np.empty(states.shape, np.float64)
    whole = np.empty_like(states)
    full = np.empty(states.shape, np.bool_)
    for row in range(len(entries) - 1, -1, -1):
        np.greater_equal(states, limits[row], out=full)
        (over,) = full.nonzero()
        if len(over):
            high = states[over]
            words.append(high & _WORD_MASK)
            states[over] = high >> _WORD_SHIFT
        np.divide(states, divisors[row], out=quotients)
        np.copyto(whole, quotients, casting="unsafe")
        np.multiply(whole, factors[row], out=whole)
        np.add(states, whole, out=states)
        np.add(states, begins[row], out=states)


def pull(
    states: Words,
    tables: Tables,
    streams: tuple[Words, NDArray[np.int64]],
    taken: tuple[int, int],
    lanes: NDArray[np.intp],
    out: Symbols,
) -> tuple[int, int]:
    """Fill the columns ``lanes`` of ``out``, of which the others are 0, from their ``states``.

    These are filled from the words of the ``streams``, and escapes from the values; ``taken`` says how many were, and
    what is returned how many are. ``tables`` are as for :func:`push`, the decoder's. Raises ValueError where a stream
    ends too early.
    """
    table, begins_at, shift_of = tables
    words, values = streams
    word, value = taken
    count, width = len(lanes), out.shape[1]
    sources = np.full(width, count)
    sources[lanes] = np.arange(count)
    blocks = _blocks(len(out), count)
    # The last column stays 0: what lanes of class 0 are filled with.
    entries = np.zeros((max(last - first for first, last in blocks), count + 1), np.uint32)
    for first, last in blocks:
        block = entries[: last - first]
        word = _pull_rows(states, (table, begins_at, shift_of[first:last]), words, word, block[:, :count])
        block >>= NUMBER_SHIFT
        numbers = block.astype(np.int8)  # the lowest 8 bits
        out[first:last] = numbers[:, :count] if count == width else numbers.take(sources, axis=1)
        escaped = np.flatnonzero(numbers[:, :count] == ESCAPE)
        if len(escaped):
            rows, places = np.divmod(escaped, count)
            out[first + rows, lanes[places]] = _next(values, value, len(escaped))
            value += len(escaped)
    return word, value


def _pull_rows(states: Words, tables: Tables, words: Words, taken: int, entries: Words) -> int:
    """Fill ``entries`` [rows, states] from the states, and these from ``words``; return how many words are taken then.

    Raises ValueError where there are too few.
    """
    table, begins_at, shift_of = tables
    slots = np.empty_like(states)
    empty = np.empty(states.shape, np.bool_)
    for entry, shift in zip(entries, shift_of.tolist(), strict=True):
        np.bitwise_and(states, _SLOT_MASK, out=slots)
        np.add(slots, begins_at[shift], out=slots)
        table.take(slots, out=entry, mode="clip")  # all are within the table, and "raise" would copy
        np.right_shift(states, _SLOT_SHIFT, out=states)
        np.right_shift(entry, _ENTRY_SHIFT, out=slots)
        np.multiply(states, slots, out=states)
        np.bitwise_and(entry, _SLOT_MASK, out=slots)
        np.add(states, slots, out=states)
        np.less(states, _LEAST_STATE, out=empty)
        (under,) = empty.nonzero()
        if len(under):
            states[under] = (states[under] << _WORD_SHIFT) | _next(words, taken, len(under))
            taken += len(under)
    return taken


def _blocks(n: int, lanes: int) -> list[tuple[int, int]]:
    """Return the first row, and the row after the last, of what is looked up at once."""
    rows = max(1, _BLOCK // max(lanes, 1))
    return [(first, min(first + rows, n)) for first in range(0, n, rows)]


def _next(stream: NDArray[Any], at: int, count: int) -> NDArray[Any]:
    if at + count > len(stream):
        raise ValueError("numbers that end too early")
    return stream[at : at + count]


def histograms(symbols: Symbols, buckets: int) -> NDArray[np.float64]:
    """Return how often each magnitude, and any from the last bucket on, stands in each lane: [lanes, buckets]."""
    n, lanes = symbols.shape
    counts = np.empty((lanes, buckets))
    width = max(1, _BLOCK // max(n, 1))
    for first in range(0, lanes, width):
        piece = symbols[:, first : first + width].astype(np.int64)
        np.abs(piece, out=piece)
        np.minimum(piece, buckets - 1, out=piece)
        count = piece.shape[1]
        piece += np.arange(count) * buckets
        found = np.bincount(piece.reshape(-1), minlength=count * buckets)
        counts[first : first + count] = found.reshape(count, buckets)
    return counts
