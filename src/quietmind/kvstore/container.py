"""The file that a snapshot is: a header, the token ids, and packed blocks, each with its own SHA-256.

    magic      8 bytes    "QMSNAP" and the format's version
    header     u32 length, then JSON (see Header), then its SHA-256
    tokens     4 bytes each, little-endian, then their SHA-256; how many stands in the header
    block      u32 length, packed bytes, SHA-256 over the block's number and its bytes; repeated
    end        u32 zero, u32 number of blocks, SHA-256 over the digests of all that came before

A header of version 1 has no note.

Every part is checked before it is used, and a file that ends anywhere else than after its end was not written whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.side_by_side import side_by_side
from quietmind.kvstore.fingerprint import Fingerprint

VERSION = 2
_READ = (1, VERSION)
_MAGIC = b"QMSNAP"
_START = struct.Struct("<6sH")
_U32 = struct.Struct("<I")
_DIGEST = hashlib.sha256().digest_size

# Sizes that a file may claim. A header is a few hundred bytes; contexts end at 2^31 positions in today's engines, and
# no codec makes blocks of more than a few MiB.
LARGEST_HEADER = 1 << 20
LARGEST_TOKENS = 1 << 28
LARGEST_BLOCK = 1 << 26


@dataclass(frozen=True)
class Header:
    """What a snapshot says of itself.

    ``label`` names it for people (the notebook's name). ``raw_bytes`` is the size of the engine's file, ``seconds``
    what reading the same tokens again took, which eviction weighs. ``cut`` says whether the engine can go back to a
    shorter prefix of it: not with recurrent states or sliding windows. ``note`` is what a codec or a check has
    measured, by name: a few finite numbers and texts.
    """

    fingerprint: Fingerprint
    label: str
    tokens: int
    codec: str
    raw_bytes: int
    seconds: float
    cut: bool
    made: str  # ISO 8601, UTC
    note: Mapping[str, float | str] = field(default_factory=dict, hash=False)


def write(sink: BinaryIO, header: Header, tokens: Sequence[int], blocks: Iterable[bytes]) -> int:
    """Write a snapshot and return its bytes. ``tokens`` are ids below 2^32, as many as the header says."""
    assert len(tokens) == header.tokens
    whole = hashlib.sha256()
    written = sink.write(_START.pack(_MAGIC, VERSION))
    content = json.dumps(asdict(header), sort_keys=True).encode()
    assert len(content) <= LARGEST_HEADER, "a note is a few numbers and texts"
    written += sink.write(_U32.pack(len(content)))
    for part in (content, _tokens_to_bytes(tokens)):
        digest = hashlib.sha256(part).digest()
        whole.update(digest)
        written += sink.write(part) + sink.write(digest)
    count = 0
    for block in blocks:
        digest = _block_digest(count, block)
        whole.update(digest)
        written += sink.write(_U32.pack(len(block))) + sink.write(block) + sink.write(digest)
        count += 1
    return written + sink.write(_U32.pack(0) + _U32.pack(count) + whole.digest())


class Reader:
    """A snapshot that is being read. Raises SnapshotDamaged, with what is wrong, at the first part that is."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._whole = hashlib.sha256()
        magic, version = _START.unpack(self._take(_START.size))
        if magic != _MAGIC:
            raise SnapshotDamaged("it is no snapshot; remove it")
        if version not in _READ:
            raise SnapshotDamaged(
                f"it has format version {version}, and this program reads {VERSION}; read the notebook again"
            )
        self.header = _header(self._checked(self._length(LARGEST_HEADER)), noted=version > 1)
        self._at_end = False

    def tokens(self) -> array[int]:
        """Return the token ids. To be called once, before :meth:`blocks`."""
        return _bytes_to_tokens(self._checked(4 * self.header.tokens))

    def blocks(self) -> Iterator[bytes]:
        """Yield each packed block after its digest was checked, and then check the end.

        A few blocks are read and checked ahead, side by side.
        """
        yield from side_by_side(_checked_block, self._written())

    def _written(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield each block's number, its bytes and its digest, neither of which is checked; then check the end."""
        count = 0
        while length := self._length(LARGEST_BLOCK):
            block, digest = self._take(length), self._take(_DIGEST)
            self._whole.update(digest)
            yield count, block, digest
            count += 1
        if self._length(1 << 32) != count or self._take(_DIGEST) != self._whole.digest() or self._source.read(1):
            raise _damaged("its end is not what was written")
        self._at_end = True

    def require_end(self) -> None:
        """Raise SnapshotDamaged unless :meth:`blocks` has given, and checked, everything."""
        if not self._at_end:
            raise _damaged("it holds more than its codec has made")

    def _length(self, largest: int) -> int:
        (length,) = _U32.unpack(self._take(_U32.size))
        if length > largest:
            raise _damaged(f"a length of {length:,} makes no sense")
        return int(length)

    def _checked(self, size: int) -> bytes:
        content, digest = self._take(size), self._take(_DIGEST)
        if hashlib.sha256(content).digest() != digest:
            raise _damaged("its header or its tokens are not what was written")
        self._whole.update(digest)
        return content

    def _take(self, size: int) -> bytes:
        content = self._source.read(size)
        if len(content) != size:
            raise _damaged("it ends too early")
        return content


def _header(content: bytes, *, noted: bool) -> Header:
    try:
        given = json.loads(content)
        if ("note" in given) is not noted:
            raise ValueError("a note in another version")
        fingerprint = Fingerprint.from_json(given.pop("fingerprint"))
        header = Header(fingerprint=fingerprint, **given)
        _require_kinds(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(f"its header cannot be read ({error})") from error
    return header


def _require_kinds(header: Header) -> None:
    numbers: tuple[tuple[Any, int], ...] = ((header.tokens, LARGEST_TOKENS), (header.raw_bytes, 1 << 50))
    if not all(isinstance(value, int) and 0 <= value <= largest for value, largest in numbers):
        raise ValueError("sizes that make no sense")
    texts: tuple[Any, ...] = (header.label, header.codec, header.made)
    if not all(isinstance(text, str) for text in texts) or not isinstance(header.seconds, int | float):
        raise ValueError("fields of another kind")
    note: Any = header.note
    if not isinstance(note, dict) or not all(
        isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value)) for value in note.values()
    ):
        raise ValueError("a note of another kind")


def _checked_block(written: tuple[int, bytes, bytes]) -> bytes:
    number, block, digest = written
    if _block_digest(number, block) != digest:
        raise _damaged(f"block {number + 1:,} is not what was written")
    return block


def _block_digest(number: int, block: bytes) -> bytes:
    digest = hashlib.sha256(_U32.pack(number))  # two blocks that change places are found out
    digest.update(block)
    return digest.digest()


def _damaged(what: str) -> SnapshotDamaged:
    return SnapshotDamaged(f"{what}; read the notebook again")


def _tokens_to_bytes(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}I", *tokens)


def _bytes_to_tokens(content: bytes) -> array[int]:
    return array("I", struct.unpack(f"<{len(content) // 4}I", content))
