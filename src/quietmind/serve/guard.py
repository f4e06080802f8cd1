"""Who may ask: requests to a right name of this address, from no foreign web page, with the key if one is set.

A page of any website can have its own name resolve to 127.0.0.1 (DNS rebinding) and then read what it asks there; its
requests carry that name in Host, and a page that asks across origins carries its own in Origin. Neither passes here.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from quietmind.base.errors import UsageError
from quietmind.serve.refusal import Refusal, refuse

# What Obsidian's pages are called: on a computer, on iOS. On Android they are a page of localhost.
APPS = frozenset({"app://obsidian.md", "capacitor://localhost"})
WRONG_KEY = "invalid_api_key"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


@lru_cache(maxsize=64)  # a client says the same in every request
def is_loopback(host: str) -> bool:
    """Say whether ``host`` is a name or address of this machine's loopback; IPv6 without its brackets."""
    if host.lower().rstrip(".") == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


@dataclass(frozen=True)
class Guard:
    """What a request must show. ``key`` None: none is demanded.

    ``hosts`` are the names and addresses that are right in Host beside the loopback's; with ``any_address`` every
    address is, where all of this machine's are listened on: no website can be called by a number. ``origins`` are the
    pages that may ask beside those of this address and of the loopback.
    """

    key: str | None = None
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = APPS
    any_address: bool = False

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, open_to_all: bool = False) -> Refusal | None:
        """Return why a request with these headers is refused; None lets it in.

        ``open_to_all`` lets it in without the key, not without the right names.
        """
        given = _by_name(headers)
        return self._names_refused(given) or (None if open_to_all else self._key_refused(given))

    def origin_of(self, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Return the origin of the page that asks, where it may; None for one that may not, or where no page asks."""
        origins = [value for name, value in headers if name.lower() == b"origin"]
        if len(origins) != 1 or self._names_refused(_by_name(headers)) is not None:
            return None
        return origins[0].decode("latin-1")

    def _names_refused(self, given: Mapping[bytes, list[str]]) -> Refusal | None:
        hosts = given.get(b"host", [])
        asked = _plain(f"http://{hosts[0]}") if len(hosts) == 1 else None
        if asked is None or not self._is_ours(asked.hostname or ""):
            ours = "this address" if self.hosts or self.any_address else "a loopback address"
            message = f"the Host header does not name {ours}; ask 127.0.0.1 or localhost, or allow it with --allow-host"
            return refuse(403, message, code="host")
        if not all(self._may_ask(origin, hosts[0]) for origin in given.get(b"origin", [])):
            message = "a web page of another origin may not ask here, unless it is named with --allow-origin"
            return refuse(403, message, code="origin")
        return None

    def _key_refused(self, given: Mapping[bytes, list[str]]) -> Refusal | None:
        if self.key is None:
            return None
        shown = {*map(_bearer, given.get(b"authorization", [])), *given.get(b"x-api-key", [])}
        # In constant time, which tells nothing of how much of a key was right. Some clients show it in both places.
        if len(shown) == 1 and secrets.compare_digest(next(iter(shown)).encode(), self.key.encode()):
            return None
        state = "wrong" if shown else "missing"
        return refuse(401, f"the key is {state}; send `Authorization: Bearer KEY`", code=WRONG_KEY)

    def _is_ours(self, host: str) -> bool:
        return is_loopback(host) or host in self.hosts or (self.any_address and _address(host) is not None)

    def _may_ask(self, origin: str, host: str) -> bool:
        if origin in self.origins:
            return True
        page = _plain(origin)
        if page is None or page.scheme not in _DEFAULT_PORTS:
            return False
        if is_loopback(page.hostname or ""):
            return True
        asked = _plain(f"{page.scheme}://{host}")
        return asked is not None and _place(page) == _place(asked)


def shows_key(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Say whether a request shows a key, right or wrong."""
    return any(name.lower() in (b"authorization", b"x-api-key") for name, _ in headers)


def host_name(text: str) -> str:
    """Return a name or address as it stands in Host, without port. Raises UsageError for what is neither."""
    name = text.strip().lower().removeprefix("[").removesuffix("]").rstrip(".")
    if (address := _address(name)) is not None:
        return str(address)
    if not _NAME.fullmatch(name):
        raise UsageError(f"{text!r} is no host name; write one such as notes.example.net, without scheme and port")
    return name


def origin_name(text: str) -> str:
    """Return an origin as browsers write it: ``https://name:port``. Raises UsageError for what is none."""
    if text.strip() == "file://":  # the files of an Electron program; a browser calls a file's page null
        return "file://"
    page = _plain(text.strip().rstrip("/"))
    if page is None or not page.scheme:
        raise UsageError(f"{text!r} is no origin; write one such as https://notes.example.net or app://obsidian.md")
    host, port = _place(page)
    shown = f"[{host}]" if ":" in host else host
    return f"{page.scheme}://{shown}" + (f":{port}" if port not in (None, _DEFAULT_PORTS.get(page.scheme)) else "")


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[str]]:
    given: dict[bytes, list[str]] = {}
    for name, value in headers:
        given.setdefault(name.lower(), []).append(value.decode("latin-1"))
    return given


def _bearer(shown: str) -> str:
    scheme, _, key = shown.partition(" ")
    return key if scheme.lower() == "bearer" else ""


@lru_cache(maxsize=64)
def _plain(address: str) -> SplitResult | None:
    """Return the parts of an address that is a scheme, a host and perhaps a port; None for any other."""
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError:
        return None
    plain = parts.path == "" and not parts.query and not parts.fragment and "@" not in parts.netloc
    return parts if plain and host and port != 0 else None


def _place(parts: SplitResult) -> tuple[str, int | None]:
    return (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
