"""``quietmind bench``, as a person runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.base.errors import DoesNotFit
from quietmind.machine.machine import Device, Host, Machine
from quietmind.plan.ask import Ask
from quietmind.workspace import launch
from quietmind.workspace.bench import bench

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("context", "said"),
    [("100", "too short to measure in"), ("many", "is not a number of tokens"), (",", "no context was given")],
)
def test_contexts_that_make_no_sense_are_refused_in_one_line(quietmind: Quietmind, context: str, said: str) -> None:
    run = quietmind("bench", "tiny", "--context", context)
    assert run.returncode == 2
    assert said in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--context", "99M"], "nothing published reaches past 512 times"),
        (["--context", "4M"], "past the native 8,192"),
        (["--context", "1k,9k"], "give at most 8,192"),
        (["--threads", "4000"], "threads are more than the"),
        (["--kv", ""], "'' is not a KV cache type"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    quietmind: Quietmind, tiny: Path, arguments: list[str], said: str
) -> None:
    run = quietmind("bench", str(tiny), *arguments)
    assert run.returncode == 2
    assert said in run.stderr
    assert len((run.stdout + run.stderr).splitlines()) == 1


def test_what_does_not_fit_is_refused_without_the_ledger(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Machine("small", (Device("cpu", "CPU", 1 << 27, 1 << 27),), (), Host("Linux", "CPU"))
    monkeypatch.setattr(launch, "probe", lambda: small)
    with pytest.raises(DoesNotFit, match=r"takes .* MiB at a context of 4,096, which does not fit") as refusal:
        next(iter(bench(str(tiny), Ask(), [4096], tmp_path, tmp_path)))
    assert refusal.value.ledger == ""


def test_what_is_measured_corrects_the_next_prediction(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    first = json.loads(quietmind("bench", str(tiny), "--context", "700", "--json").stdout)
    (row,) = first["speeds"]
    assert row["context"] == 700
    assert row["measured"]["prefill"] > 0
    assert first["resident_bytes"] > tiny.stat().st_size // 2
    again = json.loads(quietmind("bench", str(tiny), "--context", "700", "--json").stdout)
    predicted = again["speeds"][0]["predicted"]
    # Where the bandwidth is not known, it takes the place of a prediction.
    assert any("measured on this machine" in note or "measured, not predicted" in note for note in predicted["basis"])
    assert predicted["prefill"]["mid"] == pytest.approx(row["measured"]["prefill"], rel=0.05)
