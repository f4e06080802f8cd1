"""The coder of whole numbers: every number comes back, nearly nothing is wasted, and damage is found or harmless."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietmind.kvstore.codec import rans
from quietmind.kvstore.codec.rans import CLASSES, choose, decode, encode
from quietmind.kvstore.codec.rans_numpy import WHOLE

pytestmark = pytest.mark.usefixtures("loops_of_both")

Numbers = NDArray[np.int32]

FARTHEST = 1 << 24


def spread(n: int, scales: NDArray[np.float64], seed: int = 1) -> Numbers:
    """Return numbers [n, lanes] of Laplace distributions of these scales."""
    return np.rint(np.random.default_rng(seed).laplace(size=(n, len(scales))) * scales).astype(np.int32)


def decoded(
    content: bytes, classes: rans.Classes, n: int, kind: type = np.int32, shifts: rans.Shifts | None = None
) -> NDArray[Any]:
    out: NDArray[Any] = np.full((n, len(classes)), 77, kind)
    decode(content, classes, out, shifts)
    return out


def entropy(lane: Numbers) -> float:
    shares = np.unique(lane, return_counts=True)[1] / len(lane)
    return float(-(shares * np.log2(shares)).sum())


@st.composite
def arrays_of_numbers(draw: st.DrawFn) -> Numbers:
    n, lanes = draw(st.sampled_from([0, 1, 2, 7, 300])), draw(st.sampled_from([0, 1, 2, 9, 700]))
    chance = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    scales = np.exp(chance.uniform(*draw(st.sampled_from([(-4, 3), (-2, -1), (3, 6)])), size=lanes))
    numbers = np.rint(chance.laplace(size=(n, lanes)) * scales).astype(np.int32)
    for _ in range(draw(st.integers(0, 5)) if numbers.size else 0):
        at = chance.integers(n), chance.integers(lanes)
        numbers[at] = draw(st.sampled_from([-FARTHEST, FARTHEST, -128, -127, 127, 128, 63, -64, 64, 0, 8191]))
    return numbers


@settings(max_examples=60, deadline=None)
@given(arrays_of_numbers())
def test_every_number_comes_back(numbers: Numbers) -> None:
    classes = choose(numbers)
    assert classes.shape == numbers.shape[1:]
    np.testing.assert_array_equal(decoded(encode(numbers, classes), classes, len(numbers)), numbers)


@settings(max_examples=40, deadline=None)
@given(arrays_of_numbers(), st.integers(0, 1 << 32))
def test_any_class_can_code_any_number(numbers: Numbers, seed: int) -> None:
    classes = np.random.default_rng(seed).integers(1, CLASSES, numbers.shape[1], np.uint8)
    np.testing.assert_array_equal(decoded(encode(numbers, classes), classes, len(numbers)), numbers)


@settings(max_examples=60, deadline=None)
@given(arrays_of_numbers(), st.integers(0, 1 << 32), st.integers(0, 60))
def test_rows_of_any_shifts_come_back(numbers: Numbers, seed: int, most: int) -> None:
    shifts = np.random.default_rng(seed).integers(-most, most + 1, len(numbers))
    classes = choose(numbers, shifts)
    again = decoded(encode(numbers, classes, shifts), classes, len(numbers), shifts=shifts)
    np.testing.assert_array_equal(again, numbers)


def test_rows_of_several_sizes_take_as_few_bits_as_rows_of_one() -> None:
    """Numbers twice as large take a bit more, and nothing else."""
    shifts = np.repeat([0, 5, 10], 700)
    sizes = 1.5 * 2 ** (shifts * rans.SHIFT)
    numbers = np.rint(np.random.default_rng(6).laplace(size=(2100, 600)) * sizes[:, None]).astype(np.int32)

    def bits(rows: Numbers, of_rows: rans.Shifts | None = None) -> float:
        return 8 * len(encode(rows, choose(rows, of_rows), of_rows)) / rows.size

    alone = float(np.mean([bits(numbers[shifts == each]) for each in (0, 5, 10)]))
    assert bits(numbers, shifts) < 1.005 * alone
    assert bits(numbers) > 1.02 * alone


def test_the_ends_of_32_bits_come_back() -> None:
    ends = np.array([[-(1 << 31), (1 << 31) - 1, 0]], np.int32)
    classes = choose(ends)
    np.testing.assert_array_equal(decoded(encode(ends, classes), classes, 1), ends)


@pytest.mark.parametrize("lanes", [511, 513, 4096, 5000, 9001])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_lanes_that_share_states_come_back(lanes: int, zeros: float) -> None:
    numbers = spread(90, np.exp(np.linspace(-3, 3, lanes)))
    numbers[:, np.random.default_rng(3).random(lanes) < zeros] = 0
    classes = choose(numbers)
    np.testing.assert_array_equal(decoded(encode(numbers, classes), classes, 90), numbers)


def test_numbers_go_into_any_array_of_their_shape() -> None:
    numbers = spread(40, np.exp(np.linspace(2, -4, 60)))
    classes = choose(numbers)
    short = decoded(encode(numbers, classes), classes, 40, np.int16)
    np.testing.assert_array_equal(short, numbers)
    wide = np.full((80, 100), 5, np.int16)
    decode(encode(numbers, classes), classes, wide[::2, 20:80])
    np.testing.assert_array_equal(wide[::2, 20:80], numbers)
    assert (wide[1::2] == 5).all()
    assert (wide[:, :20] == 5).all()


def test_short_numbers_are_coded_as_long_ones_are() -> None:
    numbers = spread(50, np.exp(np.linspace(-3, 5, 80)))
    classes = choose(numbers.astype(np.int16))
    np.testing.assert_array_equal(classes, choose(numbers))
    assert encode(numbers.astype(np.int16), classes) == encode(numbers, classes)


def test_a_number_too_large_for_the_array_is_an_error() -> None:
    numbers = np.array([[1 << 15, 3]], np.int32)
    classes = choose(numbers)
    with pytest.raises(ValueError, match="too large"):
        decoded(encode(numbers, classes), classes, 1, np.int16)


def test_lanes_of_zeros_take_nothing() -> None:
    numbers = np.zeros((500, 300), np.int32)
    assert not choose(numbers).any()
    nothing = encode(numbers, choose(numbers))
    numbers[:, 7] = 1
    numbers[3, 8] = -2
    classes = choose(numbers)
    assert np.flatnonzero(classes).tolist() == [7, 8]
    np.testing.assert_array_equal(decoded(encode(numbers, classes), classes, 500), numbers)
    assert len(nothing) <= 8


def test_a_class_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="class past"):
        decode(b"", np.full(3, CLASSES, np.uint8), np.zeros((2, 3), np.int16))


def test_class_0_is_for_zeros_only() -> None:
    with pytest.raises(ValueError, match="classes"):
        encode(np.ones((2, 2), np.int32), np.array([0, 9], np.uint8))


@pytest.mark.parametrize("lanes", [1, 3])
def test_classes_of_other_lanes_are_an_error(lanes: int) -> None:
    numbers = np.ones((2, 2), np.int32)
    with pytest.raises(ValueError, match="classes"):
        encode(numbers, np.full(lanes, 9, np.uint8))
    with pytest.raises(ValueError, match="classes"):
        decode(encode(numbers, choose(numbers)), np.full(lanes, 9, np.uint8), numbers)


@pytest.mark.parametrize("scale", [0.15, 0.4, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("shape", ["laplace", "normal"])
def test_hardly_more_is_taken_than_frequencies_ask_for(scale: float, shape: str) -> None:
    draw = getattr(np.random.default_rng(2), shape)
    numbers = np.rint(draw(size=(2048, 600)) * scale).astype(np.int32)
    bits = 8 * len(encode(numbers, choose(numbers))) / numbers.size
    ideal = float(np.mean([entropy(lane) for lane in numbers.T]))
    assert bits < ideal * 1.02 + 0.012  # of which 0.008 are what a state takes: 16 bits for 2048 numbers


def test_the_class_chosen_takes_no_more_than_any_other() -> None:
    numbers = spread(500, np.array([0.2, 0.5, 2.0, 9.0, 60.0]))
    classes = choose(numbers)
    for lane in range(5):
        alone = numbers[:, lane : lane + 1]
        chosen = len(encode(alone, classes[lane : lane + 1]))
        others = [len(encode(alone, np.array([number], np.uint8))) for number in range(1, CLASSES, 5)]
        assert chosen <= 2 + min(others)


def test_values_far_out_take_few_bytes() -> None:
    numbers = spread(1000, np.full(4, 1.0))
    plain = len(encode(numbers, choose(numbers)))
    numbers[500, 2] = 5000
    assert len(encode(numbers, choose(numbers))) <= plain + 6


@functools.cache
def small() -> tuple[bytes, rans.Classes, Numbers]:
    numbers = spread(60, np.exp(np.linspace(-3, 2, 40)))
    numbers[5, 30] = 1000
    numbers[6, 3] = -FARTHEST
    classes = choose(numbers)
    return encode(numbers, classes), classes, numbers


def test_a_cut_anywhere_is_found() -> None:
    content, classes, numbers = small()
    for length in range(len(content)):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them
            decoded(content[:length], classes, len(numbers))
    with pytest.raises(ValueError, match="bytes where"):
        decoded(content + b"\0", classes, len(numbers))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_other_numbers(data: st.DataObject) -> None:
    content, classes, numbers = small()
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decoded(bytes(damaged), classes, len(numbers))
    except ValueError:
        return
    assert found.shape == numbers.shape


def test_nearly_all_damage_is_found() -> None:
    content, classes, numbers = small()
    states_end = 8 + 4 * np.count_nonzero(classes)
    missed = 0
    for at in range(states_end, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        try:
            decoded(bytes(damaged), classes, len(numbers))
        except ValueError:
            continue
        missed += 1
    # Values of escapes are not part of any state: theirs are the bytes whose damage gives other numbers.
    assert missed <= 8


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 1 << 32))
def test_bytes_of_any_kind_are_an_error_or_numbers(content: bytes, seed: int) -> None:
    chance = np.random.default_rng(seed)
    classes = chance.integers(0, CLASSES, int(chance.integers(0, 40)), np.uint8)
    try:
        decoded(content, classes, int(chance.integers(0, 50)))
    except ValueError:
        return


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_states_words_and_values_of_any_kind_are_an_error_or_numbers(words: bytes, values: bytes) -> None:
    words = words[: len(words) // 2 * 2]
    head = rans._HEAD.pack(len(words) // 2, len(values))
    try:
        decoded(head + b"\xff\0\0\0" * 2 + words + values, np.array([1, 200], np.uint8), 30)
    except ValueError:
        return


def test_lengths_that_make_no_sense_take_no_memory() -> None:
    for head in ((0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)):
        with pytest.raises(ValueError, match="bytes where"):
            decoded(rans._HEAD.pack(*head) + bytes(100), np.array([4], np.uint8), 5)


def test_the_tables_are_the_same_everywhere() -> None:
    """A number coded on one machine is read on another: what is rounded lies far from a half, compared with 1e-12."""
    shares = rans._shares()
    frequencies = rans._frequencies()
    known = np.where(frequencies[:, 128:255] > 0, shares[:, 1:], 0)
    rest = WHOLE - shares[:, 0] - 2 * known.sum(axis=1)
    for rounded in (shares[:, 1:], rest):
        assert np.abs(rounded - np.floor(rounded) - 0.5).min() > 1e-6
    digest = hashlib.sha256(frequencies.astype("<u2").tobytes()).hexdigest()
    assert digest == "b68ba63864fea52b0028a1f6712dc37d15e8794146339887d97575cdcbd5bfe0"


def test_every_class_has_whole_symmetric_frequencies() -> None:
    frequencies = rans._frequencies()
    assert frequencies.shape == (CLASSES - 1, 256)
    assert (frequencies.sum(axis=1) == WHOLE).all()
    assert (frequencies[:, :255] == frequencies[:, 254::-1]).all()
    assert frequencies.min() >= 0
    assert frequencies[:, 127].min() >= 1
    assert frequencies[:, 255].min() >= 1
    assert frequencies.max() < WHOLE  # 12 bits hold it


def test_the_bits_that_classes_are_chosen_by_are_those_taken() -> None:
    numbers = spread(4000, np.array([1.0]))
    magnitudes = np.bincount(np.minimum(np.abs(numbers[:, 0]), 128), minlength=129)
    for number in (10, 30, 60, 100):
        expected = float(magnitudes @ rans._tables().bits[:, number - 1]) / 8
        taken = len(encode(numbers, np.array([number], np.uint8)))
        assert math.isclose(taken, expected, rel_tol=0.01, abs_tol=16)
