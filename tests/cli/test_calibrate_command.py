"""``quietmind calibrate``, as a person runs it: what it cannot learn from is refused in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from quietmind.cli.calibrate import _as_json, _print
from quietmind.workspace.calibrate import Calibration, Tried
from quietmind.workspace.damage import Damage

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def test_too_few_tokens_are_refused(quietmind: Quietmind) -> None:
    run = quietmind("calibrate", "--tokens", "100")
    assert run.returncode == 2
    assert run.stderr == "quietmind: 100 tokens are too few to learn from; give at least 4,096\n"


def test_without_notes_it_says_how_to_index_them(quietmind: Quietmind) -> None:
    run = quietmind("calibrate")
    assert run.returncode == 1
    assert "quietmind index" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_an_archive_that_is_too_small_is_counted_and_nothing_is_left(
    quietmind: Quietmind, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Pump\n\nThe pump is red.\n\n# Tank\n\nThe tank is blue.\n")
    quietmind("index", "notes")
    run = quietmind("calibrate", "--model", str(tiny), "--context", "2k")
    assert run.returncode == 1
    assert "tokens, and calibrating takes at least 4,096; index more" in run.stderr
    left = {path.name for path in (tmp_path / "workspace" / "snapshots").iterdir()}
    assert left <= {"lock", "bases"}


@pytest.fixture
def found() -> Calibration:
    levels = (
        Tried("near", 0.1, 10.04, Damage(0.0004, 0.01, 70, 6, 6, 0.002, 90)),
        Tried("small", 0.4, 20.5, Damage(0.004, 0.1, 66, 5, 6)),
    )
    basis = SimpleNamespace(size=12 << 20)
    return cast(
        Calibration,
        SimpleNamespace(
            basis=basis,
            path=Path("/b/x.basis"),
            tokens=16000,
            seconds=600.0,
            floor=0.001,
            levels=levels,
            removed=1,
            by_noise="no memory",
        ),
    )


def test_it_prints_what_was_measured(found: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    _print("a model", found)
    said = capsys.readouterr().out
    level = "10.0       0.0004  0.0100        0.0020      6 of 6"
    for each in (level, "12.0 MiB", "16,000 tokens", "10 min", "with: 1", "noise told what errors cost", "no memory"):
        assert each in said


def test_programs_are_told_the_same(found: Calibration) -> None:
    said = _as_json(found)
    assert [each["ratio"] for each in said["levels"]] == [10.04, 20.5]
    assert said["levels"][0]["mean"] == 0.0004
    assert said["basis"] == "/b/x.basis"
    assert said["by_noise"] == "no memory"
