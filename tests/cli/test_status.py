"""``quietmind status``: what is indexed, what is not and why, and how that stands to the files now."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def test_status_tells_what_is_indexed_and_what_became_of_the_files(quietmind: Quietmind, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# Заметка\n\nо насосе и о датчике\n", encoding="utf-8")
    (notes / "b.txt").write_bytes("Старая заметка о насосе и о датчике".encode("cp1251"))
    (notes / "c.md").write_bytes("Привет, это заметка".encode().decode("mac_roman").encode())
    (notes / "d.md").write_text("plain words")
    (notes / "binary.md").write_bytes(b"\0\0\0")
    (notes / "link.md").symlink_to("nowhere")
    quietmind("index", "notes")
    (told,) = json.loads(quietmind("status", "--json").stdout)["roots"]
    assert (told["documents"], told["kinds"]) == (4, {"markdown": 3, "text": 1})
    assert (told["repaired"], told["encodings"]) == (1, {"cp1251": 1})
    assert (told["new"], told["changed"], told["gone"], told["away"]) == (0, 0, 0, None)
    assert {Path(skip["path"]).name: skip["reason"] for skip in told["skipped"]} == {
        "binary.md": "binary, not text (it holds zero bytes); it is left out",
        "link.md": "a link that leads nowhere",
    }
    assert sum(told["letters"].values()) == 1
    assert told["letters"]["latin"] == round(10 / (10 + 23 + 29 + 16), 4)

    (notes / "a.md").write_text("иначе", encoding="utf-8")
    (notes / "b.txt").unlink()
    (notes / "new.md").write_text("x")
    lines = quietmind("status").stdout.splitlines()
    assert lines[0].startswith("notes: 4 notes (3 markdown, 1 text), 4 passages, letters 87% Cyrillic and 13% Latin")
    assert lines[1].endswith("ago, since then 1 new, 1 changed, 1 gone: quietmind index notes")
    assert lines[2:4] == ["  repaired in the index only: 1 note", "  not in UTF-8: 1 cp1251"]
    assert lines[-2:-1] == ["notebooks: 0 read, 0 never read"]
    assert lines[-1].startswith("on disk: archive ")


def test_a_folder_that_is_away_is_no_failure(quietmind: Quietmind, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова", encoding="utf-8")
    quietmind("index", "notes")
    (tmp_path / "notes").rename(tmp_path / "elsewhere")
    done = quietmind("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "notes: 1 note (1 markdown)" in done.stdout
    assert "away: notes: there is no such folder" in done.stdout


def test_without_an_index_status_says_how_to_make_one(quietmind: Quietmind) -> None:
    done = quietmind("status")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "quietmind index FOLDER" in done.stderr
