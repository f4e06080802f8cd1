"""``quietmind bench``, as a person runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_what_is_measured_corrects_the_next_prediction(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    first = json.loads(quietmind("bench", str(tiny), "--context", "700", "--json").stdout)
    (row,) = first["speeds"]
    assert row["context"] == 700
    assert row["measured"]["prefill"] > 0
    assert first["resident_bytes"] > tiny.stat().st_size // 2
    again = json.loads(quietmind("bench", str(tiny), "--context", "700", "--json").stdout)
    predicted = again["speeds"][0]["predicted"]
    if predicted is None:
        pytest.skip("the bandwidth of this machine is not known: run `quietmind machine --measure`")
    assert any("measured on this machine" in note for note in predicted["basis"])
    assert predicted["prefill"]["mid"] == pytest.approx(row["measured"]["prefill"], rel=0.05)
