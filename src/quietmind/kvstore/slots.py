"""The file that llama.cpp saves a slot to, as arrays: which rows lie where, and how to read and write them.

Source: ``llama_context::state_seq_save_file`` (src/llama-context.cpp) and ``llama_kv_cache::state_write`` with what it
calls (src/llama-kv-cache.cpp) of llama.cpp, autumn 2026; all little-endian:

    u32 magic "ggsq", u32 version, u32 tokens, i32 each token (packed by a server once more, see _tokens)
    u32 streams, u32 cells; of each cell: i32 position, u32 sequences, i32 each sequence
    u32 whether V is transposed, u32 layers, u32 and u32 size of the Hadamard matrix that K and V are multiplied by
    of each layer its K: i32 type, u64 bytes of a row, and the rows, one a cell
    of each layer its V: the same; or, transposed: i32 type, u32 bytes of a value, u32 width, and a row for each channel

A file of anything else (two caches in a row for sliding windows, recurrent states, several sequences, positions in two
dimensions) does not end where this says, and is refused.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import BinaryIO, Final, Literal, Protocol

import numpy as np

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.floats import BLOCKS, Floats, narrow, widen
from quietmind.model.ggml_types import GGML_TYPES

MAGIC: Final = 0x67677371  # "ggsq" (include/llama.h: LLAMA_STATE_SEQ_MAGIC)
VERSION: Final = 4  # LLAMA_STATE_SEQ_VERSION
_TOKENS_VERSION: Final = 1  # SERVER_TOKENS_STATE_VERSION

# No model has more of these; a file that says so is refused before anything is made of it.
_MOST_LAYERS = 4096
_LARGEST_HADAMARD = 4096

_Part = Literal["k", "v"]


@dataclass(frozen=True)
class Plane:
    """The K or the V of one layer: ``cells`` rows of ``width`` values of ``type``, from byte ``offset`` on.

    ``layer`` counts the layers that have a cache. A transposed plane holds a row for each channel instead. ``hadamard``
    is the size of the matrix that each run of so many consecutive values of a row was multiplied by, 0 for none.
    """

    layer: int
    part: _Part
    type: str
    width: int
    cells: int
    offset: int
    transposed: bool = False
    hadamard: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one cell."""
        block_bytes, block = BLOCKS[self.type]
        return self.width // block * block_bytes

    @property
    def bytes(self) -> int:
        """Bytes of all cells."""
        return self.row_bytes * self.cells

    def alone(self, cells: int) -> Plane:
        """Return the plane that so many of this one's cells make in memory of their own; see :func:`read_cells`."""
        return replace(self, cells=cells, offset=0)


@dataclass(frozen=True)
class SlotLayout:
    """What a saved cache of ``size`` bytes holds where. ``keys`` and ``values`` are in the order of their layers.

    ``values`` is empty for models that keep one row for both. ``positions`` has one entry a cell, ``headers`` is all
    that does not belong to a plane, joined; see :meth:`gaps`.
    """

    size: int
    tokens: array[int]
    positions: array[int]
    keys: tuple[Plane, ...]
    values: tuple[Plane, ...]
    headers: bytes

    @property
    def cells(self) -> int:
        """Number of cells: tokens whose K and V are held."""
        return len(self.positions)

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """All planes, in the order in which they lie."""
        return tuple(sorted((*self.keys, *self.values), key=lambda plane: plane.offset))

    def gaps(self) -> Iterator[tuple[int, bytes]]:
        """Yield what lies between the planes: where, and the bytes."""
        at = taken = 0
        for start, end in (*((plane.offset, plane.offset + plane.bytes) for plane in self.planes), (self.size, 0)):
            yield at, self.headers[taken : taken + start - at]
            taken += start - at
            at = end


def parse(source: BinaryIO, size: int | None = None) -> SlotLayout:
    """Return what the next ``size`` bytes of ``source`` hold, or all that follow; offsets count from where it stands.

    ``source`` can seek, and stands somewhere else afterwards; the rows themselves are not read. Raises
    SnapshotNotUnderstood for what is not described above, EOFError where ``source`` holds less than ``size``.
    """
    start = source.tell()
    if size is None:
        size = source.seek(0, os.SEEK_END) - start
    return _layout(_Stream(source, start, size))


def parse_headers(headers: bytes, size: int) -> SlotLayout:
    """Return the layout whose ``headers`` and ``size`` these are. Raises SnapshotNotUnderstood."""
    stream = _HeadersAlone(headers, size)
    layout = _layout(stream)
    if stream.left:
        raise _refused(f"{stream.left:,} bytes of headers too many")
    return layout


