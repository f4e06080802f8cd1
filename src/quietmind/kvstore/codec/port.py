"""What every codec does, and the list of them by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

from quietmind.base.errors import SnapshotDamaged


class Codec(Protocol):
    """Turns the bytes that an engine saved into packed blocks, and back.

    Neither direction ever holds the whole cache: blocks are made and used one at a time. ``name`` is what a snapshot's
    header says; a change that old blocks cannot be read with takes a new name.
    """

    name: str

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the packed blocks of the next ``size`` bytes of ``source``. Raises EOFError where there are fewer."""

    def decode(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the bytes that the engine saved, in order. Raises SnapshotDamaged for what ``encode`` cannot yield.

        That the blocks are the ones that were written is for the caller to check, before they come here.
        """


def codec_named(name: str) -> Codec:
    """Return a codec. Raises SnapshotDamaged for a name that this program does not know."""
    from quietmind.kvstore.codec.exact import Exact

    known: dict[str, Codec] = {codec.name: codec for codec in (Exact(),)}
    try:
        return known[name]
    except KeyError:
        raise SnapshotDamaged(
            f"codec {name!r} is not known to this version; known are {', '.join(known)}: read the notebook again"
        ) from None


def exactly(source: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes. Raises EOFError where there are fewer."""
    piece = source.read(size)
    if len(piece) != size:
        raise EOFError(f"{size:,} bytes were expected and {len(piece):,} came")
    return piece
