"""Notebooks from the command line: made, divided, read with the real small model, killed, asked, dropped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quietmind.cli.notebook import notebook

Quietmind = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "archive"
SMALL = ("--context", "1k")


@pytest.fixture
def notes(tmp_path: Path, quietmind: Quietmind) -> Path:
    folder = tmp_path / "notes"
    for name, words in (
        ("pumps/start.md", "# Start\n\nThe pump starts at 40 degrees. See [[hub]]. #pumps\n"),
        ("pumps/stop.md", "# Stop\n\nThe pump stops at 85 degrees. #pumps\n"),
        ("hubs/hub.md", "# Hub\n\nThe hub has four ports and a red lamp.\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words, encoding="utf-8")
    assert quietmind("index", str(folder)).returncode == 0
    return folder


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def one_line(failed: subprocess.CompletedProcess[str], code: int) -> str:
    assert failed.returncode == code, failed.stderr
    assert failed.stdout == ""
    lines = failed.stderr.splitlines()
    assert len(lines) == 1, failed.stderr
    return lines[0]


def background(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "QUIETMIND_WORKSPACE": str(tmp_path / "workspace"),
        "QUIETMIND_SETTINGS": str(tmp_path / "settings.toml"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "quietmind", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )


def test_a_notebook_is_made_of_a_path_a_tag_or_a_query(quietmind: Quietmind, notes: Path) -> None:
    for name, arguments, kind, count in (
        ("folder", ["--from", "notes/pumps"], "path", 2),
        ("file", ["--from", "notes/hubs/hub.md"], "path", 1),
        ("hash", ["--from", "#pumps"], "tag", 2),
        ("tag", ["--tag", "pumps"], "tag", 2),
        ("query", ["--query", "ports and a red lamp"], "query", 1),
        ("words", ["--from", "red lamp"], "query", 1),
    ):
        made = document(quietmind("notebook", "make", name, *arguments, "--json"))
        assert (made["source"]["kind"], made["notes"]) == (kind, count), name
    shown = document(quietmind("notebook", "show", "folder", "--json"))
    assert [Path(member["path"]).name for member in shown["members"]] == ["start.md", "stop.md"]
    assert shown["due"] == "never read"


def test_what_a_value_was_taken_for_is_said(quietmind: Quietmind, notes: Path) -> None:
    assert "'#pumps' was taken for a tag" in quietmind("notebook", "make", "one", "--from", "#pumps").stdout
    assert "was taken for a path" in quietmind("notebook", "make", "two", "--from", "notes").stdout
    assert "was taken for a query" in quietmind("notebook", "make", "three", "--from", "red lamp").stdout


def test_wrong_usage_is_one_line_that_says_what_to_do(quietmind: Quietmind, notes: Path) -> None:
    quietmind("notebook", "make", "all", "--from", "notes")
    for arguments, words in (
        (["make", "one"], "--from PATH, --tag TAG or --query TEXT"),
        (["make", "one", "--from", "notes", "--tag", "x"], "say once"),
        (["make", "one", "--from", " "], "empty text"),
        (["make", "a/b", "--from", "notes"], "cannot name a notebook"),
        (["make", "one", "--tag", "nothing"], "no indexed note bears the tag #nothing"),
        (["make", "one", "--query", "zyzzyva"], "finds nothing"),
        (["make", "one", "--from", "./nowhere"], "there is no ./nowhere"),
        (["make", "all", "--from", "notes"], "already"),
        (["show", "none"], "there are: all"),
        (["drop", "none"], "there are: all"),
        (["pin", "none"], "there are: all"),
        (["pin", "all"], "nothing is stored"),
        (["read", "none"], "there are: all"),
        (["read", "all", "--for", "soon"], "2h, 90m"),
    ):
        assert words in one_line(quietmind("notebook", *arguments), 2), arguments


def test_every_command_of_the_group_says_what_it_does() -> None:
    assert {"make", "list", "show", "read", "ask", "drop", "pin", "unpin", "auto"} == set(notebook.commands)
    assert all(command.help for command in notebook.commands.values())


def test_a_notebook_is_read_listed_pinned_and_dropped(quietmind: Quietmind, notes: Path, tiny: Path) -> None:
    document(quietmind("notebook", "make", "pumps", "--from", "notes/pumps", "--json"))
    (done,) = document(quietmind("read", *SMALL, "--json"))["read"]
    assert (done["name"], done["why"], done["finished"], done["restored"]) == ("pumps", "never read", True, 0)
    assert done["tokens"] == done["prefilled"] > 100
    assert done["check_seconds"] > 0
    (row,) = document(quietmind("notebook", "list", "--json"))["notebooks"]
    assert (row["due"], row["tokens"], row["bytes"]) == (None, done["tokens"], done["bytes"])
    assert (row["level"], row["ratio"]) == (done["level"], done["ratio"])

    again = quietmind("read", *SMALL)
    assert "nothing is due" in again.stdout
    assert "pinned" in quietmind("notebook", "pin", "pumps").stdout
    assert "pinned" in quietmind("notebook", "list").stdout

    (notes / "pumps" / "stop.md").write_text("# Stop\n\nThe pump stops at 90 degrees.\n", encoding="utf-8")
    quietmind("index", str(notes))
    assert "its notes have changed" in quietmind("notebook", "list").stdout
    changed = quietmind("notebook", "read", "pumps", *SMALL)
    assert changed.returncode == 0, changed.stderr
    assert "pumps" in changed.stdout

    dropped = document(quietmind("notebook", "drop", "pumps", "--json"))
    assert dropped["freed_bytes"] > 0
    listed = document(quietmind("notebook", "list", "--json"))
    assert (listed["notebooks"], listed["snapshot_bytes"]) == ([], 0)


def test_what_was_measured_of_a_reading_is_shown(quietmind: Quietmind, notes: Path, tiny: Path) -> None:
    quietmind("notebook", "make", "all", "--from", "notes")
    (done,) = document(quietmind("read", *SMALL, "--level", "small", "--json"))["read"]
    (snapshot,) = document(quietmind("notebook", "show", "all", "--json"))["snapshots"]
    assert {key: snapshot[key] for key in ("level", "ratio", "kl_mean", "same")} == {
        key: done[key] for key in ("level", "ratio", "kl_mean", "same")
    }
    shown = quietmind("notebook", "show", "all").stdout
    if done["level"] == "exact":  # the model is too small to be sure of its answers on every machine
        assert done["finer"]
    else:
        assert done["ratio"] > 2
        assert f"{done['same']} of {done['probes']} answers the same" in shown
    assert f"({done['level']}, {done['ratio']:.1f}x)" in shown


def test_without_loss_nothing_is_checked(quietmind: Quietmind, notes: Path, tiny: Path) -> None:
    quietmind("notebook", "make", "all", "--from", "notes")
    (done,) = document(quietmind("read", *SMALL, "--level", "exact", "--json"))["read"]
    assert (done["level"], done["check_seconds"], done["finer"], done["kl_mean"]) == ("exact", 0, [], None)


def test_a_reading_that_is_killed_leaves_nothing_wrong_and_goes_on(
    quietmind: Quietmind, notes: Path, tiny: Path, tmp_path: Path
) -> None:
    quietmind("notebook", "make", "all", "--from", "notes")
    for seconds in (0.6, 1.4):
        process = background(tmp_path, "read", *SMALL)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    document(quietmind("read", *SMALL, "--json"))
    (row,) = document(quietmind("notebook", "list", "--json"))["notebooks"]
    assert row["due"] is None
    assert {path.suffix for path in (tmp_path / "workspace" / "snapshots").iterdir()} <= {".snapshot", ""}


def test_ctrl_c_ends_a_reading_at_once_and_leaves_no_engine(
    quietmind: Quietmind, notes: Path, tiny: Path, tmp_path: Path
) -> None:
    (notes / "long.md").write_text("# Long\n\n" + "The pump hums in the cellar, and the hub blinks. " * 300)
    quietmind("index", str(notes))
    quietmind("notebook", "make", "all", "--from", "notes")
    process = background(tmp_path, "read", "--context", "8k")
    log = tmp_path / "workspace" / "logs" / "llamacpp.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and b"processing task" in log.read_bytes()):
        assert time.monotonic() < deadline, "the engine did not start"
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped"
    assert "not read, still due: all" in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not list((tmp_path / "workspace" / "snapshots").glob(".scratch*"))


def test_a_notebook_answers_a_question_from_what_was_read(quietmind: Quietmind, notes: Path, tiny: Path) -> None:
    quietmind("notebook", "make", "pumps", "--from", "notes/pumps")
    quietmind("read", *SMALL)
    question = "At how many degrees does the pump stop?"
    asked = quietmind("notebook", "ask", "pumps", question, *SMALL, "--max-tokens", "24", "--json")
    answer = document(asked)
    assert answer["timings"]["cached_tokens"] > 100
    assert {Path(citation["path"]).name for citation in answer["citations"]} <= {"start.md", "stop.md"}
    assert "there are: pumps" in one_line(quietmind("notebook", "ask", "none", question), 2)


def test_two_readings_at_once_share_one_store(quietmind: Quietmind, notes: Path, tiny: Path, tmp_path: Path) -> None:
    quietmind("notebook", "make", "pumps", "--from", "notes/pumps")
    quietmind("notebook", "make", "hubs", "--from", "notes/hubs")
    both = [background(tmp_path, "read", name, *SMALL) for name in ("pumps", "hubs")]
    for process in both:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    listed = document(quietmind("notebook", "list", "--json"))
    assert [row["due"] for row in listed["notebooks"]] == [None, None]
    assert listed["refused"] == []


def test_a_store_that_cannot_be_written_is_one_line_before_the_model_is_loaded(
    quietmind: Quietmind, notes: Path, tmp_path: Path
) -> None:
    quietmind("notebook", "make", "all", "--from", "notes")
    (tmp_path / "workspace" / "snapshots").write_text("a file where the folder should be")
    failed = quietmind("read", "--model", "/no/such/model.gguf")
    assert "snapshots" in one_line(failed, 1)
    assert "model" not in failed.stderr


def test_a_budget_too_small_for_a_notebook_is_said_and_nothing_is_stored(
    quietmind: Quietmind, notes: Path, tiny: Path
) -> None:
    quietmind("notebook", "make", "all", "--from", "notes")
    done = quietmind("read", *SMALL, "--budget", "4096")
    assert "raise snapshot_gib" in done.stdout
    assert document(quietmind("notebook", "list", "--json"))["snapshot_bytes"] == 0


def test_without_notebooks_reading_says_how_to_make_some(quietmind: Quietmind, notes: Path) -> None:
    for command in (["read"], ["notebook", "list"]):
        assert "quietmind notebook auto" in quietmind(*command).stdout
    assert document(quietmind("read", "--json")) == {"read": [], "left": []}


def test_the_archive_is_divided_and_again_stays_as_it_is(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    quietmind("index", str(EXAMPLES))
    planned = document(quietmind("notebook", "auto", "--dry-run", "--context", "8k", "--json"))
    assert document(quietmind("notebook", "list", "--json"))["notebooks"] == []
    assert 4 < len(planned["notebooks"]) < 12
    assert all(each["tokens"] <= planned["tokens_each"] for each in planned["notebooks"])
    assert planned["cost"]["tokens"] == sum(each["tokens"] for each in planned["notebooks"])
    assert planned["cost"]["bytes"] > 1000 * planned["cost"]["tokens"]
    made = document(quietmind("notebook", "auto", "--context", "8k", "--json"))
    assert made["notebooks"] == planned["notebooks"]
    assert document(quietmind("notebook", "auto", "--context", "8k", "--json"))["notebooks"] == made["notebooks"]
    listed = document(quietmind("notebook", "list", "--json"))["notebooks"]
    assert [each["name"] for each in listed] == [each["name"] for each in made["notebooks"]]
    text = quietmind("notebook", "auto", "--dry-run", "--from", str(EXAMPLES / "hardware"), "--context", "8k").stdout
    assert "measured with the model's tokenizer" in text
    assert "on disk" in text


def test_a_context_too_small_for_any_note_is_one_line_with_numbers(
    quietmind: Quietmind, notes: Path, tiny: Path
) -> None:
    line = one_line(quietmind("notebook", "auto", "--context", "256"), 1)
    assert re.search(r"a context of 256 leaves \d+ tokens .* the smallest passage takes about \d+;", line)
    assert "larger --context" in line


def test_a_part_without_notes_cannot_be_divided(quietmind: Quietmind, notes: Path) -> None:
    assert "holds no indexed notes" in one_line(quietmind("notebook", "auto", "--from", "nowhere"), 1)
