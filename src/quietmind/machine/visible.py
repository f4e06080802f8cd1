"""Which GPUs this process and its children may see, by the drivers' environment variables."""

from __future__ import annotations

from collections.abc import Sequence


def visible(uuids: Sequence[str | None], allowed: str | None) -> list[int]:
    """Return the indices that ``allowed`` (``CUDA_VISIBLE_DEVICES`` and its kin) leaves, in its order.

    ``uuids`` has one entry a GPU. Entries are indices or beginnings of UUIDs; the first that names none ends the
    list, as in NVIDIA's driver ("CUDA C++ Programming Guide", environment variables). None: all are visible.
    """
    if allowed is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in (part.strip() for part in allowed.split(",")):
        if entry.isdecimal():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matches = [index for index, uuid in enumerate(uuids) if entry and uuid and uuid.startswith(entry)]
        if len(matches) != 1 or matches[0] in found:
            break
        found += matches
    return found
