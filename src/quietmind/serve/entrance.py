"""Where is listened, and who is to be let in: what a person says of it, made consistent before anything starts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.base.errors import UsageError
from quietmind.serve.guard import APPS, Guard, host_name, is_loopback, origin_name

HOST = "127.0.0.1"
PORT = 4874  # "hush" on the keys of a telephone
KEY = "up.key"


@dataclass(frozen=True)
class Entrance:
    """The address, as asked for. ``port`` None: the usual one, or wherever the same models run already.

    ``hosts`` are names that it has elsewhere (a tunnel's), ``origins`` the web pages that may ask beside its own.
    ``certificate`` and ``certificate_key`` are PEM files for TLS; ``certificate_key`` None: it is in the same file.
    """

    host: str = HOST
    port: int | None = None
    key_file: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    certificate_key: Path | None = None

    @property
    def shared(self) -> bool:
        """Whether others can reach it: by its address, or by a name that leads here from elsewhere."""
        return not is_loopback(self.host) or any(not is_loopback(host_name(name)) for name in self.hosts)

    @property
    def everywhere(self) -> bool:
        """Whether every address of this machine is listened on."""
        return is_unspecified(self.host)

    def settled(self, workspace: Path) -> Entrance:
        """Return it with the file of the key, which what is shared demands; names and origins as requests have them.

        Raises UsageError for what makes no sense.
        """
        host_name(self.host)
        if self.certificate is None and self.certificate_key is not None:
            raise UsageError("--tls-key is of no use without --tls-cert; give both, as PEM files")
        if self.certificate is not None and is_loopback(self.host):
            raise UsageError(
                f"TLS is for an address that others can reach, and {self.host} is none; name one with --host"
            )
        return replace(
            self,
            key_file=workspace / KEY if self.key_file is None and self.shared else self.key_file,
            hosts=tuple(map(host_name, self.hosts)),
            origins=tuple(map(origin_name, self.origins)),
        )

    def guard(self, key: str | None) -> Guard:
        """Return what requests must show."""
        named = () if self.everywhere else (host_name(self.host),)
        return Guard(
            key, hosts=frozenset({*self.hosts, *named}), origins=APPS | set(self.origins), any_address=self.everywhere
        )

    @property
    def warning(self) -> str | None:
        """What a person should know of it, in one line; None where there is nothing."""
        if is_loopback(self.host) or self.certificate is not None:
            return None
        return (
            f"warning: without TLS everybody on the network of {self.host} can read along, the key too; "
            "give --tls-cert and --tls-key, or a tunnel"
        )


def is_unspecified(host: str) -> bool:
    """Say whether ``host`` stands for every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
