"""What finds a `quietmind up` that runs, and what is not mistaken for one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from quietmind.base.errors import WorkspaceError
from quietmind.plan.ask import Ask
from quietmind.workspace.running import LOCK, RECORD, AlreadyRunning, end, find, hold, process_began, serves, serving

ASKED = ({"model": "/models/a.gguf", "context": 2048},)

# Holds the place until it is told to end; "deaf" ignores that.
HOLDER = """
import signal, sys, time
from pathlib import Path
from quietmind.workspace.running import hold
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
else: signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with hold(Path(sys.argv[1]), ({"model": "a"},)) as registration:
    registration.say("serving", "http://127.0.0.1:1", ["a"])
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *words], stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_nothing_runs_where_nothing_was_ever_started(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    assert find(tmp_path / "none") is None


def test_what_runs_is_found_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with hold(tmp_path, ASKED, tmp_path / "key") as registration:
        registration.say("starting", "http://127.0.0.1:4874", ["a"])
        running = find(tmp_path)
        assert running is not None
        assert (running.pid, running.state, running.asked) == (os.getpid(), "starting", ASKED)
        assert (running.url, running.models) == ("http://127.0.0.1:4874", ("a",))
        assert running.key_file == str(tmp_path / "key")
    assert find(tmp_path) is None
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize(
    ("ask", "served"),
    [
        (Ask(), True),
        (Ask(context=2048), True),
        (Ask(context=1024), True),
        (Ask(context=4096), False),
        (Ask(kv_type="q8_0"), False),
        (Ask(threads=1), False),
        (Ask(threads=2), True),
        (Ask(experts_used=4), False),
    ],
)
def test_what_runs_serves_what_asks_for_no_more_and_nothing_else(tmp_path: Path, ask: Ask, served: bool) -> None:
    asked = {"model": "/models/a.gguf", **asdict(Ask(context=2048, threads=2))}
    with hold(tmp_path, (asked,)) as registration:
        registration.say("serving", "http://127.0.0.1:1", ["a"])
        running = serving(tmp_path, Path("/models/a.gguf"))
        assert running is not None
        assert serves(running, Path("/models/a.gguf"), ask) is served
        assert not serves(running, Path("/models/b.gguf"), ask)


def test_the_model_that_is_served_is_found_by_its_file_and_no_other(tmp_path: Path) -> None:
    weights = Path("/models/a.gguf")
    assert serving(tmp_path, weights) is None
    with hold(tmp_path, ASKED) as registration:
        assert serving(tmp_path, weights) is None  # it is only being started
        registration.say("serving", "http://127.0.0.1:1", ["a"])
        running = serving(tmp_path, weights)
        assert running is not None
        assert running.url == "http://127.0.0.1:1"
        assert serving(tmp_path, Path("/models/b.gguf")) is None
    assert serving(tmp_path, weights) is None


def test_a_workspace_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    with hold(tmp_path / "made", ASKED):
        assert (tmp_path / "made").stat().st_mode & 0o077 == 0


def test_a_second_one_is_told_of_the_first(tmp_path: Path) -> None:
    with hold(tmp_path, ASKED) as registration:
        registration.say("serving", "http://127.0.0.1:4874", ["a", "b"])
        with (
            pytest.raises(AlreadyRunning, match=r"a, b at http://127.0.0.1:4874.*quietmind down") as caught,
            hold(tmp_path, ASKED),
        ):
            pass
        assert caught.value.running == find(tmp_path)
        assert (tmp_path / RECORD).exists()


def test_a_killed_one_leaves_nothing_that_misleads(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / RECORD).exists()
    assert find(tmp_path) is None
    with hold(tmp_path, ASKED):
        assert find(tmp_path) is not None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that has no sense is not waited for."""
    monkeypatch.setattr("quietmind.workspace.running._RECORD_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_reused_process_id_is_not_mistaken(tmp_path: Path) -> None:
    with hold(tmp_path, ASKED):
        running = find(tmp_path)
        assert running is not None
        (tmp_path / RECORD).write_text(json.dumps(asdict(running) | {"began": "another boot 1"}), encoding="utf-8")
        with pytest.raises(WorkspaceError, match="does not say who holds"):
            find(tmp_path)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "null"])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    with hold(tmp_path, ASKED):
        (tmp_path / RECORD).write_text(content, encoding="utf-8")
        with pytest.raises(WorkspaceError, match="does not say who holds"):
            find(tmp_path)


def test_down_ends_it_and_waits(tmp_path: Path) -> None:
    process = holder(tmp_path)
    running = find(tmp_path)
    assert running is not None
    assert end(tmp_path, running)
    assert find(tmp_path) is None
    assert process.wait(5) == 0


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path, "deaf")
    running = find(tmp_path)
    assert running is not None
    assert not end(tmp_path, running, patience=0.3)
    assert process.wait(5) == -signal.SIGKILL
    assert find(tmp_path) is None


def test_processes_are_told_apart_by_when_they_began() -> None:
    began = process_began(os.getpid())
    assert began
    assert began == process_began(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process_began(gone.pid) is None


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WorkspaceError, match="--workspace"), hold(tmp_path / "file", ASKED):
        pass
    (tmp_path / LOCK).mkdir()
    with pytest.raises(WorkspaceError, match="--workspace"), hold(tmp_path, ASKED):
        pass
