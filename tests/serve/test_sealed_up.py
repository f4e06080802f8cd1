"""`quietmind up` with the real engine, asked as the page asks: nothing leaves, nothing is logged, nobody else reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.model.locate import locate
from quietmind.workspace.workspace import Workspace

pytest.importorskip("fastapi", reason="serving takes more packages: pip install 'quietmind[serve]'")
pytest.importorskip("xllamacpp", reason="the engine is not installed: pip install 'quietmind[llamacpp]'")

ASKED, NOTED = "zimovyekvasy", "kvasyzimovye"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, as the workspace in it: only the modes of the files keep others out."""
    made = Path(tempfile.mkdtemp(prefix="qm-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    try:
        locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
    (folder / "notes").mkdir()
    (folder / "notes" / "pump.md").write_text(f"# Pump\n\nThe {NOTED} pump starts at 40 degrees.\n", encoding="utf-8")
    workspace = folder / "workspace"
    workspace.mkdir()
    workspace.chmod(0o777)
    environment = os.environ | {"QUIETMIND_WORKSPACE": str(workspace), "QUIETMIND_SETTINGS": str(folder / "none.toml")}
    index = [sys.executable, "-m", "quietmind", "index", str(folder / "notes")]
    subprocess.run(index, env=environment, check=True, capture_output=True, umask=0)
    question = f"At how many degrees does the {ASKED} pump start?"
    script = [sys.executable, str(Path(__file__).with_name("up_watched.py")), str(workspace), question]
    apart = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode != 0:
        apart = []
    ran = subprocess.run([*apart, *script], env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def test_it_served_and_answered(seen: dict[str, Any]) -> None:
    assert seen["said"].startswith("serving "), seen["said"]
    *opened, archive, model, broken, nowhere = seen["statuses"]
    assert set(opened) == {200}
    assert (archive, model) == (200, 200)
    assert (broken, nowhere) == (400, 400)


def test_a_service_manager_is_told_that_it_answers_and_that_it_ends(seen: dict[str, Any]) -> None:
    assert seen["told_the_manager"] == ["READY=1", "STOPPING=1"]


def test_no_packet_left_the_loopback(seen: dict[str, Any]) -> None:
    if seen["packets"] is None:
        pytest.skip("a network of one's own cannot be made here: it takes unshare, ip and the right to use them")
    assert seen["packets"] == 0
    assert seen["counted"] > 0, "the cable does not count"


def test_no_process_was_connected_to_anything_but_the_loopback(seen: dict[str, Any]) -> None:
    assert set(seen["remotes"]) <= {"127.0.0.1", "::1"}


def test_nothing_that_was_asked_or_noted_is_logged_or_told(folder: Path, seen: dict[str, Any]) -> None:
    for word in (ASKED, NOTED):
        assert word not in seen["said"]
        holding = [
            file
            for file in (folder / "workspace").rglob("*")
            if file.is_file() and not file.name.startswith("archive.db") and word.encode() in file.read_bytes()
        ]
        assert holding == []


def test_whatever_is_written_is_for_its_owner_alone(seen: dict[str, Any]) -> None:
    assert any(file.endswith("engine.sock") for file in seen["files"])
    assert any(file.endswith("archive.db") for file in seen["files"])
    assert seen["loose"] == []


def test_a_second_user_reads_none_of_it(seen: dict[str, Any]) -> None:
    if seen["read_by_nobody"] is None:
        pytest.skip("only root can look with another user's eyes")
    assert seen["read_by_nobody"] == []


def test_a_workspace_that_is_made_is_closed_to_others(tmp_path: Path) -> None:
    with Workspace(tmp_path / "workspace", create=True):
        assert (tmp_path / "workspace").stat().st_mode & 0o077 == 0
