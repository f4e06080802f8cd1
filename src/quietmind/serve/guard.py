"""Who may ask: requests to a loopback address by a loopback name, from no foreign web page, with the key if one is set.

A page of any website can have its own name resolve to 127.0.0.1 (DNS rebinding) and then read what it asks there; its
requests carry that name in Host, and a page that asks across origins carries its own in Origin. Neither passes here.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from quietmind.serve.refusal import Refusal, refuse


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is a name or address of this machine's loopback; IPv6 without its brackets."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """What a request must show. ``key`` None: none is demanded."""

    key: str | None = None

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, open_to_all: bool = False) -> Refusal | None:
        """Return why a request with these headers is refused; None lets it in.

        ``open_to_all`` lets it in without the key, not without the right names.
        """
        given: dict[bytes, list[str]] = {}
        for name, value in headers:
            given.setdefault(name.lower(), []).append(value.decode("latin-1"))
        hosts = given.get(b"host", [])
        if len(hosts) != 1 or not _names_loopback(f"http://{hosts[0]}"):
            return refuse(403, "the Host header names no loopback address; ask 127.0.0.1 or localhost", code="host")
        if not all(_names_loopback(origin) for origin in given.get(b"origin", [])):
            return refuse(403, "a web page of another origin may not ask here", code="origin")
        if open_to_all or self.key is None:
            return None
        offered = given.get(b"authorization", [])
        if len(offered) == 1 and secrets.compare_digest(offered[0].encode(), f"Bearer {self.key}".encode()):
            return None
        return refuse(401, "the key is missing or wrong; send `Authorization: Bearer KEY`", code="invalid_api_key")


def _names_loopback(address: str) -> bool:
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname  # the port is looked at for its ValueError alone
    except ValueError:
        return False
    plain = parts.path == "" and not parts.query and not parts.fragment and "@" not in parts.netloc
    return plain and parts.scheme in ("http", "https") and bool(host) and port != 0 and is_loopback(host or "")
