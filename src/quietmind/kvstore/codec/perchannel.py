"""K and V in steps around what each channel is on average: lossy, and without anything to calibrate.

Before its rotation a channel of K stays near a value of its own for as long as a text goes on (Hooper et al.,
"KVQuant", arXiv 2401.18079), so a group of tokens shares one offset a channel. All channels of a layer share one step:
what is wrong with a number then weighs alike wherever it stands, and channels of little spread take few bits or none,
as in reverse water-filling (Cover & Thomas, "Elements of Information Theory", 10.3.3). The numbers are coded by their
frequencies. The first tokens, which all others attend to (Xiao et al., "attention sinks", arXiv 2309.17453), and the
newest that fill no group stay exact.

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
from quietmind.kvstore.arrays import layout_of, layout_of_headers
from quietmind.kvstore.codec import loops
from quietmind.kvstore.codec.side_by_side import side_by_side
from quietmind.kvstore.codec.straight import LARGEST, Straight, halves_of
from quietmind.kvstore.codec.symbols import MOST_CHANNELS, UNPACKING, Symbols, framed, packed, unframed
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import SINKS
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import Plane, SlotLayout, put_cells, read_cells, rows

GROUP = 128  # tokens that share their offsets

_BLOCK_VALUES = 1 << 20

# What is worked on at once stays in a core's second cache: of symbols a quarter MiB in each of four arrays, and of
# numbers, in 32 bits, the same in two.
_SYMBOLS_AT_ONCE = 1 << 18
_NUMBERS_AT_ONCE = 1 << 16

# A number is coded as a whole number of steps from 0 to 255. What is average has the middle of an upper half of 4 bits,
# so that those near it have the same upper half; _REACH to either side, and one for rounding, are within the 256.
_AVERAGE = 136
_REACH = 118
_LARGEST_OFFSET = 30_000  # in steps: kept in 16 bits

_SAVED_S = 2e-9  # of a core for each byte of the engine's file: unpacked in 1.8 ns in place of 3.8

_SMALLEST_STEP = 1e-30  # of numbers that are all 0
_LARGEST_HEAD = 1 << 20
_HEAD = struct.Struct("<II")
_STEP = struct.Struct("<f")


@dataclass(frozen=True)
class Level:
    """The steps of K and of V, as multiples of the deviation of the layer's middle channel from its average."""

    key_step: float
    value_step: float

    def __post_init__(self) -> None:
        steps: tuple[Any, ...] = (self.key_step, self.value_step)
        if not all(isinstance(step, int | float) and 0 < step < 100 for step in steps):
            raise ValueError(f"no level has steps of {self.key_step} and {self.value_step}")


# Named after the bits that a number takes, about. What is wrong with K costs more than the same in V.
LEVELS = {"4": Level(0.2, 0.3), "3": Level(0.4, 0.6)}


