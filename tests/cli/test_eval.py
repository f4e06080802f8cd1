"""``quietmind eval`` as a person runs it: what it says of notes, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]
REST = "Остальное о том, как зимой хранить воду и чем смазать петли, чтобы не скрипели и не ржавели.\n" * 3


@pytest.fixture
def notes(tmp_path: Path, quietmind: Quietmind) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "kran.md").write_text(f"# Как открыть кран\n\nКран за дверью.\n\n{REST}", encoding="utf-8")
    (folder / "fence.md").write_text(f"# Painting the fence\n\nThe fence wants paint.\n\n{REST}", encoding="utf-8")
    (folder / "short.md").write_text("# Nothing much\n", encoding="utf-8")
    assert quietmind("index", str(folder)).returncode == 0
    return folder


@pytest.mark.usefixtures("notes")
def test_it_says_how_well_notes_are_found_and_that_few_questions_say_little(quietmind: Quietmind) -> None:
    done = quietmind("eval")
    assert done.returncode == 0, done.stderr
    assert "3 notes, 2 questions made of them: 2 titles" in done.stdout
    assert "  Как открыть кран -> notes/kran.md:1" in done.stdout
    assert "words    all            2  1.00 (0.34-1.00)" in done.stdout
    assert "         ru             1" in done.stdout
    assert "fewer than 30 questions: these numbers mean little" in done.stdout


@pytest.mark.usefixtures("notes")
def test_json_holds_every_question_with_its_ranks(quietmind: Quietmind) -> None:
    said = json.loads(quietmind("eval", "--json", "--seed", "3").stdout)
    assert (said["notes"], said["questions"], said["seed"], said["best"]) == (3, 2, 3, None)
    assert {(item["query"], item["line"], item["ranks"]["words"]) for item in said["items"]} == {
        ("Как открыть кран", 1, 1),
        ("Painting the fence", 1, 1),
    }
    assert said["legs"]["words"]["languages"]["all"]["recall_10"][0] == 1.0


@pytest.mark.usefixtures("notes")
def test_a_leg_that_there_is_not_is_refused_in_one_line(quietmind: Quietmind) -> None:
    refused = quietmind("eval", "--leg", "meaning")
    assert refused.returncode == 2
    assert refused.stderr == (
        "quietmind: meaning: there are no vectors to search by; make some with `quietmind embed`\n"
    )


def test_notes_that_make_no_question_are_said_to(quietmind: Quietmind, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Short\n", encoding="utf-8")
    quietmind("index", "notes")
    assert quietmind("eval").stdout.startswith("1 note: no question can be made of them")


@pytest.mark.usefixtures("notes")
def test_the_model_reranks_where_it_is_asked_to(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(f'model = "{tiny}"\ncontext = 1024\n', encoding="utf-8")
    done = quietmind("eval", "--leg", "words", "--leg", "rerank")
    assert done.returncode == 0, done.stderr
    assert "rerank   all            2" in done.stdout
    assert "best on these notes: " in done.stdout
    found = json.loads(quietmind("search", "смазать дверь", "--rerank", "--json").stdout)
    assert len(found) > 1
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    assert all(0 < each["score"] < 1 for each in found)
