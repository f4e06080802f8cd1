"""Reads the headers of safetensors checkpoints: names, types, shapes and places of tensors, never the weights.

A file is eight bytes of length, a JSON object of that length, and the data that it describes, without gaps. It is
hostile until parsed: the length is compared with the file before it is believed, and every tensor with its place.
Layout: the safetensors format (github.com/huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TypeGuard

from quietmind.base.errors import ModelError, ModelFileDamaged, ModelNotFound, ModelNotUnderstood
from quietmind.base.paths import shown_path
from quietmind.model.card import ModelCard, Tensor
from quietmind.model.config import read_config
from quietmind.model.derive import card_of
from quietmind.model.hf_names import gguf_name
from quietmind.model.hf_quant import label
from quietmind.model.layout import tensor_extents
from quietmind.model.shape import Shape

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
MAX_TENSORS = 1 << 20  # the largest checkpoints hold 100,000
MAX_DIMENSIONS = 8

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "I64": 64,
    "U64": 64,
    "I32": 32,
    "U32": 32,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "C64": 64,
}
_SHARD = re.compile(r"[^/\\\0]+\.safetensors")  # no name that leads out of the folder
_BLOCK = re.compile(r"(?:blk|model\.layers)\.(\d{1,6})\.")
_SHOWN = 80  # characters of a name in a message


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file has it: the format's type name, the shape with the slowest dimension first, its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_card(path: Path) -> ModelCard:
    """Return the card of a checkpoint: a folder, its index, or a single file, with ``config.json`` beside it.

    Raises ModelNotFound, ModelError, ModelFileDamaged, ModelNotUnderstood.
    """
    path = _main_file(path)
    shape = read_config(path.parent / "config.json")
    if path.name.endswith(".json"):
        shards = shard_names(_read(path, MAX_HEADER), path)
        files = tuple(path.parent / shard for shard in shards)
        tensors = [tensor for file in files for tensor in _wanted(read_tensors(file), shards[file.name], file)]
    else:
        files = (path,)
        tensors = list(read_tensors(path))
    return checkpoint_card(shape, tensors, files, sum(file.stat().st_size for file in files))


def _main_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (INDEX, SINGLE):
        if (path / name).is_file():
            return path / name
    raise ModelNotFound(f"{shown_path(path)}: holds neither {INDEX} nor {SINGLE}; give the folder of a checkpoint")


def _wanted(tensors: Iterable[StoredTensor], names: frozenset[str], file: Path) -> list[StoredTensor]:
    """Return the tensors of a shard that the index names. Raises ModelFileDamaged where one is not there."""
    found = [tensor for tensor in tensors if tensor.name in names]
    if len(found) != len(names):
        missing = min(names - {tensor.name for tensor in found})
        raise ModelFileDamaged(
            f"{shown_path(file)}: holds no tensor {_shown(missing)}, which the index promises; fetch it again"
        )
    return found


def read_tensors(file: Path) -> tuple[StoredTensor, ...]:
    """Return the tensors of one file. Raises ModelNotFound, ModelError, ModelFileDamaged, ModelNotUnderstood."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(0)
            length = header_length(opened.read(LENGTH_BYTES), size, file)
            return parse_header(opened.read(length), size, file)
    except FileNotFoundError:
        raise ModelNotFound(f"{shown_path(file)}: no such file; fetch all parts of the model into one folder") from None
    except OSError as error:
        raise ModelError(f"{shown_path(file)}: cannot be read ({error.strerror or error})") from error


def header_length(first: bytes, file_bytes: int, source: Path) -> int:
    """Return the bytes of the header from the ``first`` eight bytes of a file of ``file_bytes``.

    ``source`` is what messages call the file. Raises ModelFileDamaged where the file cannot hold so many.
    """
    if len(first) < LENGTH_BYTES:
        raise ModelFileDamaged(
            f"{shown_path(source)}: ends after {file_bytes:,} bytes; the download is incomplete, fetch it again"
        )
    length: int = struct.unpack_from("<Q", first)[0]
    if length > file_bytes - LENGTH_BYTES:
        raise ModelFileDamaged(
            f"{shown_path(source)}: its header claims {length:,} bytes, past the file's {file_bytes:,} bytes; "
            "it is no safetensors file, or the download is incomplete"
        )
    if length > MAX_HEADER:
        raise ModelFileDamaged(f"{shown_path(source)}: its header claims {length:,} bytes, more than any model has")
    return length


def parse_header(header: bytes, file_bytes: int, source: Path) -> tuple[StoredTensor, ...]:
    """Return the tensors that the JSON ``header`` of a file of ``file_bytes`` describes, in the file's order.

    Raises ModelFileDamaged where it is not JSON, names a tensor twice, or where tensors overlap, leave gaps or reach
    past the end; ModelNotUnderstood for a type that this program does not know.
    """

    def damaged(what: str) -> ModelFileDamaged:
        return ModelFileDamaged(f"{shown_path(source)}: {what}; fetch it again")

    table = _json_object(header, damaged)
    table.pop("__metadata__", None)
    if len(table) > MAX_TENSORS:
        raise damaged(f"claims {len(table):,} tensors, more than any model has")
    placed = sorted((_placed(name, entry, source, damaged) for name, entry in table.items()), key=lambda row: row[:2])
    end = 0
    for first, last, tensor in placed:
        if first != end:
            raise damaged(f"tensor {_shown(tensor.name)} begins at {first:,} where the one before ends at {end:,}")
        end = last
    data = file_bytes - LENGTH_BYTES - len(header)
    if end != data:
        raise damaged(f"its tensors take {end:,} bytes and its data has {data:,}; the download is incomplete")
    return tuple(tensor for _, _, tensor in placed)


