"""Every command end to end: real notes, the real engine, the small real model."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from quietmind.cli.main import _COMMANDS, cli

Quietmind = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"


def one_line(failed: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that a command failed in the way that every failure has, and return its one line."""
    assert failed.returncode == code, failed.stderr
    assert failed.stdout == ""
    lines = failed.stderr.splitlines()
    assert len(lines) == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    return lines[0]


def test_help_names_every_command_as_the_command_describes_itself() -> None:
    import click

    for name, (_, description) in _COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        assert command.help
        assert description


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['quietmind', '--help']\n"
        "try:\n    from quietmind.cli.main import run; run()\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'httpx2', 'markdown_it', 'pymorphy3', 'psutil', 'xllamacpp', 'huggingface_hub', 'sqlite3'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stderr.strip() == "[]"


def test_the_example_archive_is_indexed_and_searched_in_both_languages(quietmind: Quietmind) -> None:
    done = quietmind("index", str(EXAMPLES / "archive"), "--json")
    report = json.loads(done.stdout)
    assert report["added"] > 40
    assert [Path(entry["path"]).name for entry in report["repaired"]] == ["2025-05-20-zamorozok.md"]
    assert report["skipped"] == []
    again = json.loads(quietmind("index", "--json").stdout)[0]
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 0, report["added"])

    for query, name in (("тиражи наклеек", "sticker.md"), ("tank of the test bench", "test-bench.md")):
        hits = json.loads(quietmind("search", query, "--json", "--limit", "3").stdout)
        assert {"path", "first_line", "last_line", "score", "text"} <= hits[0].keys()
        assert Path(hits[0]["path"]).name == name
        file = Path(hits[0]["path"]).read_text(encoding="utf-8").splitlines()
        assert hits[0]["text"].splitlines() == file[hits[0]["first_line"] - 1 : hits[0]["last_line"]]


@pytest.mark.parametrize(
    ("question", "name", "words"),
    [
        ("How much water fits into the tank of the test bench?", "test-bench.md", "85 litres"),
        ("Какой тираж у наклейки?", "sticker.md", "650 штук"),
    ],
)
def test_a_question_is_answered_by_the_real_model_with_verified_citations(
    quietmind: Quietmind, tiny: Path, question: str, name: str, words: str
) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    done = quietmind("ask", question, "--json", "--model", str(tiny), "--context", "2k", "--max-tokens", "96")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {"answer", "citations", "unsupported", "timings", "model"} <= answer.keys()
    assert answer["model"] == tiny.stem
    assert answer["timings"]["prompt_tokens"] > 100
    verified = [citation for citation in answer["citations"] if citation["verified"]]
    assert any(Path(citation["path"]).name == name and words in citation["quote"] for citation in verified)
    for citation in verified:
        lines = Path(citation["path"]).read_text(encoding="utf-8").splitlines()
        assert citation["quote"] in "\n".join(lines[citation["first_line"] - 1 : citation["last_line"]])


