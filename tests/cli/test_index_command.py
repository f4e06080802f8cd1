"""``quietmind index``: folders that are missing, empty, locked or to be forgotten, and reports of many files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def note(path: Path, text: str = "# Sensor\n\nThe zanzibar sensor is green.\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def only_line(failed: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert failed.returncode == code, failed.stderr
    (line,) = failed.stderr.splitlines()
    assert "unexpected" not in line
    return line


def test_a_missing_folder_does_not_keep_the_others_from_their_update(quietmind: Quietmind, tmp_path: Path) -> None:
    note(tmp_path / "a" / "a.md")
    note(tmp_path / "b" / "b.md")
    quietmind("index", "a")
    quietmind("index", "b")
    shutil.rmtree(tmp_path / "a")
    note(tmp_path / "b" / "new.md")

    done = quietmind("index")
    assert only_line(done).startswith("quietmind: a: there is no such folder")
    assert "b: 2 notes (1 added" in done.stdout
    told = json.loads(quietmind("index", "--json").stdout)
    assert [Path(one["root"]).name for one in told] == ["a", "b"]
    assert "quietmind index a --forget" in told[0]["error"]

    assert quietmind("index", "a", "--forget").stdout == "a: forgotten, 1 note removed\n"
    done = quietmind("index")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(quietmind("search", "zanzibar", "--json").stdout)) == 2


def test_forgetting_is_told_as_json_and_needs_a_known_folder(quietmind: Quietmind, tmp_path: Path) -> None:
    note(tmp_path / "a" / "in" / "a.md")
    quietmind("index", "a")
    quietmind("index", "a/in")
    told = json.loads(quietmind("index", "a/in", "--forget", "--json").stdout)
    assert told == {"root": str(tmp_path / "a" / "in"), "removed": 0, "kept": 1}
    assert "not among the indexed folders" in only_line(quietmind("index", "a/in", "--forget"))
    assert "quietmind index FOLDER --forget" in only_line(quietmind("index", "--forget"), 2)


def test_a_known_folder_that_is_gone_or_empty_says_how_to_forget_it(quietmind: Quietmind, tmp_path: Path) -> None:
    file = note(tmp_path / "a" / "a.md")
    quietmind("index", "a")
    file.unlink()
    line = only_line(quietmind("index", "a"))
    assert "holds no notes" in line
    assert "--forget" in line
    file.parent.rmdir()
    assert "--forget" in only_line(quietmind("index", "a"))


def test_a_mistyped_folder_makes_no_workspace(quietmind: Quietmind, tmp_path: Path) -> None:
    assert "no such folder; check the name" in only_line(quietmind("index", "nosuch"))
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", ""],
        ["index", "a", "--workspace", ""],
        ["search", "x", "--workspace", " "],
        ["ask", "x", "--save", ""],
        ["plan", "tiny", "--plot", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(quietmind: Quietmind, tmp_path: Path, arguments: list[str]) -> None:
    note(tmp_path / "a" / "a.md")
    done = quietmind(*arguments)
    assert done.returncode == 2
    assert "an empty name is no path" in done.stderr
    assert not (tmp_path / "archive.db").exists()


def test_a_folder_of_which_nothing_can_be_read_is_a_failure(quietmind: Quietmind, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.md").write_bytes(b"\0\0\0")
    done = quietmind("index", "a")
    assert "all was skipped" in only_line(done)
    assert "skipped: a/a.md: binary" in done.stdout
    assert json.loads(quietmind("index", "a", "--json").stdout)["skipped"]
    assert "all was skipped" in only_line(quietmind("index"))


def test_a_report_lists_ten_files_of_each_sort_and_counts_the_rest(quietmind: Quietmind, tmp_path: Path) -> None:
    note(tmp_path / "a" / "a.md")
    for number in range(13):
        (tmp_path / "a" / f"link-{number:02}.md").symlink_to("nowhere")
        (tmp_path / "a" / f"old-{number:02}.md").write_bytes("Заметка о насосе и о датчике".encode("cp1251"))
    done = quietmind("index", "a")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert sum("skipped: " in line for line in lines) == sum("read as cp1251" in line for line in lines) == 10
    assert lines.count("  and 3 more (--json lists all)") == 2
    assert lines[-2] == "  skipped: a/link-09.md: a link that leads nowhere"
    assert len(json.loads(quietmind("index", "a", "--json").stdout)["skipped"]) == 13
