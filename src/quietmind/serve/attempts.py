"""Wrong keys: who shows them again and again waits ever longer for an answer, and is told to.

The right key always opens. Whoever comes through a tunnel, or from this machine, shares an address with all the others
there, so an address alone must never lock anybody out; what makes guessing hopeless is the length of the key.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_FREE = 5
_LONGEST = 300.0
_FORGET = 900.0
_MOST_PEERS = 4096


@dataclass(frozen=True)
class _Failures:
    count: int
    last: float


class Attempts:
    """The wrong keys of late, by the network that they came from. Remembers a bounded number of networks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Failures] = OrderedDict()

    def failed(self, peer: str) -> int:
        """Note a wrong key of ``peer`` and return for how many seconds it should not try again.

        0 for the first few, then 1, 2, 4, ... up to five minutes; a quarter of an hour without one is forgotten.
        """
        network, now = network_of(peer), self._clock()
        before = self._known.pop(network, None)
        count = 1 if before is None or now - before.last > _FORGET else before.count + 1
        self._known[network] = _Failures(count, now)
        while len(self._known) > _MOST_PEERS:
            self._known.popitem(last=False)
        over = count - _FREE
        return 0 if over <= 0 else int(min(2.0 ** min(over - 1, 32), _LONGEST))


def network_of(peer: str) -> str:
    """Return what one guesser has addresses of: an IPv4 address, or the 64 bits of IPv6 that a household is given."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