def _json_object(raw: bytes, damaged: Callable[[str], ModelFileDamaged]) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a name is there twice")
        return made

    try:
        document = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(f"is not readable JSON ({error})") from None
    if not isinstance(document, dict):
        raise damaged("is not a JSON object")
    return document


def _placed(
    name: str, entry: object, source: Path, damaged: Callable[[str], ModelFileDamaged]
) -> tuple[int, int, StoredTensor]:
    """Return where a tensor begins and ends in the data, and the tensor."""
    if not isinstance(entry, Mapping):
        raise damaged(f"tensor {_shown(name)} is not described")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise damaged(f"tensor {_shown(name)} has no shape and place that make sense")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelNotUnderstood(
            f"{shown_path(source)}: tensor {_shown(name)} is of the type {_shown(str(dtype))}, "
            "unknown to this quietmind; update it"
        )
    size = (prod(shape) * _BITS[dtype] + 7) // 8
    if offsets[1] - offsets[0] != size:
        raise damaged(f"tensor {_shown(name)} takes {size:,} bytes but has a place of {offsets[1] - offsets[0]:,}")
    return offsets[0], offsets[1], StoredTensor(name, dtype, tuple(shape), size)


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def shard_names(index: bytes, source: Path) -> dict[str, frozenset[str]]:
    """Return which tensors each file holds, by an index. Raises ModelFileDamaged."""

    def damaged(what: str) -> ModelFileDamaged:
        return ModelFileDamaged(f"{shown_path(source)}: {what}; fetch it again")

    placed = _json_object(index, damaged).get("weight_map")
    if not isinstance(placed, Mapping) or not placed or len(placed) > MAX_TENSORS:
        raise damaged("has no weight_map that says where its tensors are")
    shards: dict[str, set[str]] = {}
    for name, file in placed.items():
        # A name that leaves the folder would read files that nobody has named.
        if not isinstance(file, str) or _SHARD.fullmatch(file) is None:
            raise damaged(f"puts the tensor {_shown(name)} into a file that is not beside it")
        shards.setdefault(file, set()).add(name)
    return {file: frozenset(names) for file, names in sorted(shards.items())}


def checkpoint_card(
    shape: Shape, stored: Iterable[StoredTensor], files: tuple[Path, ...], file_bytes: int
) -> ModelCard:
    """Return the card of a checkpoint of ``shape``: its ``stored`` tensors under GGUF's names, experts joined.

    Bytes are the file's, scales and zeros counted to their matrix. Extents are the shape's, because a packed matrix
    no longer has its own; blocks that only predict further tokens are left out.
    """
    expected = dict(tensor_extents(shape))
    joined: dict[str, _Joined] = {}
    for tensor in stored:
        name, expert = gguf_name(tensor.name, shape.arch)
        if not _predicts(name, shape):
            joined.setdefault(name, _Joined()).add(tensor, expert)
    tensors = []
    for name, parts in joined.items():
        extents = expected.get(name) or parts.extents()
        if name.endswith("ffn_gate_up_exps.weight"):  # gate and up in one
            extents = (shape.hidden, 2 * shape.expert_feed_forward, shape.experts)
        kind = label(shape.stored) if parts.packed and shape.stored else parts.dtype.lower()
        tensors.append(Tensor(name, extents, kind, parts.bytes))
    missing = [name for name in ("token_embd.weight", "output_norm.weight") if name not in joined]
    if missing:
        raise ModelFileDamaged(f"{shown_path(files[0])}: holds no tensor that is {missing[0]}; fetch all parts of it")
    card = card_of(shape, tuple(tensors), _quantization(shape, tensors), files[0])
    return replace(card, files=files, file_bytes=file_bytes, exact=True)


def _quantization(shape: Shape, tensors: Iterable[Tensor]) -> str:
    totals: dict[str, int] = {}
    for tensor in tensors:
        totals[tensor.type] = totals.get(tensor.type, 0) + tensor.bytes
    return (label(shape.stored) if shape.stored else max(totals, key=lambda kind: totals[kind])).upper()


def _predicts(name: str, shape: Shape) -> bool:
    """Whether a tensor belongs to a block that predicts further tokens, which engines do not load."""
    block = _BLOCK.match(name)
    return name.startswith("mtp.") or (block is not None and int(block[1]) >= shape.layers)


class _Joined:
    """What stands for one tensor: the matrix and its scales, of every expert."""

    def __init__(self) -> None:
        self.bytes = 0
        self.packed = False
        self.dtype = ""
        self._shape: tuple[int, ...] = ()
        self._largest = 0
        self._experts: set[int] = set()

    def add(self, tensor: StoredTensor, expert: int) -> None:
        self.bytes += tensor.bytes
        self._experts.add(expert)
        self.packed = self.packed or tensor.dtype in ("I32", "U8", "I8", "F8_E4M3", "F8_E5M2")
        if tensor.bytes >= self._largest:
            self._largest, self._shape, self.dtype = tensor.bytes, tensor.shape, tensor.dtype

    def extents(self) -> tuple[int, ...]:
        """Return the largest piece's shape, fastest dimension first, with the number of experts behind."""
        experts = len(self._experts - {-1})
        return tuple(reversed(self._shape)) + ((experts,) if experts else ()) or (1,)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise ModelNotFound(f"{shown_path(path)}: no such file") from None
    except OSError as error:
        raise ModelError(f"{shown_path(path)}: cannot be read ({error.strerror or error})") from error
    if len(raw) > limit:
        raise ModelFileDamaged(f"{shown_path(path)}: is larger than {limit:,} bytes, more than any index has")
    return raw


def _shown(name: str) -> str:
    """Return a name from the file for one line of a message."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
