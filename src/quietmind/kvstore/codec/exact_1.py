"""The first form of the lossless codec, for snapshots that are stored in it: every plane packed, blocks of 4 MiB."""

from __future__ import annotations

from collections.abc import Iterable

from quietmind.kvstore.codec.exact import fill

BLOCK_BYTES = 4 << 20


class Exact1:
    """Lossless; read only."""

    name = "exact-1"

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        """Fill ``target``. Raises SnapshotDamaged."""
        fill(target, blocks, name=self.name, block_bytes=BLOCK_BYTES, plain=False)
