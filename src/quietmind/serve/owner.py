"""Who on this machine asks: the user whose socket the other end of a connection of the loopback is.

The loopback is open to all users of a machine, and what is asked there is read out of one person's notes. Linux says
whose a socket is (sock_diag(7)); where it does not, or on another system, nobody knows, and a key is what helps.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from contextlib import suppress

# Of <linux/netlink.h>, <linux/sock_diag.h> and <linux/inet_diag.h>.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ASKED = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, padding, states; then the socket
_SOCKET = struct.Struct("!HH16s16s")  # inet_diag_sockid: source and destination port and address
_ANY_INTERFACE_NO_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_UID_AT = _HEADER.size + 4 + 48 + 3 * 4  # inet_diag_msg: four bytes, the socket, expires, rqueue, wqueue, uid
_WAIT_SECONDS = 0.2

# Where the state of a connection has it.
OWNER = "quietmind.owner"

Place = tuple[str, int]


def owner_of(theirs: Place, ours: Place) -> int | None:
    """Return the user id of whoever holds the end ``theirs`` of a TCP connection to ``ours``, both of this machine.

    None where the system does not say, or the other end is gone or elsewhere.
    """
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError, struct.error):
        addresses = [ipaddress.ip_address(place[0]) for place in (theirs, ours)]
        if not all(address.is_loopback for address in addresses):
            return None
        family = socket.AF_INET if addresses[0].version == 4 else socket.AF_INET6
        packed = [address.packed for address in addresses]
        asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
        asked += _SOCKET.pack(theirs[1], ours[1], *packed) + _ANY_INTERFACE_NO_COOKIE
        head = _HEADER.pack(_HEADER.size + len(asked), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_WAIT_SECONDS)
            kernel.send(head + asked)
            said = kernel.recv(4096)
        if _HEADER.unpack_from(said)[1] == _SOCK_DIAG_BY_FAMILY:
            return int(struct.unpack_from("=I", said, _UID_AT)[0])
    return None


def is_foreign(owner: int | None) -> bool:
    """Say whether ``owner`` is another user of this machine than the one who serves, and not root."""
    return owner is not None and owner not in (0, os.geteuid())
