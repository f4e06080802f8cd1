"""K and V of many layers and heads together, in their principal components: lossy, and with a basis of the model.

What a token leaves in the caches of all layers comes from one hidden state, so that few directions hold most of it
(Staniszewski & Łańcucki, "KV Cache Transform Coding", arXiv 2511.01815). Here K, before their rotation, and V share one
basis, and every channel is weighted by what its error costs (see kvstore/basis.py). One step size serves for all
components; their whole numbers are entropy coded, each component with the distribution that fits it in this stretch.
Tokens that matter more are written in finer steps, by their grade (kvstore/grades.py); the very first stay exact.

The blocks: one that holds a description in JSON, all that lies between the planes and the exact tokens; then, for each
``BLOCK_TOKENS`` tokens, one with their grades and sizes, and one of each group of layers: which distribution each
component has, and the symbols (codec/steps.py). Two earlier forms are still read. In ``transform-1`` there are no
grades: all its tokens take the same step. In both no token is expected to be like those before, and none has a size.

Memory: all matrices in 32 bits, and for each thread a few times BLOCK_TOKENS x width numbers of 4 bytes (8 MiB); the
matrices, and half of the rest, on an accelerator where one multiplies (codec/products.py). How many operations it takes
stands in kvstore/basis.py; writing takes half as many again as reading.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.arrays import layout_of, layout_of_headers
from quietmind.kvstore.basis import Basis, load
from quietmind.kvstore.codec import loops
from quietmind.kvstore.codec.places import Places
from quietmind.kvstore.codec.products import Home, Processor, Products, home_for
from quietmind.kvstore.codec.side_by_side import side_by_side
from quietmind.kvstore.codec.steps import Fineness, coded, read
from quietmind.kvstore.codec.straight import LARGEST, Straight
from quietmind.kvstore.codec.symbols import UNPACKING, framed, unframed
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import SINKS, planes_of, vectors
from quietmind.kvstore.grades import FIRST, LEAST_GRADE, MOST_GRADE, NEWEST, Grades, for_places, within
from quietmind.kvstore.importance import grades_for
from quietmind.kvstore.slots import SlotLayout, put_cells, read_cells

BLOCK_TOKENS = 1024

Made = TypeVar("Made")

_SAVED_S = 12e-9  # of a core for each number: its symbol is read in 4 ns in place of 10, and threads wait less

_LARGEST_HEAD = 1 << 20
_HEAD = struct.Struct("<III")


@dataclass(frozen=True)
class Form:
    """A way in which blocks were written.

    Tokens may have grades; each may be expected to follow those before it, and to be as where it has stood before.
    """

    name: str
    graded: bool
    follows: bool
    recurs: bool


_NEWEST_FORM = Form("transform-4", graded=True, follows=True, recurs=True)
FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form("transform-1", graded=False, follows=False, recurs=False),
        Form("transform-2", graded=True, follows=False, recurs=False),
        Form("transform-3", graded=True, follows=True, recurs=False),
        _NEWEST_FORM,
    )
}


class Transform:
    """Writes caches in ``basis`` with one ``step`` for all components."""

    name = _NEWEST_FORM.name

    def __init__(self, basis: Basis, step: float, home: Home | None = None) -> None:
        """Choose where to multiply by what there is to do, where no ``home`` is given."""
        self._basis = basis
        self._step = step
        self._home = home

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the packed blocks of the engine's file, or of a file of arrays. ``source`` can seek.

        Raises SnapshotNotUnderstood for a file, numbers in it, or a basis, that do not go together: keep it losslessly.
        """
        start = source.tell()
        layout = layout_of(source, size)
        self._basis.require_fits(layout)
        coding = _Coding(layout, self._basis, self._step, self._home, _NEWEST_FORM)
        yield coding.head(source, start)
        grades = coding.grades(source, start)
        for blocks in side_by_side(lambda piece: coding.packed(source, start, piece, grades), coding.pieces()):
            yield from blocks

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` with the engine's file as far as it was kept. Raises SnapshotDamaged."""
        _decode(blocks, target, lambda digest: _require_named(self._basis, digest), _NEWEST_FORM, self._home)


class TransformReader:
    """Reads what any basis in the folder ``bases`` has written in a ``form``."""

    def __init__(self, bases: Path, form: Form) -> None:
        self.name = form.name
        self._bases = bases
        self._form = form

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` with the engine's file as far as it was kept. Raises SnapshotDamaged."""
        _decode(blocks, target, lambda digest: load(self._bases, digest), self._form)


