"""Reads the header of a GGUF file: its metadata and its table of tensors, never the weights.

The file is hostile until parsed. Every count and length is compared with the bytes that are left before anything is
allocated for it, and arrays (a vocabulary has 150,000 strings) stay in the file until somebody asks for their values.
Layout: the GGUF specification, versions 2 and 3 (ggml/docs/gguf.md of llama.cpp).
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from quietmind.base.errors import ModelError, ModelFileDamaged, ModelNotFound, ModelNotUnderstood
from quietmind.base.paths import shown_path
from quietmind.model.architectures import card_from
from quietmind.model.card import ModelCard, Tensor
from quietmind.model.ggml_types import GGML_TYPES

DEFAULT_ALIGNMENT = 32

# No real file comes near these (about 100 entries and 10,000 tensors); they bound the memory a hostile one can take.
MAX_ENTRIES = 1 << 16
MAX_TENSORS = 1 << 17
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_KEY_BYTES = 1 << 16  # by the specification
MAX_TENSOR_NAME_BYTES = 64  # by the specification
MAX_ALIGNMENT = 1 << 20

_SMALLEST_ENTRY = 8 + 4 + 1  # key length, value type, a one-byte value
_SMALLEST_TENSOR = 8 + 4 + 4 + 8  # name length, dimension count, type, offset

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# gguf_metadata_value_type, the scalar ones
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

Scalar = int | float | bool | str


@dataclass(frozen=True)
class GgufArray:
    """An array of the metadata, left in the file: ``bytes`` bytes from ``offset`` on hold ``count`` values."""

    path: Path
    element_type: int
    count: int
    offset: int
    bytes: int

    def values(self) -> list[Scalar]:
        """Read and decode the values. Raises ModelFileDamaged when the file has changed since its header was read."""
        raw = _bytes_at(self.path, self.offset, self.bytes)
        reader = _Reader(raw, self.path)
        return [reader.value(self.element_type, "an array element") for _ in range(self.count)]


Value = Scalar | GgufArray


@dataclass(frozen=True)
class GgufTensor:
    """A row of the tensor table. ``offset`` counts from the start of the file that is part number ``part``."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int
    part: int = 0


