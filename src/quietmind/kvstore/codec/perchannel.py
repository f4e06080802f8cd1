"""K by channels and V by tokens, in steps: lossy, and without anything to calibrate.

Before its rotation a channel of K stays in a range of its own, so a group of tokens shares one step and one offset a
channel; a V has no such habit, and each token has one step a head (Hooper et al., "KVQuant", arXiv 2401.18079; Liu et
al., "KIVI", arXiv 2402.02750; without KVQuant's calibration). The symbols are coded by their frequencies. The first
tokens, which all others attend to (Xiao et al., "attention sinks", arXiv 2309.17453), and the newest that fill no group
stay exact.

The blocks: one that holds a description in JSON and all that lies between the planes; then of each plane, in the order
of the engine's file, one with the exact tokens and then one of each ``_BLOCK_VALUES`` values or so.

Memory: the phases of all positions (4 bytes for each token and rotating channel of one head: 64 MiB at 131,072 tokens
and 128 channels), and a few blocks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.codec.side_by_side import side_by_side
from quietmind.kvstore.codec.symbols import MOST_SYMBOLS, UNPACKING, framed, paired, unframed, unpaired
from quietmind.kvstore.floats import HALF_SCALE, Floats, half_bits
from quietmind.kvstore.rotation import Pairs, Phases, Rotation
from quietmind.kvstore.slots import Plane, SlotLayout, parse, parse_headers, put_cells, put_rows, read_cells, rows

SINKS = 4  # tokens at the beginning that stay exact
GROUP = 128  # tokens that share the steps of K; more take fewer bits for steps and more error

_BLOCK_VALUES = 1 << 20
_UNIT_VALUES = 1 << 16  # what is worked on at once: as 32-bit floats a quarter MiB, which stays in a core's cache

# No model's K or V come near the first; what is coded is a little more after rounding, and once more half as long and
# _LARGEST_MAGNITUDE times after its rotation: still a 16-bit float.
_LARGEST = 10_000.0
_LARGEST_CODED = 12_000.0
_LARGEST_MAGNITUDE = 3.0
_SMALLEST = np.float32(1e-30)  # steps of numbers that are all 0
_LARGEST_HEAD = 1 << 20
_HEAD = struct.Struct("<II")

Steps = NDArray[np.uint16]  # the upper halves of 32-bit floats


@dataclass(frozen=True)
class Level:
    """How many different symbols K take, and V to either side of 0."""

    key_symbols: int
    value_reach: int

    def __post_init__(self) -> None:
        numbers: tuple[Any, ...] = (self.key_symbols, self.value_reach)
        if (
            not all(isinstance(number, int) and number > 0 for number in numbers)
            or max(self.key_symbols, 2 * self.value_reach + 1) > MOST_SYMBOLS
        ):
            raise ValueError(f"no level has {self.key_symbols} and {self.value_reach} symbols")


LEVELS = {"4": Level(16, 7), "3": Level(8, 4)}


class PerChannel:
    """Lossy: K in steps by channel before their ``rotation`` (None: they are not rotated), V in steps by token.

    Both serve for encoding alone: what is decoded says what it was made with.
    """

    name = "perchannel-1"

    def __init__(self, rotation: Rotation | None = None, level: Level = LEVELS["4"]) -> None:
        self._rotation = rotation
        self._level = level

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the packed blocks of the engine's file. ``source`` can seek.

        Raises SnapshotNotUnderstood for a file, or numbers in it, that this codec does not know: keep it losslessly.
        """
        start = source.tell()
        layout = parse(source, size)
        coding = _Coding(layout, self._rotation, self._level)
        yield coding.head()
        pieces = ((piece, _content(source, start, piece)) for piece in coding.pieces())
        yield from side_by_side(lambda given: coding.packed(*given), pieces)

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` with the engine's file as far as it was kept. Raises SnapshotDamaged."""
        rest = iter(blocks)
        try:
            coding = _coding_of(next(rest, b""), len(target))
            for at, gap in coding.layout.gaps():
                target[at : at + len(gap)] = gap
            for _ in side_by_side(lambda given: coding.unpack(*given, target), _matched(coding.pieces(), rest)):
                pass
        except (*UNPACKING, struct.error, MemoryError, SnapshotNotUnderstood) as error:
            raise SnapshotDamaged(
                f"a block of codec {self.name} cannot be unpacked ({error}); read the notebook again"
            ) from error


@dataclass(frozen=True)
class _Piece:
    """Cells of a plane that make one block: the ``edges`` that stay exact, or whole groups from ``first`` on."""

    plane: Plane
    first: int
    last: int
    edges: bool = False


@dataclass(frozen=True)
class _Coding:
    """A file, and how it is coded; everything that both directions have to agree on."""

    layout: SlotLayout
    rotation: Rotation | None
    level: Level

    def __post_init__(self) -> None:
        if self.rotation is not None and self.rotation.magnitude > _LARGEST_MAGNITUDE:
            raise SnapshotNotUnderstood(
                f"a rotation that makes K {self.rotation.magnitude:g} times longer; they are kept losslessly"
            )
        for plane in self.layout.keys:
            if self.rotation is not None and plane.width % self.rotation.head_length:
                raise SnapshotNotUnderstood(
                    f"K of {plane.width:,} channels are not whole heads of {self.rotation.head_length:,}; "
                    "they are kept losslessly"
                )

    @cached_property
    def grouped(self) -> tuple[int, int]:
        """The cells that lie in groups: from the first on, to before the last."""
        first = min(SINKS, self.layout.cells)
        return first, first + (self.layout.cells - first) // GROUP * GROUP

    @cached_property
    def phases(self) -> Phases | None:
        """What K at each position are multiplied by, complex64 [cells, pairs]; None where they are not rotated."""
        return None if self.rotation is None else self.rotation.phases(self.layout.positions)

    def pieces(self) -> Iterator[_Piece]:
        """Yield what blocks are made of, in their order."""
        _ = self.phases  # made here, before several threads ask for them
        first, last = self.grouped
        for plane in self.layout.planes:
            yield _Piece(plane, first, last, edges=True)
            step = max(1, _BLOCK_VALUES // (plane.width * GROUP)) * GROUP
            yield from (_Piece(plane, at, min(at + step, last)) for at in range(first, last, step))

    def head(self) -> bytes:
        """Return the first block."""
        rotation = None if self.rotation is None else self.rotation.to_json()
        content = json.dumps({"rotation": rotation, "level": asdict(self.level)}).encode()
        headers = self.layout.headers
        return _HEAD.pack(len(content), len(headers)) + framed([content, headers])

    def packed(self, piece: _Piece, content: bytes) -> bytes:
        """Return the block of a piece whose rows are ``content``."""
        if piece.edges:
            return framed([content])
        values = rows(content, piece.plane.alone(piece.last - piece.first))
        if float(np.abs(values).max()) > _LARGEST:
            raise SnapshotNotUnderstood(f"the saved cache holds numbers past {_LARGEST:,.0f}; it is kept losslessly")
        if piece.plane.part == "k":
            return _packed_keys(self._straight(values, piece).reshape(-1, GROUP, piece.plane.width), self.level)
        return _packed_values(values.reshape(len(values), -1, self._head_width(piece.plane)), self.level)

    def unpack(self, piece: _Piece, block: bytes, target: memoryview) -> None:
        """Write the cells of a piece to ``target``. Raises ValueError and its like for anything but its block."""
        plane = piece.plane
        if piece.edges:
            _put_edges(target, piece, unframed(block, [plane.row_bytes * (plane.cells - piece.last + piece.first)])[0])
        elif plane.part == "k":
            self._unpack_keys(piece, block, target)
        else:
            self._unpack_values(piece, block, target)

    def _head_width(self, plane: Plane) -> int:
        """Return how many values of V share a step: those of a head, where the number of heads is known."""
        if self.rotation is not None and self.layout.keys:
            heads = self.layout.keys[plane.layer].width // self.rotation.head_length
            return plane.width // heads if plane.width % heads == 0 else plane.width
        return plane.width

    def _straight(self, keys: Floats, piece: _Piece) -> Floats:
        """Return ``keys`` [cells, width] before their rotation, channels that turn together side by side."""
        if self.rotation is None or self.phases is None:
            return keys
        phases = np.conj(self.phases[piece.first : piece.last])
        phases *= np.float32(self.rotation.magnitude**-2)
        heads = keys.reshape(len(keys), -1, self.rotation.head_length)
        straight = heads.copy()
        straight[..., : self.rotation.dimensions] = (self.rotation.as_pairs(heads) * phases[:, None]).view(np.float32)
        return straight.reshape(keys.shape)

    def _unpack_keys(self, piece: _Piece, block: bytes, target: memoryview) -> None:
        width, groups = piece.plane.width, (piece.last - piece.first) // GROUP
        sizes = (2 * groups * width, 2 * groups * width, groups * GROUP // 2 * width)
        steps_bytes, offsets_bytes, symbols = unframed(block, sizes)
        steps = _steps(steps_bytes).reshape(groups, 1, width)
        offsets = steps * _joined(offsets_bytes).view(np.int16).reshape(groups, 1, width)
        _require_small(offsets)
        _require_small(offsets + steps * (self.level.key_symbols - 1))
        pairs = np.frombuffer(symbols, np.uint8).reshape(groups, GROUP // 2, width)
        unit = max(1, _UNIT_VALUES // (GROUP * width))
        small = np.empty((unit, GROUP, width), np.uint8)
        large = np.empty((unit, GROUP, width), np.float32)
        for at in range(0, groups, unit):
            count = min(unit, groups - at)
            unpaired(pairs[at : at + count], small[:count])
            np.minimum(small[:count], self.level.key_symbols - 1, out=small[:count])
            keys = large[:count]
            np.copyto(keys, small[:count])
            keys *= steps[at : at + count]
            keys += offsets[at : at + count]
            self._put_keys(target, piece.plane, piece.first + at * GROUP, keys.reshape(count * GROUP, width))

    def _put_keys(self, target: memoryview, plane: Plane, first: int, keys: Floats) -> None:
        """Rotate ``keys`` [cells, width], which are overwritten, and write them from cell ``first`` on."""
        cells, half_floats = len(keys), _half_floats(plane)
        scale = 1 / HALF_SCALE if half_floats else np.float32(1)
        head_length, turning = plane.width, 0
        if self.rotation is not None and self.phases is not None:
            head_length, turning = self.rotation.head_length, self.rotation.dimensions
            phases = self.phases[first : first + cells] * scale
            heads = keys.reshape(cells, -1, head_length)
            heads[..., :turning].view(np.complex64)[...] *= phases[:, None]
        heads = keys.reshape(cells, -1, head_length)
        if half_floats:
            if turning < head_length:
                heads[..., turning:] *= scale
            out = np.frombuffer(target, "<u2", keys.size, plane.offset + first * plane.row_bytes).reshape(heads.shape)
            self._put_in_order(half_bits(heads), out)
        else:
            ordered = np.empty_like(heads)
            self._put_in_order(heads, ordered)
            put_rows(target, plane, first, ordered.reshape(keys.shape))

    def _put_in_order(self, heads: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy ``heads`` [cells, heads, head length], pairs side by side, to ``out``, in the order of the model."""
        if self.rotation is None or self.rotation.pairs is Pairs.NEIGHBOURS:
            np.copyto(out, heads, casting="unsafe")
            return
        dimensions = self.rotation.dimensions
        for number in (0, 1):
            half = out[..., number * dimensions // 2 : (number + 1) * dimensions // 2]
            np.copyto(half, heads[..., number:dimensions:2], casting="unsafe")
        np.copyto(out[..., dimensions:], heads[..., dimensions:], casting="unsafe")

    def _unpack_values(self, piece: _Piece, block: bytes, target: memoryview) -> None:
        plane, cells = piece.plane, piece.last - piece.first
        head_width, reach = self._head_width(plane), self.level.value_reach
        heads = plane.width // head_width
        steps_bytes, symbols = unframed(block, (2 * cells * heads, cells // 2 * plane.width))
        steps = _steps(steps_bytes).reshape(cells, heads, 1)
        _require_small(steps * reach)
        half_floats = _half_floats(plane)
        if half_floats:
            steps *= 1 / HALF_SCALE
        pairs = np.frombuffer(symbols, np.uint8).reshape(-1, GROUP // 2, plane.width)
        unit = max(1, _UNIT_VALUES // (GROUP * plane.width))
        small = np.empty((unit, GROUP, plane.width), np.uint8)
        large = np.empty((unit * GROUP, heads, head_width), np.float32)
        for at in range(0, len(pairs), unit):
            count = min(unit, len(pairs) - at)
            unpaired(pairs[at : at + count], small[:count])
            np.minimum(small[:count], 2 * reach, out=small[:count])
            small[:count] -= np.uint8(reach)  # below 0 it wraps, and reads so as a signed byte
            values = large[: count * GROUP]
            np.copyto(values, small[:count].view(np.int8).reshape(values.shape))
            values *= steps[at * GROUP : (at + count) * GROUP]
            first = piece.first + at * GROUP
            if half_floats and not plane.transposed:
                out = np.frombuffer(target, "<u2", values.size, plane.offset + first * plane.row_bytes)
                np.copyto(out.reshape(values.shape), half_bits(values), casting="unsafe")
            else:
                put_rows(
                    target, plane, first, (values * HALF_SCALE if half_floats else values).reshape(-1, plane.width)
                )


def _half_floats(plane: Plane) -> bool:
    """Say whether rows of a plane can be written as they are, without going through 32 bits once more."""
    return plane.type == "f16" and not plane.hadamard


def _packed_keys(groups: Floats, level: Level) -> bytes:
    """Return the block of K [groups, GROUP, width]: steps, offsets as multiples of the steps, and symbols."""
    lowest, highest = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    # A step is at least so long that the offset is a multiple that 16 bits can hold.
    finest = np.maximum(np.abs(lowest), np.abs(highest)) / np.float32(1 << 14)
    steps = _rounded(np.maximum((highest - lowest) / np.float32(level.key_symbols - 1), finest))
    offsets = np.rint(lowest / steps)
    symbols = np.rint(groups / steps)
    symbols -= offsets
    np.clip(symbols, 0, level.key_symbols - 1, out=symbols)
    parts = (_apart(_upper(steps)), _apart(offsets.astype(np.int16).view(np.uint16)), paired(symbols.astype(np.uint8)))
    return framed(parts)


def _packed_values(values: Floats, level: Level) -> bytes:
    """Return the block of V [cells, heads, head width]: steps and symbols."""
    steps = _rounded(np.abs(values).max(axis=2, keepdims=True) / np.float32(level.value_reach))
    symbols = np.rint(values / steps)
    np.clip(symbols, -level.value_reach, level.value_reach, out=symbols)
    symbols += level.value_reach
    groups = symbols.astype(np.uint8).reshape(-1, GROUP, values.shape[1] * values.shape[2])
    return framed((_apart(_upper(steps)), paired(groups)))


def _rounded(steps: Floats) -> Floats:
    """Return ``steps`` as their upper halves hold them, above 0."""
    kept: Floats = (
        ((np.maximum(steps, _SMALLEST).view(np.uint32) + 0x8000) & 0xFFFF_0000).astype(np.uint32).view(np.float32)
    )
    return kept


def _upper(steps: Floats) -> NDArray[np.uint16]:
    return (steps.view(np.uint32) >> 16).astype(np.uint16)


def _steps(content: bytes) -> Floats:
    """Return steps whose upper halves were taken ``_apart``. Raises ValueError where one is not above 0."""
    steps = (_joined(content).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if not (steps >= _SMALLEST / 2).all():
        raise ValueError("steps that are not above 0")
    return steps


def _apart(numbers: NDArray[np.uint16]) -> bytes:
    """Return the lower bytes of all numbers and then the upper ones, which are alike."""
    return numbers.astype("<u2").reshape(-1, 1).view(np.uint8).T.tobytes()


def _joined(content: bytes) -> NDArray[np.uint16]:
    """Return the numbers that were taken ``_apart``."""
    joined: NDArray[np.uint16] = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(2, -1).T).view("<u2")[
        :, 0
    ]
    return joined.astype(np.uint16)


def _require_small(numbers: Floats) -> None:
    if not (np.abs(numbers) < _LARGEST_CODED).all():
        raise ValueError("steps that make no sense")


def _content(source: BinaryIO, start: int, piece: _Piece) -> bytes:
    """Read the cells of a piece."""
    plane = piece.plane
    if not piece.edges:
        return read_cells(source, start, plane, piece.first, piece.last)
    ends = ((0, piece.first), (piece.last, plane.cells))
    return b"".join(read_cells(source, start, plane, *end) for end in ends)


def _put_edges(target: memoryview, piece: _Piece, content: bytes) -> None:
    newest = piece.first * piece.plane.row_bytes
    put_cells(target, piece.plane, 0, content[:newest])
    put_cells(target, piece.plane, piece.last, content[newest:])


def _coding_of(block: bytes, size: int) -> _Coding:
    """Return what the first block says, of a file of ``size`` bytes. Raises ValueError and its like."""
    content_bytes, header_bytes = map(int, _HEAD.unpack_from(block))
    if content_bytes > _LARGEST_HEAD or header_bytes > size:
        raise ValueError("a head of a size that makes no sense")
    content, headers = unframed(block[_HEAD.size :], (content_bytes, header_bytes))
    given = json.loads(content)
    if not isinstance(given, dict) or set(given) != {"rotation", "level"}:
        raise ValueError("a head that says other things")
    rotation = None if given["rotation"] is None else Rotation.from_json(given["rotation"])
    try:
        level = Level(**given["level"])
    except TypeError as error:
        raise ValueError(f"a level that is none ({error})") from error
    return _Coding(parse_headers(headers, size), rotation, level)


def _matched(pieces: Iterable[_Piece], blocks: Iterator[bytes]) -> Iterator[tuple[_Piece, bytes]]:
    """Yield each piece with its block. Raises ValueError where there are fewer blocks or more."""
    for piece in pieces:
        block = next(blocks, None)
        if block is None:
            raise ValueError("it ends too early")
        yield piece, block
    if next(blocks, None) is not None:
        raise ValueError("blocks too many")
