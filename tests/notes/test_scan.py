"""Walking a folder: what is found, what is passed over, what is reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quietmind.base.errors import NotesError
from quietmind.notes.scan import scan


def names(root: Path) -> list[str]:
    return [str(Path(found.path).relative_to(root)) for found in scan(root).found]


def test_notes_are_found_by_their_endings_whatever_their_names(tmp_path: Path) -> None:
    for name in [
        "a.md",
        "б в.MARKDOWN",
        "c.pseudo",
        "d.idea",
        "e.txt",
        "new\nline.md",
        "f.png",
        "md",
        "g.md.bak",
        ".h.md",
    ]:
        (tmp_path / name).write_text("x")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "i.md").write_text("x")
    expected = [".h.md", "a.md", "c.pseudo", "d.idea", "deep/er/i.md", "e.txt", "new\nline.md", "б в.MARKDOWN"]
    assert names(tmp_path) == expected


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    for folder in [".git", ".obsidian", ".idea", "notes.idea"]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").write_text("x")
    (tmp_path / ".idea.md").write_text("x")
    assert names(tmp_path) == [".idea.md", "notes.idea/a.md"]


def test_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xef\xf0\xe8\xe2\xe5\xf2.md"
    with open(raw, "wb") as file:  # noqa: PTH123 - a Path takes no bytes
        file.write(b"x")
    (found,) = scan(tmp_path).found
    assert os.fsencode(found.path) == raw


def test_links_count_once_for_each_real_file_and_loops_end(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "o.md").write_text("x")
    (root / "a.md").write_text("x")
    (root / "again.md").symlink_to(root / "a.md")
    (root / "one.md").symlink_to(outside / "o.md")
    (root / "two.md").symlink_to(outside / "o.md")
    (root / "loop").symlink_to(root)
    (root / "folder").symlink_to(outside)
    (root / "folder.md").symlink_to(outside)
    assert names(root) == ["a.md", "one.md"]


def test_what_cannot_be_looked_at_is_reported_and_the_rest_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "broken.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "self.md").symlink_to(tmp_path / "self.md")
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(200 << 20)
    seen = scan(tmp_path)
    assert [Path(found.path).name for found in seen.found] == ["a.md"]
    assert [(skip.path.name, skip.transient) for skip in seen.skipped] == [
        ("broken.md", True),
        ("huge.md", False),
        ("self.md", True),
    ]
    assert "200.0 MiB" in seen.skipped[1].reason
    assert seen.skipped[0].reason == seen.skipped[2].reason == "a link that leads nowhere"


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    seen = scan(tmp_path)
    assert [Path(found.path).name for found in seen.found] == ["a.md"]
    assert [(s.path.name, s.reason) for s in seen.skipped] == [
        ("locked", "the folder cannot be listed (Permission denied)")
    ]


def test_pipes_are_not_notes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "a.md").write_text("x")
    assert names(tmp_path) == ["a.md"]


def refusal(root: Path) -> str:
    with pytest.raises(NotesError) as caught:
        scan(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_root_that_is_no_folder_of_notes_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "missing\nfolder")
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in refusal(tmp_path / "file")
    assert "holds no notes" in refusal(tmp_path)
    assert "not a folder name" in refusal(Path("/a\0b"))


def test_a_root_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refusing)
    assert "cannot be listed (Permission denied)" in refusal(tmp_path)
