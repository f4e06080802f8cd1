"""When a model is borrowed from a `quietmind up`, and when it is started: one rule for asking and for reading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quietmind.plan.ask import Ask
from quietmind.workspace.lending import lender
from quietmind.workspace.running import hold

WEIGHTS = Path("/models/small.gguf")
URL = "http://127.0.0.1:4874"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Path]:
    """A workspace where the model runs, with a context of 4,096."""
    asked = json.loads(json.dumps({"model": str(WEIGHTS), **asdict(Ask(4096, "f16"))}))
    with hold(tmp_path, (asked,)) as registration:
        registration.say("serving", URL, ["small"])
        yield tmp_path


def never(*_given: object) -> Any:
    raise AssertionError("nothing had to be planned")


def planned(verdict: str) -> Any:
    return lambda: SimpleNamespace(plan=SimpleNamespace(verdict=verdict))


@pytest.mark.parametrize("ask", [Ask(None, "f16"), Ask(2048, "f16"), Ask(4096, "f16")])
def test_what_runs_as_asked_is_borrowed_without_a_plan(up: Path, ask: Ask) -> None:
    told: list[str] = []
    running = lender(up, WEIGHTS, ask, never, told.append)
    assert running is not None
    assert (running.url, told) == (URL, [])


def test_what_does_not_run_is_started_without_a_plan_of_ours(up: Path, tmp_path: Path) -> None:
    assert lender(up, Path("/models/other.gguf"), Ask(None, "f16"), never, never) is None
    assert lender(tmp_path / "elsewhere", WEIGHTS, Ask(None, "f16"), never, never) is None


@pytest.mark.parametrize("ask", [Ask(8192, "f16"), Ask(None, "q8_0")])
def test_what_runs_otherwise_is_started_where_it_fits_beside(up: Path, ask: Ask) -> None:
    assert lender(up, WEIGHTS, ask, planned("fits"), never) is None


@pytest.mark.parametrize("verdict", ["tight", "does not fit"])
def test_what_does_not_fit_a_second_time_is_borrowed_as_it_runs_and_that_is_said(up: Path, verdict: str) -> None:
    told: list[str] = []
    assert lender(up, WEIGHTS, Ask(8192, "f16"), planned(verdict), told.append) is not None
    assert told == ["small does not fit a second time; it is used as `quietmind up` runs it"]
