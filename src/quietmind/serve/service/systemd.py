"""``--as systemd``'s unit for `quietmind up`, for the person's own service manager (``systemctl --user``).

What a person's own manager cannot do (it may not make user namespaces, or load BPF) it leaves out without a word, as
systemd.exec(5) says of options that only confine; ``systemd-analyze --user security quietmind`` shows what is in force.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quietmind.engine.launch_files.systemd import systemd_command, systemd_word
from quietmind.serve.service.service import Service, comment_lines

# Caches of compiled kernels (CUDA, Triton, vLLM), and where the engines' sockets are; "-": they need not be there.
_CACHES = ("-%h/.cache", "-%h/.nv", "-%h/.triton", "-%t")


def render_systemd(service: Service) -> str:
    """Return the unit: told when it is ready, started again after a failure, confined to what it needs."""
    return "\n".join(
        (
            *(f"# {_printable(line)}".rstrip() for line in comment_lines(service, "systemd")),
            "",
            "[Unit]",
            "Description=quietmind: local models and the notes they know",
            "StartLimitIntervalSec=600",
            "StartLimitBurst=3",
            "",
            "[Service]",
            *_running(service),
            *_confined(service),
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        )
    )


def _running(service: Service) -> Iterator[str]:
    yield "Type=notify"
    yield "NotifyAccess=main"
    yield f"ExecStart={' '.join(_word(word) for word in service.command)}"
    yield "WorkingDirectory=%h"
    for name, value in service.environment.items():
        yield f"Environment={systemd_word(f'{name}={value}')}"
    yield "Restart=on-failure"
    yield "RestartSec=5"
    yield "# A large model takes minutes to load."
    yield "TimeoutStartSec=infinity"
    yield "# It ends its engines itself; what is left after half a minute is killed."
    yield "KillMode=mixed"
    yield "TimeoutStopSec=30"
    yield "# An engine that runs out of memory is started again, smaller; that ends nothing else."
    yield "OOMPolicy=continue"


def _confined(service: Service) -> Iterator[str]:
    writable = [systemd_word(f"-{folder}") for folder in service.writable]
    yield "UMask=0077"
    yield "# A core file would keep on the disk what the model has read."
    yield "LimitCORE=0"
    yield "NoNewPrivileges=yes"
    yield "PrivateTmp=yes"
    yield "# All files are there to be read, the notes among them; these alone may be written."
    yield "ProtectSystem=strict"
    yield f"ReadWritePaths={' '.join((*writable, *_CACHES))}"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "RestrictRealtime=yes"
    yield "RestrictSUIDSGID=yes"
    yield "LockPersonality=yes"
    yield "SystemCallArchitectures=native"
    if not service.shared:
        yield "# Nothing but the loopback, where the system lets a person's own units say so (it takes BPF)."
        yield "IPAddressDeny=any"
        yield "IPAddressAllow=localhost"


def _word(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9/._=-]+", word) else systemd_command(word)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line).rstrip("\\")  # which would take in the next line