@dataclass(frozen=True)
class GgufPart:
    """One file of a model. Its tensor data begins at ``data_offset``."""

    path: Path
    data_offset: int
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What stands before the weights. A split model has several ``parts`` and one joined table of tensors."""

    path: Path
    version: int
    alignment: int
    metadata: dict[str, Value] = field(repr=False)
    tensors: tuple[GgufTensor, ...] = field(repr=False)
    parts: tuple[GgufPart, ...]

    @property
    def data_offset(self) -> int:
        """Where the tensor data of the first file begins."""
        return self.parts[0].data_offset

    @property
    def file_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(part.bytes for part in self.parts)


def read_card(path: Path | str) -> ModelCard:
    """Return the card of the model in ``path`` (any part of a split model will do).

    Raises ModelNotFound, ModelFileDamaged, ModelNotUnderstood.
    """
    header = read_gguf(path)
    facts: dict[str, object] = {}
    for key, value in header.metadata.items():
        if not isinstance(value, GgufArray):
            facts[key] = value
        elif value.element_type != _STRING and value.count <= len(header.tensors):
            facts[key] = tuple(value.values())  # one number a layer; a vocabulary stays in the file
    return card_from(
        facts,
        tuple(Tensor(tensor.name, tensor.shape, tensor.type, tensor.bytes) for tensor in header.tensors),
        tuple(part.path for part in header.parts),
        header.file_bytes,
    )


def part_paths(path: Path) -> tuple[Path, ...]:
    """Return every file of the model that ``path`` belongs to, by its name alone: one, or all parts in order."""
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) < 1:
        return (path,)
    return tuple(
        path.with_name(f"{match['stem']}-{number:05d}-of-{match['count']}.gguf")
        for number in range(1, int(match["count"]) + 1)
    )


def read_gguf(path: Path | str) -> GgufHeader:
    """Read the header of a GGUF file; of a split model, the headers of all parts.

    Raises ModelNotFound when a file is missing, ModelFileDamaged when a header contradicts itself or reaches past
    the end of the file, ModelNotUnderstood for versions, byte orders and tensor types that we do not know.
    """
    asked = Path(path)
    paths = part_paths(asked)
    headers: list[GgufHeader] = []
    for number, part in enumerate(paths):
        if len(paths) > 1 and not part.is_file():
            raise ModelNotFound(
                f"{shown_path(part)}: part {number + 1} of {len(paths)} of this model is missing; "
                "fetch it into the same folder"
            )
        headers.append(_read_file(part, number))
        _check_part(headers[-1], number, len(paths))
    if len(headers) == 1:
        return headers[0]
    return _joined(headers)


def read_part(path: Path) -> GgufHeader:
    """Read the header of one file, whether or not other parts of its model are there. Raises as read_gguf does."""
    return _read_file(path, 0)


def _check_part(header: GgufHeader, number: int, count: int) -> None:
    claimed_count = header.metadata.get("split.count", 1 if count == 1 else count)
    claimed_number = header.metadata.get("split.no", number)
    # Writers leave split.count 0 or 1 in models that are whole.
    if claimed_count != count and not (count == 1 and claimed_count == 0):
        raise ModelFileDamaged(
            f"{shown_path(header.path)}: says it is one of {claimed_count} parts, but its name says {count}; "
            "give the parts their original names (NAME-00001-of-0000N.gguf)"
        )
    if claimed_number != number:
        raise ModelFileDamaged(
            f"{shown_path(header.path)}: holds part {claimed_number} (counted from 0) under the name of part {number}; "
            "fetch it again"
        )


def _joined(headers: list[GgufHeader]) -> GgufHeader:
    first = headers[0]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    _refuse_duplicates(tensors, first.path)
    expected = first.metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise ModelFileDamaged(
            f"{shown_path(first.path)}: promises {expected} tensors, but its {len(headers)} parts hold {len(tensors)}; "
            "fetch them again"
        )
    parts = tuple(part for header in headers for part in header.parts)
    return GgufHeader(first.path, first.version, first.alignment, first.metadata, tensors, parts)


def _refuse_duplicates(tensors: tuple[GgufTensor, ...], path: Path) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise ModelFileDamaged(f"{shown_path(path)}: two tensors are named {_shown(tensor.name)}; fetch it again")
        seen.add(tensor.name)


def _read_file(path: Path, part: int) -> GgufHeader:
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ModelFileDamaged(f"{shown_path(path)}: is empty; the download is incomplete, fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content, path).header(part)
    except FileNotFoundError:
        raise ModelNotFound(f"{shown_path(path)}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: what mmap says of something that is not a plain file
        raise ModelError(f"{shown_path(path)}: cannot be read ({error})") from error


def _bytes_at(path: Path, offset: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read(count)
    except OSError as error:
        raise ModelError(f"{shown_path(path)}: cannot be read ({error})") from error
    if len(raw) != count:
        raise ModelFileDamaged(f"{shown_path(path)}: became shorter while it was read; fetch it again")
    return raw


def _shown(name: str) -> str:
    """Return a name from the file for one line of a message."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= MAX_TENSOR_NAME_BYTES else text[:MAX_TENSOR_NAME_BYTES] + "..."


