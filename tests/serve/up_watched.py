"""Runs `quietmind up` as a person with loose habits would, asks it as the page does, and prints what was seen of it.

Started with the workspace, in a network of its own where that is possible: two ends of a cable lead out of it, and
every packet that goes there is counted. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil

NOBODY = 65534
_CABLE = """
echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link set lo up && ip link add out type veth peer name far && ip address add 10.77.0.1/24 dev out &&
ip link set far up && ip link set out up && ip route add default via 10.77.0.2
"""


def packets() -> int | None:
    """Return how many packets have left by the cable; None where there is none."""
    with suppress(OSError):
        for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == "out":
                return int(numbers.split()[9])
    return None


@contextmanager
def remotes(process: psutil.Process) -> Iterator[set[str]]:
    """Yield the addresses that a process and all below it are connected to, as they are seen."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            with suppress(psutil.Error):
                for each in (process, *process.children(recursive=True)):
                    with suppress(psutil.Error):
                        seen.update(found.raddr.ip for found in each.net_connections("inet") if found.raddr)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


def asked_as_the_page_does(url: str, question: str) -> list[int]:
    """Open the page with all that it loads, ask, follow the citations; return the statuses."""
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
        answers = [client.get("/", headers={"accept": "text/html"})]
        loaded = re.findall(r'(?:src|href)="(/[^"]+)"', answers[0].text)
        paths = [
            *loaded,
            "/page/status",
            "/page/plan",
            "/page/notebooks",
            "/page/queue",
            "/page/settings",
            "/v1/models",
        ]
        answers += [client.get(path) for path in (*paths, "/metrics", "/health", "/openapi.json")]
        body = {
            "model": "archive",
            "stream": True,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": question}],
        }
        answers.append(client.post("/v1/chat/completions", json=body))
        answers.append(client.post("/v1/chat/completions", json={**body, "stream": False, "model": "tiny"}))
        answers.append(client.post("/v1/chat/completions", content=f'{{"model": "{question}"'))
        answers.append(client.get("/page/lines", params={"path": question, "first": "x"}))
        return [answer.status_code for answer in answers]


def readable_by(user: int, files: list[Path]) -> list[str]:
    """Return those of ``files`` that another user can open."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        found = []
        for file in files:
            with suppress(OSError):
                os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK))
                found.append(str(file))
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        found = json.load(said)
    os.waitpid(child, 0)
    return list(found)


def heard(manager: socket.socket) -> str:
    """Return what the service manager was told since the last time."""
    with suppress(BlockingIOError):
        return manager.recv(4096).decode()
    return ""


def main(workspace: Path, question: str) -> dict[str, Any]:
    """Return what was seen."""
    subprocess.run(["sh", "-c", _CABLE], check=False, capture_output=True)
    os.umask(0)
    command = [sys.executable, "-m", "quietmind", "up", "tiny", "--context", "2048", "--threads", "1", "--port", "0"]
    meeting = workspace.with_name("run")
    meeting.mkdir()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # what systemd would listen at
    manager.bind(str(workspace.with_name("manager")))
    manager.setblocking(False)
    before = packets()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "QUIETMIND_WORKSPACE": str(workspace),
            "XDG_RUNTIME_DIR": str(meeting),
            "NOTIFY_SOCKET": manager.getsockname(),
        },
    ) as up:
        assert up.stdout is not None
        with remotes(psutil.Process(up.pid)) as seen:
            line = up.stdout.readline()
            told = [heard(manager)]
            url = re.search(r"http://127\.0\.0\.1:\d+", line)
            statuses = asked_as_the_page_does(url[0], question) if url is not None else []
            time.sleep(0.2)
        files = [file for place in (workspace, meeting) for file in place.rglob("*")]
        loose = [str(file) for file in files if file.lstat().st_mode & 0o077]
        read = readable_by(NOBODY, files) if os.geteuid() == 0 else None
        up.terminate()
        rest, errors = up.communicate(timeout=30)
        told.append(heard(manager))
        manager.close()
    after = packets()
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lost:
        lost.sendto(b"x", ("192.0.2.1", 9))  # that the cable counts
        time.sleep(0.2)
    return {
        "said": line + rest + errors,
        "told_the_manager": told,
        "statuses": statuses,
        "packets": None if before is None or after is None else after - before,
        "counted": packets(),
        "remotes": sorted(seen),
        "files": [str(file) for file in files],
        "loose": loose,
        "read_by_nobody": read,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
