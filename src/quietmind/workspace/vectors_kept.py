"""Vectors that keep step with the notes while these are followed: made by a child that only gets time nobody wants.

A child, because a model may take gigabytes, hang or crash, and following goes on. It is there only while a passage
lacks a vector.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quietmind.workspace.embedding import NONE, Searcher, chosen

# Ends itself when we do, however we end: its standard input is closed then. What it has embedded by then stays.
_CHILD = """
import os, runpy, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module("quietmind", run_name="__main__", alter_sys=True)
"""
_SETTLE_SECONDS = 2.0  # what is saved every second is embedded once
_AGAIN_SECONDS, _LONGEST_SECONDS = 60.0, 3600.0  # after a failure, doubled each time
_JOIN_SECONDS = 10.0


def embedder_to_keep(folder: Path, setting: str | None) -> str | None:
    """Return the embedder whose vectors should keep step: one that the settings name, or whose vectors there are.

    None: nobody asked for any.
    """
    wanted = chosen(setting)
    if wanted == NONE:
        return None
    if setting:
        return wanted
    searcher = Searcher(folder, wanted)
    there = searcher.all_vectors()
    try:
        return wanted if any(searcher.wants(each) for each in there) else None
    finally:
        for each in there:
            each.close()


class VectorsKept:
    """Runs ``quietmind`` with ``arguments`` (an ``embed --json``) after each :meth:`follow`, never two at once.

    ``made`` is given what it printed where it embedded something, ``failed`` a line, once for each different failure;
    both from another thread. Use it as a context manager, or call ``close``.
    """

    def __init__(
        self, arguments: Sequence[str], made: Callable[[dict[str, Any]], None], failed: Callable[[str], None]
    ) -> None:
        self._command = (sys.executable, "-P", "-c", _CHILD, *arguments)
        self._made = made
        self._failed = failed
        self._asked = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="vectors", daemon=True)
        self._thread.start()

    def __enter__(self) -> VectorsKept:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def follow(self) -> None:
        """Have what lacks a vector get one, soon. Returns at once."""
        self._asked.set()

    def close(self) -> None:
        """End the child. Calling it again does nothing."""
        self._ended.set()
        self._asked.set()
        with self._lock:
            if self._child is not None:
                self._child.kill()  # whatever it does: what was embedded stays
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        wait, said = _AGAIN_SECONDS, ""
        while True:
            self._asked.wait()
            if self._ended.wait(_SETTLE_SECONDS):
                return
            self._asked.clear()
            failure = self._pass()
            if self._ended.is_set():
                return
            if failure is None:
                wait, said = _AGAIN_SECONDS, ""
                continue
            if failure != said:
                self._failed(failure)
            said = failure
            if self._ended.wait(wait):
                return
            wait = min(2 * wait, _LONGEST_SECONDS)
            self._asked.set()

    def _pass(self) -> str | None:
        """Run the child once; return a line that says what went wrong, None where nothing did."""
        with self._lock:
            if self._ended.is_set():
                return None
            try:
                self._child = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,  # Ctrl-C is ours to answer
                )
            except OSError as error:
                return f"vectors cannot be made ({error.strerror}); run `quietmind embed` when that is mended"
            child = self._child
            _hold_back(child.pid)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        with child, child.stdin:  # stays open until the child has ended
            errors: list[str] = []
            reading = threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True)
            reading.start()
            printed = child.stdout.read()
            reading.join()
            code = child.wait()
        with self._lock:
            self._child = None
        if code:
            return errors[-1].strip() if errors else f"`quietmind embed` ended with {code}"
        try:
            done = json.loads(printed)
        except ValueError:
            return "`quietmind embed` did not say what it did; run it yourself to see why"
        if done["embedded"]:
            self._made(done)
        return None


def _hold_back(process: int) -> None:
    """Let ``process`` have what time and what turns at the disk nobody else wants, as far as the system knows such."""
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        child = psutil.Process(process)
        child.nice(19)
        if hasattr(psutil, "IOPRIO_CLASS_IDLE"):
            child.ionice(psutil.IOPRIO_CLASS_IDLE)
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))
