"""What runs show is kept, and given back, whatever happens around it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Finished, Request, Timings
from quietmind.plan.ask import Ask
from quietmind.plan.measured import Measurement
from quietmind.workspace.bench import SMALLEST_CONTEXT, bench
from quietmind.workspace.measurements import KEPT, Noting, RunLabel, of_process, of_timings, remember, remembered
from quietmind.workspace.workspace import Workspace

LABEL = RunLabel("run", "here", micro_batch=512)


def shown(value: float, machine: str = "here", depth: int = 0) -> Measurement:
    return Measurement("run", "decode", value, "tok/s", "2026-01-01T00:00:00+00:00", machine, depth, predicted=9.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Workspace(tmp_path, create=True):
        return tmp_path


def test_what_is_remembered_comes_back_whole_and_in_order(folder: Path) -> None:
    runs = [shown(1.5), shown(2.5, depth=4096)]
    remember(folder, runs)
    remember(folder, [shown(3.5, machine="elsewhere")])
    assert remembered(folder, "here") == tuple(runs)


def test_only_the_last_of_one_kind_count(folder: Path) -> None:
    remember(folder, [shown(float(number)) for number in range(1, KEPT + 11)])
    remember(folder, [shown(99.0, depth=7)])
    values = [each.value for each in remembered(folder, "here")]
    assert values == [*(float(number) for number in range(11, KEPT + 11)), 99.0]


def test_a_folder_without_a_workspace_holds_nothing_and_stays_without(tmp_path: Path) -> None:
    assert remembered(tmp_path / "none", "here") == ()
    assert not (tmp_path / "none").exists()


def test_a_workspace_of_before_measurements_gains_their_table(tmp_path: Path) -> None:
    from quietmind.base.sqlite import connect
    from quietmind.notes.schema import MIGRATIONS as NOTES

    connect(tmp_path / "archive.db", NOTES).close()
    remember(tmp_path, [shown(1.0)])
    with Workspace(tmp_path):
        assert len(remembered(tmp_path, "here")) == 1


def test_timings_are_filed_at_the_depth_they_had_on_average() -> None:
    timings = Timings(cached=1000, prompt=1512, prompt_ms=1000.0, predicted=100, predicted_ms=2000.0)
    prefill, decode = of_timings(timings, LABEL)
    assert (prefill.what, prefill.value, prefill.depth) == ("prefill", 1512.0, 1500)
    assert (decode.what, decode.value, decode.depth) == ("decode", 50.0, 2562)


@pytest.mark.parametrize(("prompt", "predicted"), [(20, 3), (0, 0)])
def test_runs_too_short_to_tell_are_not_kept(prompt: int, predicted: int) -> None:
    assert list(of_timings(Timings(0, prompt, 10.0, predicted, 10.0), LABEL)) == []


@pytest.mark.parametrize(("prompt", "kept"), [(4096, True), (3100, True), (512, False)])
def test_a_large_micro_batch_that_was_not_filled_says_nothing_of_prefills(prompt: int, kept: bool) -> None:
    label = replace(LABEL, micro_batch=4096)
    found = of_timings(Timings(0, prompt, 1000.0, 100, 2000.0), label)
    assert ("prefill" in {measurement.what for measurement in found}) == kept


def test_resident_bytes_are_those_of_a_living_process() -> None:
    mine = of_process(os.getpid(), LABEL)
    assert mine is not None
    assert (mine.what, mine.unit) == ("resident", "B")
    assert mine.value > 1 << 20
    assert of_process(2**22 + 1, LABEL) is None


def test_an_engine_that_notes_hands_everything_on() -> None:
    noted: list[Sequence[Measurement]] = []
    words = " ".join(["word"] * 40)
    plain, noting = FakeEngine([words]), Noting(FakeEngine([words]), LABEL, noted.append)
    request = Request("a prompt", 100)
    with noting:
        assert noting.model == plain.model
        assert noting.context == plain.context
        assert noting.tokenize("two words") == plain.tokenize("two words")
        assert noting.healthy()
        events = list(noting.generate(request))
    assert isinstance(events[-1], Finished)
    assert [type(event) for event in events] == [type(event) for event in plain.generate(request)]
    assert len(noted) == 1


def test_a_context_too_short_to_measure_in_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"at least {SMALLEST_CONTEXT}"):
        next(bench("tiny", Ask(), [SMALLEST_CONTEXT - 1], tmp_path, tmp_path))