@dataclass(frozen=True)
class _Piece:
    """The cells from ``first`` to before ``last``, which make a block of each group behind that of their grades."""

    first: int
    last: int


class _Coding:
    """A file, and how it is coded; everything that both directions have to agree on."""

    def __init__(self, layout: SlotLayout, basis: Basis, step: float, home: Home | None, form: Form) -> None:
        if not (math.isfinite(step) and step > 0):
            raise ValueError(f"a step of {step}")
        self.layout, self.basis, self.step, self.form = layout, basis, step, form
        self.sinks = min(SINKS, layout.cells)
        self._straight = Straight.at(basis.rotation, layout.positions)
        loops.prepare(_SAVED_S * layout.cells * sum(plane.width for plane in layout.planes))
        self._products = Products(basis, step, home_for(basis, layout.cells) if home is None else home)
        self._reading = threading.Lock()

    @property
    def blocks_a_piece(self) -> int:
        """How many blocks belong together."""
        return len(self.basis.groups) + self.form.graded

    def pieces(self) -> Iterator[_Piece]:
        """Yield what blocks are made of, in their order."""
        for first in range(self.sinks, self.layout.cells, BLOCK_TOKENS):
            yield _Piece(first, min(first + BLOCK_TOKENS, self.layout.cells))

    def places(self, piece: _Piece) -> Places:
        """Return where the tokens of a piece have stood before, within it."""
        return Places.of(self.layout.tokens, self.layout.positions[piece.first : piece.last])

    def head(self, source: BinaryIO, start: int) -> bytes:
        """Return the first block."""
        content = json.dumps({"basis": self.basis.digest, "step": self.step}).encode()
        exact = b"".join(read_cells(source, start, plane, 0, self.sinks) for plane in self.layout.planes)
        parts = [content, self.layout.headers, exact]
        return _HEAD.pack(*map(len, parts)) + framed(parts)

    def grades(self, source: BinaryIO, start: int) -> Grades:
        """Return the grade of each cell: for where it stands and, where that is known, for what its token matters.

        Raises SnapshotNotUnderstood, EOFError.
        """
        found = for_places(self.layout.cells)
        importance = self.basis.importance
        if importance is not None:

            def scores(piece: _Piece) -> Floats:
                return importance.scores(self._vectors(source, start, importance.group, piece))

            whole = np.concatenate([*side_by_side(scores, self.pieces()), np.zeros(0, np.float32)])
            between = slice(FIRST, max(FIRST, self.layout.cells - NEWEST))
            told = grades_for(whole[FIRST - self.sinks : between.stop - self.sinks])
            found[between] = within(found[between] + told)
        return found

    def packed(self, source: BinaryIO, start: int, piece: _Piece, grades: Grades) -> list[bytes]:
        """Return the blocks of a piece of a cache of these ``grades``. Raises SnapshotNotUnderstood, EOFError."""
        some = grades[piece.first : piece.last]
        return self._multiplied(lambda products: self._packed(products, source, start, piece, some))

    def unpack(self, piece: _Piece, blocks: Sequence[bytes], target: memoryview) -> None:
        """Write the cells of a piece to ``target``. Raises ValueError and its like for anything but its blocks."""
        self._multiplied(lambda products: self._unpack(products, piece, blocks, target))

    def _multiplied(self, work: Callable[[Products], Made]) -> Made:
        """Return what ``work`` makes of a piece. Where its place fails, the processor does it, and all that follows.

        Another program may take an accelerator's memory at any time.
        """
        products = self._products
        try:
            return work(products)
        except products.failures:
            self._products = Products(self.basis, self.step, Processor())
            return work(self._products)

    def _packed(self, products: Products, source: BinaryIO, start: int, piece: _Piece, grades: Grades) -> list[bytes]:
        fine, said, blocks = Fineness.of(grades), [grades.tobytes()], list[bytes]()
        kept, places = products.nothing(piece.last - piece.first), self.places(piece)
        for number in range(len(self.basis.groups)):
            found = self._vectors(source, start, number, piece)
            expected = products.expected(number, kept)
            block, sizes, written = coded(products.components(number, found, expected), fine, places)
            said.append(sizes.tobytes())
            blocks.append(block)
            kept = products.kept(number, written, expected)
        return [framed(said), *blocks]

    def _vectors(self, source: BinaryIO, start: int, number: int, piece: _Piece) -> Floats:
        """Return the vectors of a group. Raises SnapshotNotUnderstood for numbers that no cache holds, EOFError."""
        group = self.basis.groups[number]
        with self._reading:  # threads share the file
            layers = (group.first, group.last)
            found = vectors(source, start, self.layout, self.basis.rotation, layers, piece.first, piece.last)
        if not max(float(found.max()), -float(found.min())) < LARGEST:
            raise SnapshotNotUnderstood(f"the saved cache holds numbers near {LARGEST:,.0f}; it is kept losslessly")
        return found

    def _unpack(self, products: Products, piece: _Piece, blocks: Sequence[bytes], target: memoryview) -> None:
        cells = piece.last - piece.first
        sized = len(self.basis.groups) * self.form.follows
        grades, *sizes = _said(blocks[0], cells, sized) if self.form.graded else [None]
        fine = None if grades is None else Fineness.of(grades)
        places = self.places(piece) if self.form.recurs else None
        kept = products.nothing(cells)
        for number, (group, block) in enumerate(zip(self.basis.groups, blocks[self.form.graded :], strict=True)):
            written = read(block, cells, group.rank, fine, sizes[number] if sizes else None, places)
            kept = products.kept(number, written, products.expected(number, kept))
            numbers = products.vectors(number, kept)
            if not max(float(numbers.max()), -float(numbers.min())) < 2 * LARGEST:
                raise ValueError("numbers that no cache holds")
            at = 0
            for plane in planes_of(self.layout, (group.first, group.last)):
                self._straight.put(target, plane, piece.first, np.ascontiguousarray(numbers[:, at : at + plane.width]))
                at += plane.width


