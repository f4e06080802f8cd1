"""``quietmind links`` and the backlinks of ``quietmind search --show``, as a person meets them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]

NOTES = {
    "spec.md": "# Spec\n\n- **REQ-12** The zanzibar pump stops.\n",
    "note.md": "# Note\n\nSee [[spec]], [[spek]] and REQ-12.\n",
}


@pytest.fixture
def indexed(quietmind: Quietmind, tmp_path: Path) -> Quietmind:
    (tmp_path / "notes").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "notes" / name).write_text(text, encoding="utf-8")
    quietmind("index", "notes")
    return quietmind


def test_links_are_printed_with_their_lines(indexed: Quietmind) -> None:
    assert indexed("links", "note").stdout.splitlines() == [
        "notes/note.md: 3 links, 0 backlinks",
        "  3  [[spec]]  -> notes/spec.md",
        "  3  [[spek]]  broken",
        "  3  REQ-12  -> notes/spec.md:3",
    ]
    assert indexed("links", "--broken").stdout == ("notes/note.md:3  [[spek]]  broken; did you mean notes/spec.md?\n")
    assert indexed("links", "--orphans").stdout == "notes/note.md  leads to 1 note\n"
    assert indexed("links", "--id", "REQ-12").stdout == "defined\n  notes/spec.md:3\nused\n  notes/note.md:3\n"
    assert indexed("links").stdout.splitlines()[:2] == [
        "2 notes, 3 links (2 wiki, 1 by id)",
        "wrong: 1 broken; quietmind links --broken",
    ]


def test_search_shows_what_links_to_what_it_found(indexed: Quietmind, tmp_path: Path) -> None:
    shown = indexed("search", "zanzibar", "--show").stdout
    assert "  linked from notes/note.md:3  REQ-12  (this passage)\n" in shown
    assert "  linked from notes/note.md:3  [[spec]]\n" in shown
    assert "linked from" not in indexed("search", "zanzibar").stdout
    (hit,) = json.loads(indexed("search", "zanzibar", "--show", "--json").stdout)
    spec, note = str(tmp_path / "notes" / "spec.md"), str(tmp_path / "notes" / "note.md")
    assert hit["backlinks"] == [
        {
            "path": note,
            "line": 3,
            "via": "wiki",
            "target": "spec",
            "anchor": "",
            "outcome": "found",
            "leads": [{"path": spec, "line": None}],
        },
        {
            "path": note,
            "line": 3,
            "via": "id",
            "target": "REQ-12",
            "anchor": "",
            "outcome": "found",
            "leads": [{"path": spec, "line": 3}],
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["note", "--broken"], 2, "ask one of them"),
        (["nosuch"], 1, "no note of the index is called so"),
        (["--id", "REQ-99"], 1, "neither defined nor used"),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_line(
    indexed: Quietmind, arguments: list[str], code: int, said: str
) -> None:
    failed = indexed("links", *arguments)
    assert failed.returncode == code
    (line,) = failed.stderr.splitlines()
    assert said in line
