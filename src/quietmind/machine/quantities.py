"""Sizes and rates as people and datasheets write them: ``96 GiB``, ``1792 GB/s``, ``503.8 TFLOPS``."""

from __future__ import annotations

import math
import re

from quietmind.base.units import GIB, KIB, MIB

_QUANTITY = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*([A-Za-z/]*)\s*")
_BYTES = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40,
}  # fmt: skip
_FLOPS = {"GFLOPS": 10**9, "TFLOPS": 10**12, "PFLOPS": 10**15}
_MOST = 1e18  # an exabyte, or an exaflop: past it, somebody has slipped with a unit


def read_bytes(given: object) -> int:
    """Return a size in bytes from ``96 GiB`` (2**30 each), ``128 GB`` (10**9 each) or a whole number of bytes.

    Raises ValueError that says what was expected.
    """
    value = _amount(given, _BYTES, 'a size like "96 GiB", "128 GB" or a whole number of bytes')
    if value != int(value):
        raise ValueError(f"{given!r} is not a whole number of bytes")
    return int(value)


def read_bandwidth(given: object) -> float:
    """Return bytes a second from ``1792 GB/s`` or a number of bytes a second. Raises ValueError."""
    units = {f"{unit}/s": scale for unit, scale in _BYTES.items()}
    return _positive(_amount(given, units, 'a bandwidth like "1792 GB/s" or a number of bytes a second'), given)


def read_flops(given: object) -> float:
    """Return operations a second from ``503.8 TFLOPS`` or a number of them. Raises ValueError."""
    return _positive(_amount(given, _FLOPS, 'a rate like "503.8 TFLOPS" or a number of operations a second'), given)


def _amount(given: object, units: dict[str, int], expected: str) -> float:
    """Return ``given`` in its base unit; whole numbers stay exact."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"{given!r} is not {expected}")
    value: float
    if isinstance(given, str):
        match = _QUANTITY.fullmatch(given)
        scale = units.get(match[2]) if match else None
        if match is None or scale is None:
            raise ValueError(f"{given!r} is not {expected}")
        value = int(match[1]) * scale if "." not in match[1] else float(match[1]) * scale
    else:
        value = given
    if not math.isfinite(value) or value > _MOST:
        raise ValueError(f"{given!r} is more than any machine has")
    if value < 0:
        raise ValueError(f"{given!r} is negative")
    return value


def _positive(value: float, given: object) -> float:
    if value == 0:
        raise ValueError(f"{given!r} is zero; leave out what is not known")
    return float(value)
