"""How fast a placement runs: a roofline over the bytes and operations of each device, as intervals."""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.plan.interval import Interval


@dataclass(frozen=True)
class Speed:
    """Tokens a second with ``depth`` tokens already in the context. ``limit`` names what decoding waits for."""

    depth: int
    prefill: Interval
    decode: Interval
    limit: str
