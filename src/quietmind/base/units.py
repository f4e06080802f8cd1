"""Reading and printing quantities. Bytes are bytes; people are shown GiB (2**30) and are told so."""

from __future__ import annotations

import re

from quietmind.base.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_COUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmM]?)\s*")


def format_bytes(count: int) -> str:
    """Return ``count`` bytes for a person: ``512 B``, ``1.5 KiB``, ``92.1 MiB``, ``23.50 GiB``."""
    if count >= GIB:
        return f"{count / GIB:,.2f} GiB"
    if count >= MIB:
        return f"{count / MIB:.1f} MiB"
    if count >= KIB:
        return f"{count / KIB:.1f} KiB"
    return f"{count} B"


def parse_tokens(text: str) -> int:
    """Read a number of tokens: ``4096``, ``4k`` (4,096), ``128k`` (131,072), ``1M`` (1,048,576).

    The suffixes are powers of two, as in the names of context lengths. Raises UsageError when the text is no
    such number, or not a positive one.
    """
    match = _COUNT.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a number of tokens; write it like 4096, 32k or 1M")
    scale = {"": 1, "k": KIB, "m": MIB}[match[2].lower()]
    tokens = float(match[1]) * scale
    if tokens != int(tokens) or tokens < 1:
        raise UsageError(f"{text!r} is not a positive whole number of tokens; write it like 4096, 32k or 1M")
    return int(tokens)
