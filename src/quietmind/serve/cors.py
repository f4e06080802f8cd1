"""What browsers are told about pages of other origins that may ask here (Fetch standard, "CORS protocol").

An origin that may not ask gets none of these headers, so its browser keeps the answer from it; no cookie is ever used,
so nothing is said of credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

_METHODS = b"GET, HEAD, POST, DELETE"
# What a page may read of an answer beside the few headers that every page may.
_EXPOSED = b"content-length, mcp-protocol-version, mcp-session-id, retry-after, x-queue-position"
_REMEMBERED_SECONDS = b"600"
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2000}")


def is_preflight(method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Say whether a browser asks here whether it may ask."""
    return method == "OPTIONS" and _value(headers, b"access-control-request-method") is not None


def preflight(headers: Headers) -> Headers:
    """Return what a browser is told, beside what goes with every answer, of what a page that may ask may send."""
    allowed = [(b"access-control-allow-methods", _METHODS)]
    wanted = _value(headers, b"access-control-request-headers")
    if wanted is not None and _TOKENS.fullmatch(wanted):  # any: clients have headers of their own, x-stainless-* say
        allowed.append((b"access-control-allow-headers", wanted))
    if _value(headers, b"access-control-request-private-network") == b"true":
        allowed.append((b"access-control-allow-private-network", b"true"))
    return [*allowed, (b"access-control-max-age", _REMEMBERED_SECONDS)]


def answer(origin: str | None) -> Headers:
    """Return what goes with every answer; ``origin`` is that of a page that may read it, None where there is none."""
    told = [(b"vary", b"origin")]
    if origin is not None:
        told += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", _EXPOSED),
        ]
    return told


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name.lower() == wanted), None)