def read_cells(source: BinaryIO, start: int, plane: Plane, first: int, last: int) -> bytes:
    """Return the bytes of some cells of a file that begins at ``start`` of ``source``: a ``plane.alone(last - first)``.

    Raises EOFError where the file has become shorter.
    """
    item = BLOCKS[plane.type][0]
    found = []
    if plane.transposed:
        for channel in range(plane.width):
            source.seek(start + plane.offset + (channel * plane.cells + first) * item)
            found.append(source.read((last - first) * item))
    else:
        source.seek(start + plane.offset + first * plane.row_bytes)
        found.append(source.read((last - first) * plane.row_bytes))
    content = b"".join(found)
    if len(content) != (last - first) * plane.row_bytes:
        raise EOFError(f"{(last - first) * plane.row_bytes:,} bytes were expected and {len(content):,} came")
    return content


def put_cells(target: memoryview, plane: Plane, first: int, content: memoryview | bytes) -> None:
    """Write the bytes of whole cells to a plane in ``target`` from cell ``first`` on: what :func:`read_cells` gave."""
    start = plane.offset + first * plane.row_bytes
    if plane.transposed:
        channels = np.frombuffer(target, np.uint8, plane.bytes, plane.offset).reshape(plane.width, -1)
        cut = np.frombuffer(content, np.uint8).reshape(plane.width, -1)
        at = first * BLOCKS[plane.type][0]
        channels[:, at : at + cut.shape[1]] = cut
    else:
        target[start : start + len(content)] = content


def rows(content: memoryview | bytes, plane: Plane, first: int = 0, last: int | None = None) -> Floats:
    """Return the cells from ``first`` to before ``last`` of a plane in ``content``: float32 [cells, width].

    The engine's Hadamard matrix is undone. Raises SnapshotNotUnderstood where a value is not finite.
    """
    last = plane.cells if last is None else last
    if plane.transposed:
        item = BLOCKS[plane.type][0]
        channels = np.frombuffer(content, np.uint8, plane.bytes, plane.offset).reshape(plane.width, -1)
        cut = np.empty((plane.width, last - first), np.float32)
        widen(np.ascontiguousarray(channels[:, first * item : last * item]), plane.type, cut)
        found = np.ascontiguousarray(cut.T)
    else:
        count = (last - first) * plane.row_bytes
        raw = np.frombuffer(content, np.uint8, count, plane.offset + first * plane.row_bytes)
        found = np.empty((last - first, plane.width), np.float32)
        widen(raw, plane.type, found)
    return _multiplied(found, plane.hadamard)


def put_rows(target: memoryview, plane: Plane, first: int, values: Floats) -> None:
    """Write ``values`` [cells, width] to a plane in ``target`` from cell ``first`` on: what :func:`rows` read."""
    values = _multiplied(values, plane.hadamard)
    if plane.transposed:
        item = BLOCKS[plane.type][0]
        raw = np.empty((plane.width, len(values) * item), np.uint8)
        narrow(np.ascontiguousarray(values.T), plane.type, raw)
        put_cells(target, plane, first, raw.tobytes())
    else:
        start, count = plane.offset + first * plane.row_bytes, len(values) * plane.row_bytes
        narrow(values, plane.type, np.frombuffer(target, np.uint8, count, start))


def _multiplied(values: Floats, size: int) -> Floats:
    if not size:
        return values
    multiplied: Floats = np.matmul(values.reshape(-1, size), _hadamard(size)).reshape(values.shape)
    return multiplied


@lru_cache(maxsize=4)
def _hadamard(size: int) -> Floats:
    """Return the orthonormal Walsh-Hadamard matrix, its own inverse (``ggml_gen_hadamard``)."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    orthonormal: Floats = (matrix / np.sqrt(size)).astype(np.float32)
    return orthonormal


class _Source(Protocol):
    size: int
    at: int

    def take(self, count: int) -> bytes: ...

    def skip(self, count: int) -> None: ...


class _Stream:
    """A file, of which planes are skipped. Sizes are checked before anything is read."""

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self.size, self.at = size, 0
        self._source, self._start = source, start

    def take(self, count: int) -> bytes:
        self.skip(count)
        self._source.seek(self._start + self.at - count)
        content = self._source.read(count)
        if len(content) != count:
            raise EOFError(f"{count:,} bytes were expected and {len(content):,} came")
        return content

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise _refused("it ends too early")
        self.at += count


class _HeadersAlone:
    """What a file holds between its planes."""

    def __init__(self, headers: bytes, size: int) -> None:
        self.size, self.at = size, 0
        self._headers, self._taken = headers, 0

    @property
    def left(self) -> int:
        return len(self._headers) - self._taken

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _refused("its headers end too early")
        self.skip(count)
        self._taken += count
        return self._headers[self._taken - count : self._taken]

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise _refused("it ends too early")
        self.at += count


class _Fields:
    """The fields of the headers, one after the other; all that was read is kept."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._taken: list[bytes] = []

    def take(self, count: int) -> bytes:
        content = self._source.take(count)
        self._taken.append(content)
        return content

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    @property
    def headers(self) -> bytes:
        return b"".join(self._taken)


