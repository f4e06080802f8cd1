"""The basis that the codec ``transform`` writes caches in: of one model, learned once from the person's own notes.

Layers are taken in groups of up to ``MOST_WIDTH`` channels. A token's vector x in a group is the K of all heads, before
their rotation, and the V, of every layer of the group. It is centred and weighted by how much each channel's error
costs; what the group before lets expect is taken off; and the rest is turned into its principal components:

    v = diag(s) (x - m)        y = U^T (v - B^T A^T v')        v = B^T A^T v' + U y

with v' of the group before as it was kept. With s^2 the rise of the KL divergence for each unit of error variance in a
channel, all components cost alike, so that one step size for all is the best there is (reverse water-filling; Cover &
Thomas, "Elements of Information Theory", 10.3.3). Components that spread less than ``LEAST_SPREAD`` of the finest step
are left out: nearly all would be 0. Not more, for tokens that are unlike the notes that were learned from reach
farther, and what is left out no finer step brings back: with three times as much, text behind a table lost five times
as much. Layers build on each other, and the expectation wins back a good part of what the division into groups costs:
2 to 18 % of the bits, the more the smaller the groups.

What it takes, for a group of width w, rank r and an expectation through p = w / ``NARROWING`` directions:
2 w (r + 2 p) bytes, and as many operations a token to read it. Qwen3-30B (48 layers of 2 x 4 x 128) has 24 groups of
w = 2,048; at r = 0.9 w they take 315 MB, and 0.31 GFLOP a token, that is 41 TFLOP for 131,072 tokens. A core with
AVX-512 makes 0.15 TFLOP a second of them, as many as its multipliers can: 43 ns a number of K and V, and 40 MB of
16-bit floats a second, of which entropy coding and rotation take a sixth. So cores are added up, or an accelerator
multiplies (codec/products.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.importance import Importance
from quietmind.kvstore.rotation import Rotation
from quietmind.kvstore.slots import SlotLayout

SUFFIX = ".basis"
MOST_WIDTH = 2048
NARROWING = 3
LEAST_SPREAD = 0.05

_MAGIC = b"QMBASIS1"
_LENGTH = struct.Struct("<I")
_LARGEST_HEADER = 1 << 20
_MOST_LAYERS = 4096
_DIGEST = hashlib.sha256().digest_size

# Of a run's fingerprint, what the numbers in its cache depend on; builds and cache types change only how they lie.
_SAME = ("weights", "rope", "adapters", "experts")

Widths = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Group:
    """The layers from ``first`` to before ``last``, of those that have a cache, and the components of their channels.

    ``mean`` and ``scale`` are float32 [width], ``matrix`` is float16 [width, rank] with orthonormal columns, and
    ``spread`` float32 [rank] is how far each component deviates from 0, falling. ``narrow`` float16
    [width of the group before, p] and ``widen`` float16 [p, width] are A and B; of the first group p is 0.
    """

    first: int
    last: int
    mean: Floats
    scale: Floats
    matrix: NDArray[np.float16]
    spread: Floats
    narrow: NDArray[np.float16]
    widen: NDArray[np.float16]

    @property
    def width(self) -> int:
        """Channels of a token."""
        return len(self.mean)

    @property
    def rank(self) -> int:
        """Components that are kept."""
        return len(self.spread)


@dataclass(frozen=True)
class Basis:
    """A model's basis. ``widths`` are each layer's channels of K and V, ``steps`` the step size of each level.

    ``note`` is what was measured when it was made, for people; ``importance`` is None where it is not known.
    """

    fingerprint: Fingerprint
    rotation: Rotation | None
    widths: Widths
    groups: tuple[Group, ...]
    steps: Mapping[str, float]
    note: Mapping[str, float | str]
    importance: Importance | None = None

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file but for its end, where the same stands, in hexadecimal."""
        whole = hashlib.sha256()
        for part in self._parts():
            whole.update(part)
        return whole.hexdigest()

    def _parts(self) -> Iterator[bytes]:
        """Yield the file that it is, but for its end."""
        header: dict[str, Any] = {
            "fingerprint": asdict(self.fingerprint),
            "rotation": None if self.rotation is None else self.rotation.to_json(),
            "widths": self.widths,
            "groups": [(group.first, group.last, group.rank, *group.narrow.shape) for group in self.groups],
            "steps": dict(self.steps),
            "note": dict(self.note),
        }
        if self.importance is not None:
            header["importance"] = self.importance.group
        described = json.dumps(header, sort_keys=True).encode()
        yield _MAGIC + _LENGTH.pack(len(described)) + described
        yield from (array.tobytes() for array in self._arrays())

    def _arrays(self) -> Iterator[NDArray[Any]]:
        for group in self.groups:
            yield from _arrays(group)
        if self.importance is not None:
            yield self.importance.direction.astype("<f4")

    def with_steps(self, steps: Mapping[str, float], note: Mapping[str, float | str] | None = None) -> Basis:
        """Return the basis for these levels, without the components that the finest has no use for."""
        finest = min(steps.values())
        groups = tuple(_cut(group, int((group.spread >= LEAST_SPREAD * finest).sum())) for group in self.groups)
        return replace(self, groups=groups, steps=dict(steps), note=dict(self.note if note is None else note))

    def require_fits(self, layout: SlotLayout) -> None:
        """Raise SnapshotNotUnderstood for a cache of another shape."""
        if widths_of(layout) != self.widths:
            raise SnapshotNotUnderstood("the basis is another model's; it is kept losslessly")

    def save(self, folder: Path) -> Path:
        """Write it to ``folder``, whole or not at all, and return its path. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _name(self.digest)
        partial = folder / f".{secrets.token_hex(8)}.partial"
        try:
            with partial.open("xb") as sink:
                for part in self._parts():
                    sink.write(part)
                sink.write(bytes.fromhex(self.digest))
                sink.flush()
                os.fsync(sink.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


def load(folder: Path, digest: str) -> Basis:
    """Return the basis with ``digest``. Raises SnapshotDamaged where it is gone or is not what was written."""
    try:
        content = (folder / _name(digest)).read_bytes()
    except OSError as error:
        raise SnapshotDamaged(
            f"the basis that it was written in cannot be read ({error.strerror}); read the notebook again"
        ) from error
    basis = _read(content)
    if content[-_DIGEST:].hex() != digest:
        raise _damaged("it is another one")
    return basis


def find(folder: Path, fingerprint: Fingerprint) -> Basis | None:
    """Return the newest basis of the model that ``fingerprint`` runs; None where there is none that can be read."""
    for path in of_model(folder, fingerprint):
        with suppress(SnapshotDamaged, OSError):
            return _read(path.read_bytes())
    return None


def of_model(folder: Path, fingerprint: Fingerprint) -> list[Path]:
    """Return the bases of the model that ``fingerprint`` runs, the newest first. Only their headers are looked at."""

    def age(path: Path) -> float:
        with suppress(OSError):
            return -path.stat().st_mtime
        return 0.0

    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=age):
        with suppress(SnapshotDamaged, OSError):
            if _serves(_fingerprint_of(path), fingerprint):
                found.append(path)
    return found


def widths_of(layout: SlotLayout) -> Widths:
    """Return the channels of K and V of each layer that has a cache."""
    values = {plane.layer: plane.width for plane in layout.values}
    return tuple((plane.width, values.get(plane.layer, 0)) for plane in layout.keys)


def grouped(widths: Widths, most: int = MOST_WIDTH) -> Iterator[tuple[int, int]]:
    """Yield from which layer to before which each group goes: as few as hold ``most`` channels, alike in size."""
    total = sum(map(sum, widths))
    count = min(len(widths), -(-total // most))
    bounds = [len(widths) * number // count for number in range(count + 1)] if count else []
    yield from itertools.pairwise(bounds)


def _arrays(group: Group) -> tuple[NDArray[Any], ...]:
    return (
        group.mean.astype("<f4"),
        group.scale.astype("<f4"),
        group.spread.astype("<f4"),
        group.matrix.astype("<f2"),
        group.narrow.astype("<f2"),
        group.widen.astype("<f2"),
    )


def _cut(group: Group, rank: int) -> Group:
    return replace(group, matrix=np.ascontiguousarray(group.matrix[:, :rank]), spread=group.spread[:rank])


def _name(digest: str) -> str:
    return digest[:32] + SUFFIX


def _serves(made: Fingerprint, wanted: Fingerprint) -> bool:
    return all(getattr(made, part) == getattr(wanted, part) for part in _SAME)


def _fingerprint_of(path: Path) -> Fingerprint:
    with path.open("rb") as source:
        header, _ = _header(source.read(len(_MAGIC) + _LENGTH.size + _LARGEST_HEADER))
    return Fingerprint.from_json(header.get("fingerprint"))


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """Return what a file says of itself, and where its arrays begin."""
    start = len(_MAGIC) + _LENGTH.size
    if not content.startswith(_MAGIC) or len(content) < start:
        raise _damaged("it is none")
    (length,) = _LENGTH.unpack_from(content, len(_MAGIC))
    if length > _LARGEST_HEADER or start + length > len(content):
        raise _damaged("it ends too early")
    try:
        header = json.loads(content[start : start + length])
    except (ValueError, RecursionError) as error:
        raise _damaged(str(error)) from error
    if not isinstance(header, dict):
        raise _damaged("its header says other things")
    return header, start + length


def _read(content: bytes) -> Basis:
    header, at = _header(content)
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise _damaged("it is not what was written")
    numbers = memoryview(content)[:-_DIGEST]
    try:
        widths = tuple((int(k), int(v)) for k, v in header["widths"])
        groups = []
        for first, last, rank, before, through in header["groups"]:
            width = sum(map(sum, widths[first:last]))
            arrays = []
            for kind, *shape in (
                ("<f4", width),
                ("<f4", width),
                ("<f4", rank),
                ("<f2", width, rank),
                ("<f2", before, through),
                ("<f2", through, width),
            ):
                count = math.prod(shape)
                arrays.append(np.frombuffer(numbers, kind, count, at).reshape(shape))
                at += arrays[-1].nbytes
            mean, scale, spread, matrix, narrow, widen = arrays
            groups.append(Group(first, last, mean, scale, matrix, spread, narrow, widen))
        importance = None
        if "importance" in header:
            number = int(header["importance"])
            direction = np.frombuffer(numbers, "<f4", groups[number].width, at)
            importance = Importance(number, direction)
            at += direction.nbytes
        rotation = None if header["rotation"] is None else Rotation.from_json(header["rotation"])
        fingerprint = Fingerprint.from_json(header["fingerprint"])
        basis = Basis(fingerprint, rotation, widths, tuple(groups), header["steps"], header["note"], importance)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _damaged(str(error)) from error
    if at != len(content) - _DIGEST:
        raise _damaged("it holds more than it says")
    return basis


def _damaged(what: str) -> SnapshotDamaged:
    return SnapshotDamaged(f"the basis that it was written in is damaged ({what}); calibrate again")
