"""Asking notebooks with the real small model: what was read once is restored, and answers as a fresh reading does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]

QUESTION = "At how many degrees does the pump start?"
SMALL = ("--context", "1k", "--max-tokens", "24")


@pytest.fixture
def notes(tmp_path: Path, quietmind: Quietmind) -> Path:
    folder = tmp_path / "notes"
    for name, words in (
        ("pumps/start.md", "# Start\n\nThe pump starts at 40 degrees.\n"),
        ("pumps/stop.md", "# Stop\n\nThe pump stops at 85 degrees.\n"),
        ("hubs/hub.md", "# Hub\n\nThe hub starts the pump and has four ports.\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words, encoding="utf-8")
    assert quietmind("index", str(folder)).returncode == 0
    for name in ("pumps", "hubs"):
        assert quietmind("notebook", "make", name, "--from", str(folder / name)).returncode == 0
    return folder


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_restored_notebook_answers_as_the_reading_did(quietmind: Quietmind, tiny: Path, notes: Path) -> None:
    fresh = quietmind("ask", QUESTION, "--notebook", "pumps", "--json", *SMALL)
    assert "notebook 'pumps': never read; reading " in fresh.stderr
    read = answer(fresh)
    assert read["notebook"]["read_s"] > 0
    again = quietmind("ask", QUESTION, *SMALL)
    assert "tokens of notebook 'pumps' in" in again.stderr.splitlines()[-1]
    assert "reading them fresh takes" in again.stderr.splitlines()[-1]
    restored = answer(quietmind("ask", QUESTION, "--json", *SMALL))
    assert restored["answer"] == read["answer"]
    assert restored["notebook"]["restored_tokens"] == restored["notebook"]["tokens"] == read["notebook"]["tokens"]
    assert restored["timings"]["cached_tokens"] == restored["notebook"]["tokens"]
    assert restored["timings"]["prompt_tokens"] < restored["notebook"]["tokens"]
    assert restored["notebook"]["snapshot"]


def test_what_is_due_is_said_on_one_line_and_passages_answer(quietmind: Quietmind, tiny: Path, notes: Path) -> None:
    done = quietmind("ask", QUESTION, "--json", *SMALL)
    assert answer(done)["notebook"] is None
    assert done.stderr.splitlines() == [
        "notebook 'pumps' holds this and is not used: never read; read it with `quietmind read pumps`; "
        "answering from passages"
    ]
    forced = quietmind("ask", QUESTION, "--json", "--passages", "2", *SMALL)
    assert forced.stderr == ""
    assert answer(forced)["citations"]


def test_a_deep_question_asks_each_notebook_that_holds_evidence(quietmind: Quietmind, tiny: Path, notes: Path) -> None:
    done = quietmind("ask", "What starts the pump, and at how many degrees?", "--deep", "--json", *SMALL)
    joined = answer(done)
    assert {part["notebook"] for part in joined["parts"]} == {"pumps", "hubs"}
    assert all(part["why_passages"] == "never read" for part in joined["parts"])
    assert joined["unsupported"] == []
    kept = {sentence for part in joined["parts"] for sentence in part["kept"]}
    borne = {sentence for citation in joined["citations"] for sentence in citation["supports"]}
    assert borne <= kept or "composed" not in done.stderr


def test_the_ways_of_asking_exclude_each_other(quietmind: Quietmind, tiny: Path, notes: Path) -> None:
    done = quietmind("ask", QUESTION, "--deep", "--notebook", "pumps")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "give one of them" in done.stderr


def test_a_notebook_that_is_none_is_refused_before_a_model_is_loaded(quietmind: Quietmind, notes: Path) -> None:
    done = quietmind("ask", QUESTION, "--notebook", "pump", "--model", "/no/such.gguf")
    assert done.returncode == 2
    assert "there are: hubs, pumps" in done.stderr
