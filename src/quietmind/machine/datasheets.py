"""What datasheets say of a GPU and its driver does not: memory bandwidth and operations a second, by exact name."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from quietmind.machine.quantities import read_bandwidth, read_flops

_TABLE = Path(__file__).parent / "gpus.toml"


@dataclass(frozen=True)
class Datasheet:
    """Theoretical peaks: bytes a second of the GPU's memory, dense half-precision operations a second."""

    bandwidth_bytes_per_s: float | None = None
    flops: float | None = None


def datasheet(name: str) -> Datasheet:
    """Return the datasheet of the GPU that the driver calls ``name``; of an unknown one, nothing."""
    return _table().get(name.removeprefix("NVIDIA ").removeprefix("AMD "), Datasheet())


def datasheet_like(text: str) -> Datasheet:
    """Return the datasheet of the GPU whose name holds every word of ``text``, as people write it ("RTX 5090").

    Of several the one with the shortest name; of none, nothing.
    """
    words = text.casefold().replace("nvidia", "").split()
    found = [name for name in _table() if words and all(word in name.casefold().split() for word in words)]
    return _table()[min(found, key=len)] if found else Datasheet()


@functools.cache
def _table() -> dict[str, Datasheet]:
    entries = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {
        name: Datasheet(read_bandwidth(entry["bandwidth"]), read_flops(entry["flops"]) if "flops" in entry else None)
        for name, entry in entries.items()
    }