def _said(block: bytes, cells: int, groups: int) -> list[NDArray[np.int8]]:
    """Return the grades [cells] that a block holds, and the sizes in each group. Raises ValueError and its like."""
    grades, *sizes = (np.frombuffer(part, np.int8) for part in unframed(block, [cells] * (1 + groups)))
    if not LEAST_GRADE <= grades.min() <= grades.max() <= MOST_GRADE:
        raise ValueError("grades that are none")
    return [grades, *sizes]


def _decode(
    blocks: Iterable[bytes],
    target: memoryview,
    find: Callable[[str], Basis],
    form: Form,
    home: Home | None = None,
) -> None:
    rest = iter(blocks)
    try:
        coding = _opened(next(rest, b""), target, find, home, form)
        matched = _matched(coding, rest)
        for _ in side_by_side(lambda given: coding.unpack(*given, target), matched):
            pass
    except (*UNPACKING, struct.error, MemoryError, OverflowError, SnapshotNotUnderstood) as error:
        raise SnapshotDamaged(
            f"a block of codec {Transform.name} cannot be unpacked ({error}); read the notebook again"
        ) from error


def _opened(block: bytes, target: memoryview, find: Callable[[str], Basis], home: Home | None, form: Form) -> _Coding:
    """Return what the first block says, and write what it holds. Raises ValueError and its like, SnapshotDamaged."""
    content_bytes, header_bytes, exact_bytes = _HEAD.unpack_from(block)
    if content_bytes > _LARGEST_HEAD or header_bytes + exact_bytes > len(target):
        raise ValueError("a head of a size that makes no sense")
    sizes = (content_bytes, header_bytes, exact_bytes)
    content, headers, exact = unframed(memoryview(block)[_HEAD.size :], sizes)
    given = json.loads(bytes(content))
    if not isinstance(given, dict) or set(given) != {"basis", "step"} or not isinstance(given["basis"], str):
        raise ValueError("a head that says other things")
    layout = layout_of_headers(bytes(headers), len(target))
    basis = find(given["basis"])
    basis.require_fits(layout)
    coding = _Coding(layout, basis, float(given["step"]), home, form)
    for at, gap in layout.gaps():
        target[at : at + len(gap)] = gap
    at = 0
    for plane in layout.planes:
        count = coding.sinks * plane.row_bytes
        if at + count > len(exact):
            raise ValueError("too few exact tokens")
        put_cells(target, plane, 0, exact[at : at + count])
        at += count
    if at != len(exact):
        raise ValueError("exact tokens too many")
    return coding


def _matched(coding: _Coding, blocks: Iterator[bytes]) -> Iterator[tuple[_Piece, list[bytes]]]:
    """Yield each piece with its blocks. Raises ValueError where there are fewer blocks or more."""
    for piece in coding.pieces():
        own = list(islice(blocks, coding.blocks_a_piece))
        if len(own) < coding.blocks_a_piece:
            raise ValueError("it ends too early")
        yield piece, own
    if next(blocks, None) is not None:
        raise ValueError("blocks too many")


def _require_named(basis: Basis, digest: str) -> Basis:
    if basis.digest != digest:
        raise SnapshotDamaged("it was written in another basis; read the notebook again")
    return basis
