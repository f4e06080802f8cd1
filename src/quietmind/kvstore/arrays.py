"""A cache as plain arrays, for engines that have no file of their own: one that the codecs read like llama.cpp's.

    magic    8 bytes   "QMARRAY" and the version
    u32      bytes of the description, then that: JSON, see :class:`Shape`, with blanks behind it
    i32      each token, then each cell's position
    rows     of each layer K and then V: one a cell, K rotated as the model rotates them; little-endian

What the description says is checked against the size of the file before anything is made of it.
"""

from __future__ import annotations

import json
import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore import slots
from quietmind.kvstore.floats import BLOCKS, Floats, narrow
from quietmind.kvstore.slots import Plane, SlotLayout

MAGIC: Final = b"QMARRAY\x01"

_TYPES = ("f32", "f16", "bf16")
_MOST_LAYERS = 4096
_LARGEST_SHAPE = 1 << 18
_LENGTH = struct.Struct("<I")
_START = len(MAGIC) + _LENGTH.size
_ALIGNMENT = 64  # what reads rows as numbers is quicker where they begin at a multiple of their size


@dataclass(frozen=True)
class Shape:
    """What a file of arrays holds: so many tokens and cells, numbers of ``type``, and each layer's widths of K and V.

    A layer without V has the width 0 for them.
    """

    tokens: int
    cells: int
    type: str
    widths: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        numbers: list[Any] = [self.tokens, self.cells, *(width for pair in self.widths for width in pair)]
        if not all(isinstance(number, int) and 0 <= number < 1 << 31 for number in numbers):
            raise ValueError("numbers that make no sense")
        if self.type not in _TYPES or len(self.widths) > _MOST_LAYERS or any(len(pair) != 2 for pair in self.widths):
            raise ValueError(f"{len(self.widths):,} layers of {self.type}")


def write(
    sink: BinaryIO,
    shape: Shape,
    tokens: Sequence[int],
    positions: Sequence[int],
    layers: Iterable[tuple[Floats, Floats | None]],
) -> int:
    """Write a cache, a layer at a time, and return its bytes. K and V are float32 [cells, width]."""
    content = json.dumps(asdict(shape)).encode()
    integers = 4 * (len(tokens) + len(positions))
    content += b" " * (-(_START + len(content) + integers) % _ALIGNMENT)
    written = sink.write(MAGIC + _LENGTH.pack(len(content)) + content)
    for numbers in (tokens, positions):
        written += sink.write(np.asarray(numbers, "<i4").tobytes())
    for pair, widths in zip(layers, shape.widths, strict=True):
        for plane, width in zip(pair, widths, strict=True):
            if plane is None:
                continue
            assert plane.shape == (shape.cells, width)
            raw = np.empty(plane.size * BLOCKS[shape.type][0], np.uint8)
            narrow(np.ascontiguousarray(plane, np.float32), shape.type, raw)
            written += sink.write(raw.data)
    return written


def layout_of(source: BinaryIO, size: int | None = None) -> SlotLayout:
    """Return what the next ``size`` bytes of ``source`` hold, or all that follow: arrays, or a slot of llama.cpp.

    Raises SnapshotNotUnderstood for anything else, EOFError where ``source`` holds less than ``size``.
    """
    start = source.tell()
    magic = source.read(len(MAGIC))
    source.seek(start)
    if magic != MAGIC:
        return slots.parse(source, size)
    if size is None:
        size = source.seek(0, os.SEEK_END) - start
        source.seek(start)
    beginning = source.read(min(size, _START))
    shape_bytes = _shape_bytes(beginning, size)
    shape = _shape(source.read(shape_bytes))
    count = 4 * (shape.tokens + shape.cells)
    if count > size - _START - shape_bytes:
        raise _refused("it ends too early")
    source.seek(start)
    headers = source.read(_START + shape_bytes + count)
    if len(headers) != _START + shape_bytes + count:
        raise EOFError(f"{size:,} bytes were expected and {len(headers):,} came")
    return layout_of_headers(headers, size)


def layout_of_headers(headers: bytes, size: int) -> SlotLayout:
    """Return the layout whose ``headers`` and ``size`` these are. Raises SnapshotNotUnderstood."""
    if not headers.startswith(MAGIC):
        return slots.parse_headers(headers, size)
    end = _START + _shape_bytes(headers, size)
    shape = _shape(headers[_START:end])
    integers = headers[end:]
    if len(integers) != 4 * (shape.tokens + shape.cells):
        raise _refused("it ends too early")
    tokens, positions = integers[: 4 * shape.tokens], integers[4 * shape.tokens :]
    if positions and int(np.frombuffer(positions, "<i4").min()) < 0:
        raise _refused("it holds negative positions")
    keys, values, at = [], [], len(headers)
    for layer, (key_width, value_width) in enumerate(shape.widths):
        keys.append(Plane(layer, "k", shape.type, key_width, shape.cells, at))
        at += keys[-1].bytes
        if value_width:
            values.append(Plane(layer, "v", shape.type, value_width, shape.cells, at))
            at += values[-1].bytes
    if at != size or not all(plane.width for plane in keys):
        raise _refused(f"{at:,} bytes are described, and it has {size:,}")
    return SlotLayout(size, _integers(tokens), _integers(positions), tuple(keys), tuple(values), headers)


def _shape_bytes(beginning: bytes, size: int) -> int:
    if len(beginning) < _START:
        raise _refused("it ends too early")
    count = int(_LENGTH.unpack_from(beginning, len(MAGIC))[0])
    if count > min(size - _START, _LARGEST_SHAPE):
        raise _refused(f"a description of {count:,} bytes makes no sense")
    return count


def _shape(content: bytes) -> Shape:
    try:
        given = json.loads(content)
        return Shape(**{**given, "widths": tuple((int(key), int(value)) for key, value in given["widths"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refused(f"its description cannot be read ({error})") from error


def _integers(content: bytes) -> array[int]:
    return array("i", np.frombuffer(content, "<i4").astype("=i4").tobytes())


def _refused(what: str) -> SnapshotNotUnderstood:
    return SnapshotNotUnderstood(f"the file of arrays is not understood: {what}; it is kept losslessly")