class PerChannel:
    """Lossy: V, and K before their ``rotation`` (None: they are not rotated), in steps around their channel's average.

    Both serve for encoding alone: what is decoded says what it was made with.
    """

    name = "perchannel-1"

    def __init__(self, rotation: Rotation | None = None, level: Level = LEVELS["4"]) -> None:
        self._rotation = rotation
        self._level = level

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the packed blocks of the engine's file, or of a file of arrays. ``source`` can seek.

        Raises SnapshotNotUnderstood for a file, or numbers in it, that this codec does not know: keep it losslessly.
        """
        start = source.tell()
        layout = layout_of(source, size)
        coding = _Coding(layout, self._rotation, self._level)
        yield coding.head()
        pieces = ((piece, _content(source, start, piece)) for piece in coding.pieces())
        yield from side_by_side(lambda given: coding.packed(*given), pieces)

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` with the engine's file as far as it was kept. Raises SnapshotDamaged."""
        rest = iter(blocks)
        try:
            coding = _coding_of(next(rest, b""), len(target))
            loops.prepare(_SAVED_S * len(target))
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
        _ = self.straight  # before anything else, and before several threads ask for it
        if any(plane.width > MOST_CHANNELS for plane in self.layout.planes):
            raise SnapshotNotUnderstood(f"more than {MOST_CHANNELS:,} channels; they are kept losslessly")
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
    def straight(self) -> Straight:
        """How K turn."""
        return Straight.at(self.rotation, self.layout.positions)

    def pieces(self) -> Iterator[_Piece]:
        """Yield what blocks are made of, in their order."""
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
        """Return the block of a piece whose rows are ``content``. Raises SnapshotNotUnderstood."""
        if piece.edges:
            return framed([content])
        numbers = rows(content, piece.plane.alone(piece.last - piece.first))
        if piece.plane.part == "k":
            return _packed(self.straight.taken(numbers, piece.plane, piece.first), self.level.key_step)
        return _packed(numbers, self.level.value_step)

    def unpack(self, piece: _Piece, block: bytes, target: memoryview) -> None:
        """Write the cells of a piece to ``target``. Raises ValueError and its like for anything but its block."""
        plane = piece.plane
        if piece.edges:
            _put_edges(target, piece, unframed(block, [plane.row_bytes * (plane.cells - piece.last + piece.first)])[0])
            return
        groups = (piece.last - piece.first) // GROUP
        step, offsets, symbols = _opened(block, groups, plane.width)
        if self._unpacked_at_once(piece, symbols, offsets, step, target):
            return
        some, unit = (max(1, values // (GROUP * plane.width)) for values in (_SYMBOLS_AT_ONCE, _NUMBERS_AT_ONCE))
        small = np.empty((some, GROUP, plane.width), np.uint8)
        large = np.empty((unit, GROUP, plane.width), np.float32)
        for start in range(0, groups, some):
            end = min(start + some, groups)
            symbols.take(start, small[: end - start])
            for at in range(start, end, unit):
                count = min(unit, end - at)
                numbers = large[:count]
                np.copyto(numbers, small[at - start : at - start + count])
                numbers += offsets[at : at + count]
                self.straight.put(
                    target, plane, piece.first + at * GROUP, numbers.reshape(count * GROUP, plane.width), float(step)
                )

    def _unpacked_at_once(
        self, piece: _Piece, symbols: Symbols, offsets: Floats, step: np.float32, target: memoryview
    ) -> bool:
        """Write the cells of a piece by a compiled loop; say whether there is one for such cells."""
        plane, compiled = piece.plane, loops.found()
        out = halves_of(target, plane, piece.first, piece.last - piece.first)
        if compiled is None or out is None or plane.width % compiled.CHANNELS:
            return False
        rotation, phases = self.straight.turns(plane), self.straight.phases
        turning, angles = (plane.width, 0, False), np.empty((0, 0), np.float32)
        if rotation is not None and phases is not None:
            turning = (rotation.head_length, rotation.dimensions, rotation.pairs is Pairs.HALVES)
            angles = phases[piece.first : piece.last].view(np.float32)
        shape = (len(offsets), GROUP, plane.width)
        compiled.whole(*symbols.halves, symbols.places, offsets[:, 0], angles, step, turning, out.reshape(shape))
        return True


def _packed(numbers: Floats, fineness: float) -> bytes:
    """Return the block of numbers [cells, width], whole groups of cells: the step, the offsets and the symbols."""
    groups = numbers.reshape(-1, GROUP, numbers.shape[1])
    averages = groups.mean(axis=1, keepdims=True)
    centred = groups - averages
    deviations = np.sqrt(np.einsum("gtc,gtc->c", centred, centred) / np.float32(len(numbers)))
    step = np.float32(
        max(
            fineness * float(np.median(deviations)),
            float(max(centred.max(), -centred.min())) / _REACH,
            float(np.abs(averages).max()) / _LARGEST_OFFSET,
            _SMALLEST_STEP,
        )
    )
    offsets = np.rint(averages / step)
    offsets -= _AVERAGE
    if not _is_small(offsets, step):
        raise SnapshotNotUnderstood(f"the saved cache holds numbers near {LARGEST:,.0f}; it is kept losslessly")
    centred /= step
    centred += averages / step - offsets
    symbols = np.clip(np.rint(centred, out=centred), 0, 255, out=centred).astype(np.uint8)
    # Of the groups after the first, how far the offsets have moved: less, and so packed better.
    moves = np.diff(offsets.astype(np.int16).view(np.uint16), axis=0, prepend=np.uint16(0))
    return _STEP.pack(step) + framed([_apart(moves), *packed(symbols, deviations)])


def _opened(block: bytes, groups: int, width: int) -> tuple[np.float32, Floats, Symbols]:
    """Return the step, the offsets [groups, 1, width] in steps and the symbols of a block. Raises UNPACKING."""
    step = np.float32(_STEP.unpack_from(block)[0])
    sizes = [2 * groups * width, *Symbols.sizes(groups, GROUP, width)]
    moves, *parts = unframed(memoryview(block)[_STEP.size :], sizes)
    offsets = np.cumsum(_joined(moves).reshape(groups, width), axis=0, dtype=np.uint16).view(np.int16)
    found = offsets[:, None].astype(np.float32)
    if not step >= _SMALLEST_STEP / 2 or not _is_small(found, step):
        raise ValueError("steps that make no sense")
    return step, found, Symbols(parts, groups, GROUP, width)


def _is_small(offsets: Floats, step: np.float32) -> bool:
    """Say whether no symbol can stand for a number past LARGEST."""
    return float(np.abs(offsets).max() + 256) * float(step) < LARGEST


def _apart(numbers: NDArray[np.uint16]) -> bytes:
    """Return the lower bytes of all numbers and then the upper ones, which are alike."""
    return numbers.astype("<u2").reshape(-1, 1).view(np.uint8).T.tobytes()


def _joined(content: memoryview) -> NDArray[np.uint16]:
    """Return the numbers that were taken ``_apart``."""
    pairs = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(2, -1).T)
    return pairs.view("<u2")[:, 0].astype(np.uint16)


def _content(source: BinaryIO, start: int, piece: _Piece) -> bytes:
    """Read the cells of a piece."""
    plane = piece.plane
    if not piece.edges:
        return read_cells(source, start, plane, piece.first, piece.last)
    ends = ((0, piece.first), (piece.last, plane.cells))
    return b"".join(read_cells(source, start, plane, *end) for end in ends)


def _put_edges(target: memoryview, piece: _Piece, content: memoryview) -> None:
    newest = piece.first * piece.plane.row_bytes
    put_cells(target, piece.plane, 0, content[:newest])
    put_cells(target, piece.plane, piece.last, content[newest:])


def _coding_of(block: bytes, size: int) -> _Coding:
    """Return what the first block says, of a file of ``size`` bytes. Raises ValueError and its like."""
    content_bytes, header_bytes = map(int, _HEAD.unpack_from(block))
    if content_bytes > _LARGEST_HEAD or header_bytes > size:
        raise ValueError("a head of a size that makes no sense")
    content, headers = unframed(block[_HEAD.size :], (content_bytes, header_bytes))
    given = json.loads(bytes(content))
    if not isinstance(given, dict) or set(given) != {"rotation", "level"}:
        raise ValueError("a head that says other things")
    rotation = None if given["rotation"] is None else Rotation.from_json(given["rotation"])
    try:
        level = Level(**given["level"])
    except TypeError as error:
        raise ValueError(f"a level that is none ({error})") from error
    return _Coding(layout_of_headers(bytes(headers), size), rotation, level)


def _matched(pieces: Iterable[_Piece], blocks: Iterator[bytes]) -> Iterator[tuple[_Piece, bytes]]:
    """Yield each piece with its block. Raises ValueError where there are fewer blocks or more."""
    for piece in pieces:
        block = next(blocks, None)
        if block is None:
            raise ValueError("it ends too early")
        yield piece, block
    if next(blocks, None) is not None:
        raise ValueError("blocks too many")