def test_an_answer_is_shown_with_its_citations_and_saved(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    file = tmp_path / "answer.json"
    question = "How much water fits into the tank of the test bench?"
    done = quietmind("ask", question, "--show", "--save", str(file), "--context", "2k", "--max-tokens", "48")
    assert "test-bench.md:7-7" in done.stdout
    assert "--- [1]" in done.stdout
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved["question"] == question
    assert saved["answer"].split("\n")[0] in done.stdout
    assert saved["citations"][0]["quote"] in done.stdout
    assert 0 < saved["timings"]["answer_tokens"] <= 48


def test_an_answer_is_not_lost_when_it_cannot_be_saved(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    question = ["ask", "How much water fits into the tank of the test bench?", "--context", "2k", "--max-tokens", "16"]
    assert "no such folder" in one_line(quietmind(*question, "--save", str(tmp_path / "none" / "a.json")), 2)
    (tmp_path / "taken").mkdir()
    done = quietmind(*question, "--save", str(tmp_path / "taken"))
    assert done.returncode == 2  # click: a folder is no file


def test_what_the_engine_cannot_run_as_asked_is_said(quietmind: Quietmind, tiny: Path) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    question = ["ask", "How much water fits into the tank of the test bench?", "--max-tokens", "8"]
    done = quietmind(*question, "--context", "20k", "--threads", "4000")
    assert done.returncode == 0, done.stderr
    assert "warning: context 20,480 is past the model's native 8,192" in done.stderr
    assert "warning: 4,000 threads are more than" in done.stderr


def test_control_characters_of_notes_do_not_reach_the_terminal(quietmind: Quietmind, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# A \x1b[31mflamingo\n\nThe flamingo \x1b]0;owned\x07 is red.\n", encoding="utf-8")
    quietmind("index", str(notes))
    shown = quietmind("search", "flamingo", "--show").stdout
    assert "flamingo" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_what_the_notes_do_not_hold_is_said_without_a_model(quietmind: Quietmind) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    done = quietmind("ask", "Who painted the Sistine chapel?", "--model", "/no/such/model.gguf", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["found"], answer["citations"], answer["model"]) == (False, [], None)


def test_the_plan_has_its_stable_keys_and_adds_up(quietmind: Quietmind, tiny: Path) -> None:
    plan = json.loads(quietmind("plan", str(tiny), "--context", "4k", "--kv", "q8_0", "--json").stdout)
    assert {"model", "machine", "engine", "verdict", "context", "devices", "ledger", "warnings"} <= plan.keys()
    assert plan["context"] == 4096
    assert sum(row["bytes"] for row in plan["ledger"]) == sum(use["needed_bytes"] for use in plan["devices"])
    assert "verdict: fits" in quietmind("plan", str(tiny), "--context", "4k").stdout


def test_a_model_larger_than_the_machine_is_refused_with_the_ledger(quietmind: Quietmind, tmp_path: Path) -> None:
    header_only = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "header_only.py"))
    largest = next(shape for shape in header_only["SHAPES"] if shape.name == "Qwen3-Coder-480B-A35B")
    model = tmp_path / "largest.gguf"
    header_only["write_header"](largest, model)  # real shapes over a hole in the disk
    quietmind("index", str(EXAMPLES / "archive"))
    done = quietmind("ask", "How much does the tank hold?", "--model", str(model))
    if "takes" not in done.stderr and psutil.virtual_memory().total > 400 << 30:
        pytest.skip("this machine holds the largest model that we know of")
    assert done.returncode == 1
    assert "KV cache" in done.stderr
    assert "does not fit" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("quietmind: ")
    assert "choose a smaller model" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ask", ""], 2, "the question is empty"),
        (["index", "no-such-folder"], 1, "no-such-folder"),
        (["index"], 1, "quietmind index FOLDER"),
        (["plan", "no-such-model"], 1, "quietmind pull"),
        (["plan", "tiny", "--kv", "q9"], 2, "q8_0"),
        (["pull", "large"], 2, "tiny"),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do(
    quietmind: Quietmind, tiny: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# A\n\nText.\n", encoding="utf-8")
    if arguments[0] == "ask":
        quietmind("index", "notes")
    assert words in one_line(quietmind(*arguments), code)


def test_asking_before_indexing_says_what_to_do(quietmind: Quietmind) -> None:
    assert "quietmind index FOLDER" in one_line(quietmind("ask", "Why?"), 1)


@pytest.mark.parametrize("arguments", [["plan"], ["ask", "x", "--context", "-4"], ["nonsense"], ["search", "--limit"]])
def test_wrong_usage_ends_with_2(quietmind: Quietmind, arguments: list[str]) -> None:
    done = quietmind(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_question_longer_than_the_context_is_one_line_with_both_numbers(quietmind: Quietmind, tiny: Path) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    done = quietmind("ask", "How much water does the tank hold? " * 300, "--model", str(tiny), "--context", "1k")
    assert "1,024" in one_line(done, 1)


def test_debug_shows_where_it_failed(quietmind: Quietmind) -> None:
    assert "Traceback" in quietmind("--debug", "ask", "Why?").stderr


def test_settings_are_used_and_a_wrong_one_is_named(quietmind: Quietmind, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('workspace = "elsewhere"\nmodel = "no-such-model"\n', encoding="utf-8")
    quietmind("index", str(EXAMPLES / "archive"))
    assert "no-such-model" in one_line(quietmind("ask", "How much water fits into the tank?"), 1)
    assert (tmp_path / "workspace" / "archive.db").exists()  # the environment wins over the file
    in_file = {name: value for name, value in os.environ.items() if name != "QUIETMIND_WORKSPACE"}
    done = subprocess.run(
        [sys.executable, "-m", "quietmind", "index", str(EXAMPLES / "archive")],
        env=in_file | {"QUIETMIND_SETTINGS": "settings.toml"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "elsewhere" / "archive.db").exists()
    quietmind("index", str(EXAMPLES / "archive"), "--workspace", str(tmp_path / "given"))
    assert (tmp_path / "given" / "archive.db").exists()
    (tmp_path / "settings.toml").write_text("colour = 3\n", encoding="utf-8")
    assert "unknown setting 'colour'" in one_line(quietmind("search", "tank"), 2)


def test_file_names_of_any_kind_are_cited(quietmind: Quietmind, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    names = ["with space.md", "заметка.md", "two\nlines.md", os.fsdecode(b"\xcf\xee\xeb\xe8\xe2.md")]
    for number, name in enumerate(names):
        (notes / name).write_text(f"# Note\n\nThe zanzibar sensor number {number} is green.\n", encoding="utf-8")
    quietmind("index", str(notes))
    hits = json.loads(quietmind("search", "zanzibar", "--json").stdout)
    assert {Path(hit["path"]).name for hit in hits} == set(names)
    text = quietmind("search", "zanzibar").stdout
    assert "two\\nlines.md:" in text


def test_ctrl_c_stops_at_once_and_leaves_no_engine(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    quietmind("index", str(EXAMPLES / "archive"))
    environment = os.environ | {"QUIETMIND_WORKSPACE": str(tmp_path / "workspace")}
    question = ["ask", "How much water fits into the tank of the test bench?", "--model", str(tiny)]
    process = subprocess.Popen(
        [sys.executable, "-m", "quietmind", *question],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    log = tmp_path / "workspace" / "logs" / "llamacpp.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and b"processing task" in log.read_bytes()):
        assert time.monotonic() < deadline, "the engine did not start"
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    engines = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    assert engines or not children.exists()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode().strip() == "stopped"
    assert not [pid for pid in engines if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the five exported chats are not here")
def test_five_real_exports_are_found_by_russian_queries(quietmind: Quietmind, tmp_path: Path) -> None:
    archive = tmp_path / "seeds"
    archive.mkdir()
    for seed in SEEDS.glob("*.txt"):
        shutil.copy(seed, archive)
    report = json.loads(quietmind("index", str(archive), "--json").stdout)
    assert len(report["repaired"]) == 5
    for query, name in (
        ("видеокарты и контексты в 300к", "000"),
        ("физическая видеопамять в гигабайтах", "001"),
        ("как изменится нагрузка на видеопамять", "002"),
        ("пк от эппл или процессор с терабайтом рам", "003"),
        ("приватность важнее скорости, оплачивать облака не хочется", "004"),
    ):
        hits = json.loads(quietmind("search", query, "--json").stdout)
        assert Path(hits[0]["path"]).name.startswith(name), query
