"""The seal, the clock, the language and the Python that this program runs in."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing

from quietmind.workspace.doctor.finding import Finding, better, fine, hinders

# No computer that runs this has a clock that is right and shows less: 2026-01-01, in seconds since 1970.
_EARLIEST_NOW = 1_767_225_600


def sealing(reason: str | None) -> list[Finding]:
    """Say whether engines are cut off from the network by the kernel; ``reason`` is why not."""
    if reason is None:
        return [fine("sealing", "engines run in a network of their own, in which nothing outside answers")]
    text = f"engines keep to the loopback by their settings alone: {reason}"
    if "only Linux" in reason:
        return [fine("sealing", text)]
    command = "sudo sysctl user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0"
    return [better("sealing", text, f"{command}; in a container, start that with namespaces allowed")]


def check() -> list[Finding]:
    """Look at the clock, the encodings, the temporary folder and SQLite."""
    return [
        *clock(time.time()),
        *encodings(sys.getfilesystemencoding(), getattr(sys.stdout, "encoding", None)),
        *temporary_folder(os.environ.get("TMPDIR")),
        *full_text(),
    ]


def clock(now: float) -> list[Finding]:
    """Say where the clock is years behind: certificates are then not yet valid, and the log's times make no sense."""
    if now >= _EARLIEST_NOW:
        return []
    shown = time.strftime("%Y-%m-%d", time.gmtime(now))
    return [hinders("clock", f"it says {shown}, so that nothing can be fetched", "sudo timedatectl set-ntp true")]


def encodings(file_system: str, output: str | None) -> list[Finding]:
    """Say where names of files or what is printed cannot be Russian."""
    findings = []
    if file_system.lower().replace("-", "") != "utf8":
        text = f"names of files are {file_system}, and those of notes are UTF-8"
        findings.append(hinders("language", text, "export LANG=C.UTF-8"))
    if output is not None and output.lower().replace("-", "") != "utf8":
        text = f"output is {output}, and letters that it lacks are printed as escapes"
        findings.append(better("language", text, "export PYTHONIOENCODING=utf-8"))
    return findings


def temporary_folder(given: str | None) -> list[Finding]:
    """Say where no temporary file can be made, which engines' logs and sockets take."""
    try:
        with tempfile.TemporaryFile(dir=given):
            return []
    except OSError as error:
        text = f"no file can be made in {given or tempfile.gettempdir()} ({error.strerror})"
        return [hinders("temporary files", text, "export TMPDIR=FOLDER, with a folder that can be written to")]


def full_text() -> list[Finding]:
    """Say where Python's SQLite has no full-text search, without which there is no index."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
        except sqlite3.OperationalError as error:
            text = f"SQLite {sqlite3.sqlite_version} of this Python has no full-text search ({error})"
            return [hinders("SQLite", text, "use another Python, one of python.org or of uv")]
    return []