def _layout(source: _Source) -> SlotLayout:
    fields = _Fields(source)
    magic, version, count = fields.numbers("<3I")
    if magic != MAGIC:
        raise _refused("it does not begin as one")
    if version != VERSION:
        raise _refused(f"it has version {version}, and this program reads {VERSION}")
    tokens = _tokens(_integers(fields.take(4 * count)))
    streams, cells = fields.numbers("<2I")
    if streams != 1:
        raise _refused(f"it holds {streams:,} streams in the place of one")
    positions = _positions(fields.take(12 * cells))
    if not cells:
        return _ended(source, SlotLayout(source.size, tokens, positions, (), (), fields.headers))
    transposed, layers, hadamard_k, hadamard_v = fields.numbers("<4I")
    if transposed > 1 or not 0 < layers <= _MOST_LAYERS:
        raise _refused(f"{layers:,} layers make no sense")
    keys = tuple(_plane(fields, source, (layer, "k", cells, hadamard_k)) for layer in range(layers))
    values: tuple[Plane, ...] = ()
    if source.at < source.size:
        read = _transposed_plane if transposed else _plane
        values = tuple(read(fields, source, (layer, "v", cells, hadamard_v)) for layer in range(layers))
    return _ended(source, SlotLayout(source.size, tokens, positions, keys, values, fields.headers))


def _ended(source: _Source, layout: SlotLayout) -> SlotLayout:
    if source.at != source.size:
        raise _refused(f"{source.size - source.at:,} bytes follow, of a window or a recurrent state perhaps")
    return layout


def _tokens(listed: array[int]) -> array[int]:
    """Return the token ids of what a server lists: they alone, or as ``server_tokens::serialize`` packs them.

    That is (tools/server/server-common.cpp): -1, a version, the number of tokens, they, and the number of images.
    """
    if not listed or listed[0] != -1:
        return listed
    if len(listed) < 4 or listed[1] != _TOKENS_VERSION or len(listed) != listed[2] + 4 or listed[-1]:
        raise _refused("its tokens are packed in another version, or it holds images or sound")
    return listed[3:-1]


def _positions(content: bytes) -> array[int]:
    cells = np.frombuffer(content, "<i4").reshape(-1, 3)
    if (cells[:, 1] != 1).any():
        raise _refused("it holds cells of several sequences, or positions in more than one dimension")
    if (cells[:, 0] < 0).any():
        raise _refused("it holds negative positions")
    return _integers(np.ascontiguousarray(cells[:, 0]).tobytes())


def _plane(fields: _Fields, source: _Source, what: tuple[int, _Part, int, int]) -> Plane:
    layer, part, cells, hadamard = what
    number, row_bytes = fields.numbers("<iQ")
    kind = _kind(number)
    block_bytes, block = BLOCKS[kind]
    if row_bytes % block_bytes or not row_bytes:
        raise _refused(f"a row of {row_bytes:,} bytes is none of {kind}")
    plane = Plane(layer, part, kind, row_bytes // block_bytes * block, cells, source.at, hadamard=hadamard)
    return _checked(plane, source)


def _transposed_plane(fields: _Fields, source: _Source, what: tuple[int, _Part, int, int]) -> Plane:
    layer, part, cells, hadamard = what
    number, item, width = fields.numbers("<iII")
    kind = _kind(number)
    if BLOCKS[kind] != (item, 1) or not width:
        raise _refused(f"{width:,} transposed values of {item:,} bytes are none of {kind}")
    return _checked(Plane(layer, part, kind, width, cells, source.at, True, hadamard), source)


def _checked(plane: Plane, source: _Source) -> Plane:
    size = plane.hadamard
    if size and (size & (size - 1) or size > _LARGEST_HADAMARD or plane.width % size):
        raise _refused(f"a Hadamard matrix of {size:,} does not fit rows of {plane.width:,}")
    source.skip(plane.bytes)
    return plane


def _kind(number: int) -> str:
    kind = GGML_TYPES.get(number)
    if kind is None or kind.name not in BLOCKS:
        raise _refused(f"it holds values of {'type ' + str(number) if kind is None else kind.name}")
    return kind.name


def _integers(content: bytes) -> array[int]:
    found = array("i", content)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _refused(what: str) -> SnapshotNotUnderstood:
    return SnapshotNotUnderstood(f"the engine's saved cache is not understood: {what}; it is kept losslessly")
