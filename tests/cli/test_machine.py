"""``quietmind machine`` as a person runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.cli import machine as command
from quietmind.machine import measure as measuring
from quietmind.machine.load import catalogue_names
from quietmind.machine.remember import Measured

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIETMIND_MEASURED", str(tmp_path / "data" / "machines.json"))
    monkeypatch.setenv("QUIETMIND_MODELS", str(tmp_path / "models"))


def test_this_computer_is_shown(quietmind: Quietmind) -> None:
    done = quietmind("machine")
    assert done.returncode == 0, done.stderr
    assert "\ncpu " in done.stdout
    assert "quietmind machine --measure" in done.stdout


def test_a_machine_of_the_catalogue_is_shown_and_is_json(quietmind: Quietmind) -> None:
    assert "cuda7" in quietmind("machine", "8x-rtx-pro-6000").stdout
    document = json.loads(quietmind("machine", "8x-rtx-pro-6000", "--json").stdout)
    assert [device["key"] for device in document["devices"]][-1] == "cuda7"


def test_the_catalogue_is_listed(quietmind: Quietmind) -> None:
    lines = quietmind("machine", "--list").stdout.splitlines()
    assert tuple(line.split()[0] for line in lines) == catalogue_names()
    assert tuple(json.loads(quietmind("machine", "--list", "--json").stdout)) == catalogue_names()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rtx-5091"], "rtx-5090"),
        (["gone.toml"], "gone.toml: cannot be read"),
        (["mine.toml"], "mine.toml: unknown key 'vram'"),
        (["rtx-5090", "--measure"], "exclude each other"),
        (["--list", "--measure"], "exclude each other"),
    ],
)
def test_a_wrong_request_is_one_line(quietmind: Quietmind, tmp_path: Path, arguments: list[str], named: str) -> None:
    (tmp_path / "mine.toml").write_text("vram = 3\n")
    done = quietmind("machine", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert named in line


def test_a_damaged_memory_is_one_line_and_no_failure(quietmind: Quietmind, tmp_path: Path) -> None:
    file = tmp_path / "data" / "machines.json"
    file.parent.mkdir()
    file.write_bytes(b"\x00")
    done = quietmind("machine", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["devices"]
    (line,) = done.stderr.splitlines()
    assert "machines.json" in line


def test_measuring_is_remembered(quietmind: Quietmind, tmp_path: Path) -> None:
    first = json.loads(quietmind("machine", "--measure", "--json").stdout)
    if first["devices"][0]["bandwidth_bytes_per_s"] is None:
        pytest.skip("too little memory is free here to measure it")
    again = json.loads(quietmind("machine", "--json").stdout)
    assert again["devices"][0]["measured"] is True
    assert again["devices"][0]["bandwidth_bytes_per_s"] == first["devices"][0]["bandwidth_bytes_per_s"]
    assert again["disk"]["read_bytes_per_s"] == first["disk"]["read_bytes_per_s"]
    assert not list(tmp_path.glob(".quietmind-*"))


@pytest.mark.parametrize(("share", "warned"), [(0.4, True), (0.99, False), (None, False)])
def test_a_busy_machine_is_said(
    share: float | None, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "measure", lambda _machine, _progress: Measured(9e9, cpu_share=share))
    assert command.machine.main(["--measure"], standalone_mode=False) is None
    shown = capsys.readouterr()
    assert "9.0 GB/s" in shown.out
    assert ("took 60% of the processor" in shown.err) is warned