class _Reader:
    """A position in the bytes of a file. Everything it returns lay inside the file, or it raises."""

    def __init__(self, content: mmap.mmap | bytes, path: Path) -> None:
        self._content = content
        self._path = path
        self._at = 0
        self._end = len(content)

    def damaged(self, what: str) -> ModelFileDamaged:
        return ModelFileDamaged(f"{shown_path(self._path)}: {what}")

    def need(self, count: int, what: str) -> int:
        """Return the position of the next ``count`` bytes and step over them."""
        start = self._at
        if count > self._end - start:
            raise self.damaged(
                f"{what} at {start:,} needs {count:,} bytes, past the file's {self._end:,} bytes; "
                "the download is incomplete, fetch it again"
            )
        self._at = start + count
        return start

    def u32(self, what: str) -> int:
        number: int = _U32.unpack_from(self._content, self.need(4, what))[0]
        return number

    def u64(self, what: str) -> int:
        number: int = _U64.unpack_from(self._content, self.need(8, what))[0]
        return number

    def text(self, what: str, limit: int | None = None) -> str:
        """Read a string. Bytes that are not UTF-8 become U+FFFD: single tokens may hold half a character."""
        length = self.u64(what)
        if limit is not None and length > limit:
            raise self.damaged(f"{what} is {length:,} bytes long, more than the {limit:,} allowed; fetch it again")
        start = self.need(length, what)
        return self._content[start : start + length].decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Scalar:
        if kind == _STRING:
            return self.text(what)
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self.damaged(f"{what} has the unknown value type {kind}; fetch it again")
        number: int | float = scalar.unpack_from(self._content, self.need(scalar.size, what))[0]
        if kind != _BOOL:
            return number
        if number not in (0, 1):
            raise self.damaged(f"{what} is a boolean of value {number}; fetch it again")
        return bool(number)

    def array(self, what: str) -> GgufArray:
        """Step over an array, checking that all of it is there, and return where it lies."""
        kind = self.u32(what)
        count = self.u64(what)
        start = self._at
        if kind == _STRING:
            self._skip_strings(count, what)
        elif kind in _SCALARS:
            self.need(count * _SCALARS[kind].size, what)
        elif kind == _ARRAY:
            raise ModelNotUnderstood(f"{shown_path(self._path)}: {what} is an array of arrays, which no model uses")
        else:
            raise self.damaged(f"{what} is an array of the unknown value type {kind}; fetch it again")
        return GgufArray(self._path, kind, count, start, self._at - start)

    def _skip_strings(self, count: int, what: str) -> None:
        self._refuse_cut(f"the list of {count:,} strings of {what}", count * 8)
        # Written out, not by need(): a vocabulary and its merges are 300,000 strings.
        at, content, end, length_of = self._at, self._content, self._end, _U64.unpack_from
        for _ in range(count):
            if at + 8 > end:
                at += 8
                break
            at += 8 + length_of(content, at)[0]
        if at > end:
            raise self.damaged(
                f"{what} reaches to {at:,}, past the file's {end:,} bytes; the download is incomplete, fetch it again"
            )
        self._at = at

    def _refuse_cut(self, what: str, least: int) -> None:
        """Raise if what comes next, ``least`` bytes or more, cannot be in the file."""
        if least > self._end - self._at:
            raise self.damaged(
                f"{what} takes at least {least:,} bytes from {self._at:,} on, past the file's {self._end:,}; "
                "the download is incomplete, fetch it again"
            )

    def header(self, part: int) -> GgufHeader:
        version, tensor_count, entry_count = self._preamble()
        metadata = self._metadata(entry_count)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or isinstance(alignment, bool)
            or not 1 <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise self.damaged("general.alignment is not a power of two up to 1,048,576; fetch it again")
        rows = [self._tensor(part) for _ in range(tensor_count)]
        data_offset = -(-self._at // alignment) * alignment
        self._refuse_cut_data(rows, data_offset)
        tensors = tuple(self._placed(row, data_offset, alignment) for row in rows)
        _refuse_duplicates(tensors, self._path)
        self._refuse_overlaps(tensors)
        parts = (GgufPart(self._path, data_offset, self._end),)
        return GgufHeader(self._path, version, alignment, metadata, tensors, parts)

    def _preamble(self) -> tuple[int, int, int]:
        magic = self._content[: min(4, self._end)]
        if not b"GGUF".startswith(magic):
            raise self.damaged(f"is not a GGUF file (it begins with {magic!r})")
        self.need(4, "the magic")
        version = self.u32("the version")
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            kind = f"of version {version}" if swapped not in (1, 2, 3) else f"big-endian, version {swapped}"
            raise ModelNotUnderstood(
                f"{shown_path(self._path)}: is a GGUF file {kind}; only little-endian versions 2 and 3 are read, "
                "fetch a newer conversion of the model"
            )
        tensor_count = self.u64("the number of tensors")
        entry_count = self.u64("the number of metadata entries")
        for claimed, smallest, limit, what in (
            (entry_count, _SMALLEST_ENTRY, MAX_ENTRIES, "metadata entries"),
            (tensor_count, _SMALLEST_TENSOR, MAX_TENSORS, "tensors"),
        ):
            if claimed > limit:
                raise self.damaged(
                    f"claims {claimed:,} {what}, more than the {limit:,} that any model has; fetch it again"
                )
            self._refuse_cut(f"the table of {claimed:,} {what}", claimed * smallest)
        return version, tensor_count, entry_count

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for number in range(count):
            key = self.text(f"the key of metadata entry {number + 1}", MAX_KEY_BYTES)
            if key in metadata:
                raise self.damaged(f"metadata key {_shown(key)} is there twice; fetch it again")
            kind = self.u32(f"metadata {_shown(key)}")
            what = f"metadata {_shown(key)}"
            metadata[key] = self.array(what) if kind == _ARRAY else self.value(kind, what)
        return metadata

    def _tensor(self, part: int) -> GgufTensor:
        """Read a row of the tensor table; its offset still counts from the start of the data."""
        name = self.text("the name of a tensor", MAX_TENSOR_NAME_BYTES)
        what = f"tensor {_shown(name)}"
        dimensions = self.u32(what)
        if dimensions > MAX_DIMENSIONS:
            raise self.damaged(f"{what} has {dimensions:,} dimensions, more than {MAX_DIMENSIONS}; fetch it again")
        shape = tuple(self.u64(what) for _ in range(dimensions)) or (1,)
        kind = GGML_TYPES.get(type_id := self.u32(what))
        if kind is None:
            raise ModelNotUnderstood(
                f"{shown_path(self._path)}: {what} is of the ggml type {type_id}, unknown to this quietmind; "
                "update it, or fetch the model in another quantization"
            )
        if 0 in shape or shape[0] % kind.block:
            raise self.damaged(
                f"{what} has the shape {' x '.join(f'{extent:,}' for extent in shape)}, "
                f"impossible for {kind.name} (blocks of {kind.block}); fetch it again"
            )
        size = kind.row_bytes(shape[0]) * prod(shape[1:])
        return GgufTensor(name, shape, kind.name, self.u64(what), size, part)

    def _placed(self, row: GgufTensor, data_offset: int, alignment: int) -> GgufTensor:
        if row.offset % alignment:
            raise self.damaged(f"tensor {_shown(row.name)} is not aligned to {alignment} bytes; fetch it again")
        return GgufTensor(row.name, row.shape, row.type, data_offset + row.offset, row.bytes, row.part)

    def _refuse_cut_data(self, rows: list[GgufTensor], data_offset: int) -> None:
        """Raise if the tensor that ends last, and with it the data, is not in the file whole."""
        last = max(rows, key=lambda row: row.offset + row.bytes, default=None)
        end = data_offset + last.offset + last.bytes if last is not None else 0
        if last is not None and end > self._end:
            raise self.damaged(
                f"tensor {_shown(last.name)} ends at {end:,}, past the file's {self._end:,} bytes; "
                "the download is incomplete, fetch it again"
            )

    def _refuse_overlaps(self, tensors: tuple[GgufTensor, ...]) -> None:
        end, before = 0, ""
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise self.damaged(f"tensors {_shown(before)} and {_shown(tensor.name)} overlap; fetch it again")
            end, before = tensor.offset + tensor.bytes, tensor.name
