"""What every codec does, and the list of them by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from quietmind.base.errors import SnapshotDamaged


class Decoder(Protocol):
    """Turns packed blocks back into the bytes that an engine saved.

    ``name`` is what a snapshot's header says; a change that old blocks cannot be read with takes a new name.
    """

    name: str

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target``, which is as long as what the engine saved, with those bytes: all of it, in any order.

        ``target`` is flat, writable bytes, and may be written from several threads; none of them uses it any more
        once this returns or raises. ``blocks`` are taken one after the other, in one thread at a time, to their end:
        each is as it was written, which the caller checks as they come. Raises SnapshotDamaged for what ``encode``
        cannot yield, fewer or more bytes than ``target`` holds included; ``target`` may then hold anything.
        """


class Codec(Decoder, Protocol):
    """Turns the bytes that an engine saved into packed blocks, and back."""

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the packed blocks of the next ``size`` bytes of ``source``. Raises EOFError where there are fewer.

        Never holds the whole cache: blocks are made one at a time, none longer than ``container.LARGEST_BLOCK``.
        """


def codec_named(name: str, bases: Path | None = None) -> Decoder:
    """Return what reads a codec's blocks. Raises SnapshotDamaged for a name that this program does not know.

    ``bases`` is the folder in which codecs find, by digest, what their blocks refer to; None where there is none.
    """
    # Each codec is imported where it is asked for: one of them may need much that another does not.
    match name:
        case "exact-2":
            from quietmind.kvstore.codec.exact import Exact

            return Exact()
        case "exact-1":
            from quietmind.kvstore.codec.exact_1 import Exact1

            return Exact1()
        case "perchannel-1":
            from quietmind.kvstore.codec.perchannel import PerChannel

            return PerChannel()
        case "transform-1" | "transform-2" | "transform-3" | "transform-4" if bases is not None:
            from quietmind.kvstore.codec.transform import FORMS, TransformReader

            return TransformReader(bases, FORMS[name])
    raise SnapshotDamaged(f"codec {name!r} is not known to this version; read the notebook again, or update quietmind")


def exactly(source: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes. Raises EOFError where there are fewer."""
    piece = source.read(size)
    if len(piece) != size:
        raise EOFError(f"{size:,} bytes were expected and {len(piece):,} came")
    return piece
