"""Reading and printing quantities. Bytes are bytes; people are shown GiB (2**30) and are told so."""

from __future__ import annotations

import re
from fractions import Fraction

from quietmind.base.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

LARGEST_COUNT = 10**12  # of tokens, threads, ...: beyond every model and machine, and still exact in a float
_COUNT = re.compile(r"\s*(\d{1,13}(?:\.\d{1,13})?)\s*([kKmM]?)\s*")
_SHOWN = 40  # characters of what was typed that an error repeats


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
    such number, not a positive one, or above LARGEST_COUNT.
    """
    shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"
    match = _COUNT.fullmatch(text)
    if match is None:
        raise UsageError(f"{shown} is not a number of tokens; write it like 4096, 32k or 1M")
    tokens = Fraction(match[1]) * {"": 1, "k": KIB, "m": MIB}[match[2].lower()]
    if tokens.denominator != 1 or tokens < 1:
        raise UsageError(f"{shown} is not a positive whole number of tokens; write it like 4096, 32k or 1M")
    if tokens > LARGEST_COUNT:
        raise UsageError(f"{shown} is more tokens than any model takes; write it like 4096, 32k or 1M")
    return int(tokens)
