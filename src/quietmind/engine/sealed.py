"""Cutting a child off: the switches of its environment, and the namespaces of Linux that it is put into.

A sealed program has a network of its own, in which nothing but its own loopback answers; a Unix socket, which is a
file, is the only way in. Its processes have a room of their own too, so that none can outlive the first of them. Where
the kernel does not allow either, the switches are what is left. See namespaces(7) and user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# Of <linux/sched.h>, <sys/mount.h>, <sys/prctl.h>, <linux/sockios.h> and <linux/if.h>.
_NEWNS, _NEWUSER, _NEWPID, NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

PROCESSES = _NEWPID | _NEWNS  # process ids of their own are of use only with a /proc that tells them
AS_ANYBODY = _NEWUSER | NEWNET  # what takes no privileges

# What the engines and their libraries read before they call anybody: the Hugging Face libraries, vLLM, Ray, SGLang's
# and Gradio's counters, and the two conventions that many others follow.
SWITCHES: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",  # else it asks the routing table, which has nothing to say in here
    # Workers of one machine meet on the loopback, which is all there is, or all that they may listen on.
    "NCCL_SOCKET_IFNAME": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_USE_MODELSCOPE": "False",
    "SGLANG_USE_MODELSCOPE": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "disabled",
    "COMET_MODE": "DISABLED",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OTEL_SDK_DISABLED": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "NO_PROXY": "*",
}
# What a sealed child has no use for: ways out, and keys to what is out there, whatever they are called.
_DROPPED = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "HF_ENDPOINT"})
_SECRET = re.compile(r"_(?:TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return ``base`` with every hub and telemetry switch off, and without proxies, tokens and keys."""
    kept = {
        name: value
        for name, value in base.items()
        if name.upper() not in _DROPPED and name != "no_proxy" and not _SECRET.search(name)
    }
    return {**kept, **SWITCHES}


def possible() -> str | None:
    """Return None where this system lets us give a program a network of its own, else the reason it does not."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    # In a process of its own: trying forks and changes the process, and whoever asks may have threads.
    script = "from quietmind.engine import sealed; print(sealed.allowed(network=True)); sealed.enter(sealed.AS_ANYBODY)"
    tried = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    flags = tried.stdout.strip()
    if flags.isdecimal() and int(flags) & NEWNET:
        return None
    said = tried.stderr.strip().rpartition("\n")[2] or "no reason given"
    return f"the kernel refuses them ({said}): by max_user_namespaces, AppArmor or the rules of a container"


def allowed(*, network: bool) -> int:
    """Return the namespaces that this process may enter, the most that work; 0 for none.

    Each combination is tried in a process that is thrown away, from forks: call it only where there are no threads.
    """
    if sys.platform != "linux":
        return 0
    wanted = (PROCESSES | NEWNET, NEWNET, PROCESSES) if network else (PROCESSES,)
    for flags in (flags | user for flags in wanted for user in (0, _NEWUSER)):
        if _works(flags):
            return flags
    return 0


def enter(flags: int) -> None:
    """Put this process into the namespaces ``flags``, its children into those of processes. Raises OSError.

    The user stays who he is: without privileges he is mapped to himself alone, which is all that may be mapped.
    """
    if not flags:
        return
    user, group = os.geteuid(), os.getegid()
    _unshare(flags & ~_NEWNS)
    if flags & _NEWUSER:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    if flags & NEWNET:
        _raise_loopback()


def settle(flags: int) -> None:
    """Do what the first process inside the namespaces has to do: see its own processes in /proc. Raises OSError."""
    if flags & _NEWNS:
        _unshare(_NEWNS)
        _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE)
        _mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process ``signal_number`` when its parent, which has one thread, ends."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _works(flags: int) -> bool:
    outer = os.fork()
    if outer == 0:
        failed = 1
        with suppress(OSError):
            enter(flags)
            inner = os.fork()
            if inner == 0:
                with suppress(OSError):
                    settle(flags)
                    os._exit(0)
                os._exit(1)
            failed = os.waitpid(inner, 0)[1]
        os._exit(1 if failed else 0)
    return os.waitpid(outer, 0)[1] == 0


def _raise_loopback() -> None:
    """Bring ``lo`` up; a new network namespace has it down."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh22x", b"lo", 0)  # struct ifreq
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc().unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    if _libc().mount(source, target, kind, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
