"""The filters of ``search`` and ``ask``, as a person gives them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]

CHAT = """>[!nexus_user] **User** - 30.06.2025 at 11:04
> Почему насос не включается по ночам, если реле исправно и вода есть?
<!-- UID: one -->
"""


@pytest.fixture
def notes(tmp_path: Path, quietmind: Quietmind) -> Path:
    folder = tmp_path / "notes"
    long_ago = (datetime.now() - timedelta(days=100)).timestamp()
    for name, text in {
        "garden/pump.md": "---\ntags: [plans]\ndate: 2024-05-17\n---\n# Насос\n\nНасос качает воду в бак из колодца.\n",
        "garden/relay.md": "# Relay\n\nThe relay starts the насос when the pressure falls too low. #plans\n",
        "chat.md": CHAT,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (long_ago, long_ago))
    assert quietmind("index", str(folder)).returncode == 0
    return folder


def found(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    hits: list[dict[str, Any]] = json.loads(done.stdout)
    return hits


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["chat.md", "pump.md", "relay.md"]),
        (["--in", "notes/garden"], ["pump.md", "relay.md"]),
        (["--in", "garden"], ["pump.md", "relay.md"]),
        (["--in", "notes/chat.md", "--in", "garden/pump.md"], ["chat.md", "pump.md"]),
        (["--tag", "#Plans", "--lang", "en"], ["relay.md"]),
        (["--lang", "ru", "--lang", "en"], ["chat.md", "pump.md", "relay.md"]),
        (["--since", "2024-05", "--until", "2024"], ["pump.md"]),
        (["--since", "200d", "--kind", "markdown"], ["relay.md"]),
        (["--kind", "chat", "--speaker", "user"], ["chat.md"]),
    ],
)
def test_a_search_finds_what_the_filters_leave(
    quietmind: Quietmind, notes: Path, options: list[str], names: list[str]
) -> None:
    hits = found(quietmind("search", "насос", "--json", *options))
    assert sorted(Path(hit["path"]).name for hit in hits) == names


def test_json_says_what_a_passage_can_be_filtered_by(quietmind: Quietmind, notes: Path) -> None:
    (chat,) = found(quietmind("search", "насос", "--json", "--kind", "chat"))
    assert (chat["kind"], chat["languages"], chat["date"]) == ("chat", ["ru"], "2025-06-30")
    (pump,) = found(quietmind("search", "насос", "--json", "--in", "garden/pump.md"))
    assert (pump["kind"], pump["languages"], pump["date"]) == ("markdown", ["ru"], "2024-05-17")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "x", "--tag", "plan"], "no indexed note bears the tag #plan; close to it: #plans"),
        (["search", "x", "--in", "/"], None),
        (["search", "x", "--in", ".."], None),
        (["search", "x", "--in", "nowhere"], "nowhere: holds no indexed note; indexed are: notes"),
        (["search", "x", "--in", "/dev"], "/dev: is outside of the archive; indexed are: notes"),
        (["search", "x", "--in", " "], "an empty name is no path"),
        (["search", "x", "--since", "yesterday"], "'yesterday' is no date; write 2024, 2024-05, 2024-05-17, or 30d"),
        (["search", "x", "--since", "2025", "--until", "2024"], "ends before it begins"),
        (["search", "x", "--lang", "de"], "'de' is not one of 'ru', 'en', 'other'"),
        (["search", "x", "--speaker", "Anna"], "nobody called 'Anna' speaks in the indexed notes; those who do: user"),
        (
            ["search", "x", "--in", "garden", "--kind", "chat"],
            "nothing is left to search in: in notes/garden: 2 notes, of kind chat: 1 note, together none; "
            "drop a condition",
        ),
        (["ask", "x?", "--tag", "plan"], "no indexed note bears the tag #plan"),
        (["ask", "x?", "--tag", "plans", "--deep"], "notebooks are asked as a whole; leave out the filter"),
        (["ask", "x?", "--tag", "plans", "--notebook", "n"], "notebooks are asked as a whole; leave out the filter"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_in_one_line(
    quietmind: Quietmind, notes: Path, arguments: list[str], said: str | None
) -> None:
    done = quietmind(*arguments)
    if said is None:  # a folder above those that are indexed holds them all
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said in line
