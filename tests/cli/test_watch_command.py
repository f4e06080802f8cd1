"""``quietmind watch``: one line for each batch, one watcher for each workspace, an end at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]
Watcher = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    """Start ``quietmind watch`` with these arguments; what still runs at the end is killed."""
    pytest.importorskip("watchfiles")
    environment = os.environ | {
        "QUIETMIND_WORKSPACE": str(tmp_path / "workspace"),
        "QUIETMIND_SETTINGS": str(tmp_path / "settings.toml"),
        "PYTHONIOENCODING": "utf-8",
    }
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quietmind", "watch", *arguments]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, encoding="utf-8", env=environment, cwd=tmp_path)
        started.append(child)
        return child

    yield start
    for child in started:
        with child:
            child.kill()


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


def test_changes_are_told_and_found_and_a_signal_ends_it(
    quietmind: Quietmind, watcher: Watcher, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова")
    quietmind("index", "notes")
    watching = watcher()
    assert line_of(watching.stdout)[10:].startswith("notes: 1 note, read in ")
    (tmp_path / "notes" / "b.md").write_text("The zanzibar sensor is green.")
    assert line_of(watching.stdout)[10:].startswith("notes: 1 added, searchable after ")
    assert json.loads(quietmind("search", "zanzibar", "--json").stdout)[0]["path"].endswith("b.md")
    second = quietmind("watch")
    assert (second.returncode, second.stdout) == (1, "")
    assert "follows its notes already" in second.stderr
    assert second.stderr.count("\n") == 1
    watching.send_signal(signal.SIGTERM)
    assert watching.communicate(timeout=60) == ("", "")
    assert watching.returncode == 0


def test_json_is_one_document_a_line_and_ctrl_c_ends_it(quietmind: Quietmind, watcher: Watcher, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("слова")
        quietmind("index", name)
    watching = watcher("b", "--json", "--poll", "0.1")
    told = json.loads(line_of(watching.stdout))
    assert (told["news"], Path(told["root"]).name, told["unchanged"]) == ("current", "b", 1)
    (tmp_path / "b" / "a.md").unlink()
    told = json.loads(line_of(watching.stdout))
    assert (told["news"], "--forget" in told["said"]) == ("away", True)
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert (out, err.strip()) == ("", "stopped")
    assert watching.returncode == 130


def test_only_indexed_folders_are_watched(quietmind: Quietmind, tmp_path: Path) -> None:
    done = quietmind("watch")
    assert (done.returncode, "quietmind index FOLDER" in done.stderr) == (1, True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова")
    quietmind("index", "notes")
    done = quietmind("watch", "nosuch")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "nosuch: is not among the indexed folders (notes); index it first: quietmind index nosuch" in done.stderr
