"""A cache packed on trial: what would be stored of it can be looked at first, and is packed only once.

A snapshot's header says what was measured of its blocks, so they have to be there before it is written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.port import Codec, codec_named
from quietmind.kvstore.mapping import mapped

_LENGTH = struct.Struct("<I")


class Draft:
    """The packed blocks of one cache, in a file of their own. Implements Codec, for that cache alone.

    ``bytes`` is the size of all blocks, ``raw_bytes`` that of the engine's file.
    """

    def __init__(self, source: Path, codec: Codec, file: Path) -> None:
        """Pack the engine's file ``source`` into ``file``. Raises what ``codec`` raises, OSError."""
        self.name = codec.name
        self.raw_bytes = source.stat().st_size
        self.bytes = 0
        self._codec = codec
        self._file = file
        with source.open("rb") as content, file.open("xb") as sink:
            for block in codec.encode(content, self.raw_bytes):
                sink.write(_LENGTH.pack(len(block)))
                self.bytes += sink.write(block)

    def unpack(self, target: Path, bases: Path) -> None:
        """Write to ``target`` what the engine would be given of it; the codec is found by its name, as in a store.

        Raises SnapshotDamaged, OSError.
        """
        with target.open("x+b") as sink, mapped(sink, self.raw_bytes) as content:
            codec_named(self.name, bases).decode(self._blocks(), content)

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the blocks that are there already; ``source`` is not read."""
        assert size == self.raw_bytes, "a draft is of one cache"
        yield from self._blocks()

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target`` as the codec does that has packed it. Raises SnapshotDamaged."""
        self._codec.decode(blocks, target)

    def _blocks(self) -> Iterator[bytes]:
        with self._file.open("rb") as packed:
            while head := packed.read(_LENGTH.size):
                length = int.from_bytes(head, "little")
                block = packed.read(length)
                if len(head) < _LENGTH.size or len(block) < length:
                    raise SnapshotDamaged("what was packed has changed while it was looked at; read the notebook again")
                yield block
