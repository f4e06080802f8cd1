"""Files are whole or not there; paths are shown on one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quietmind.base.files import write_whole
from quietmind.base.paths import shown_path


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, b"one")
    write_whole(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_whole(file, b"one")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a b/заметка.md", "a b/заметка.md"),
        ("two\nlines.md", "two\\nlines.md"),
        (os.fsdecode(b"old-\xcf\xd2.md"), "old-\\udccf\\udcd2.md"),
    ],
)
def test_any_file_name_is_shown_on_one_line(path: str, shown: str) -> None:
    assert shown_path(path) == shown


def test_paths_below_the_current_folder_are_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "notes" / "a.md") == "notes/a.md"
    assert shown_path("/elsewhere/a.md") == "/elsewhere/a.md"


def test_an_address_keeps_its_slashes() -> None:
    assert shown_path("https://example.org/models/a.gguf") == "https://example.org/models/a.gguf"
    assert shown_path(Path("http://127.0.0.1:80/a.gguf")) == "http://127.0.0.1:80/a.gguf"
