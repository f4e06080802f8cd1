"""What becomes of output: read only in part, without room, of names that are no text, on no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.base import progress

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def many_notes(folder: Path) -> None:
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.md").write_text(f"# Note {number}\n\n{'The zanzibar sensor. ' * 60}\n", encoding="utf-8")


@pytest.mark.skipif(os.name != "posix", reason="a shell's pipe")
def test_a_reader_that_leaves_is_no_failure_to_speak_of(quietmind: Quietmind, tmp_path: Path) -> None:
    many_notes(tmp_path / "notes")
    quietmind("index", "notes")
    search = f"{sys.executable} -m quietmind search zanzibar --show --limit 40 --workspace workspace"
    done = subprocess.run(
        ["sh", "-c", f"{search} | head -1"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.stdout.startswith("notes/")
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="a shell's way to close a stream")
def test_a_closed_standard_output_is_no_failure(quietmind: Quietmind, tmp_path: Path) -> None:
    many_notes(tmp_path / "notes")
    quietmind("index", "notes")
    search = f"{sys.executable} -m quietmind search zanzibar --workspace workspace >&-"
    done = subprocess.run(["sh", "-c", search], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("arguments", [["search", "zanzibar"], ["search", "zanzibar", "--json"], ["--help"]])
def test_no_room_for_the_output_is_one_line(quietmind: Quietmind, tmp_path: Path, arguments: list[str]) -> None:
    many_notes(tmp_path / "notes")
    quietmind("index", "notes")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "quietmind", *arguments],
            cwd=tmp_path,
            env=os.environ | {"QUIETMIND_WORKSPACE": "workspace"},
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("quietmind: standard output: No space left on device")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes for a file name")
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_name_that_is_no_text_is_printed_with_its_bytes_escaped(tmp_path: Path, encoding: str) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / os.fsdecode(b"\xcf\xd2 \xd0\xb9.md")).write_bytes(b"The zanzibar sensor.\n")
    environment = os.environ | {"QUIETMIND_WORKSPACE": str(tmp_path / "workspace"), "PYTHONIOENCODING": encoding}
    shown = []
    for arguments in (["index", "notes"], ["search", "zanzibar"], ["search", "zanzibar", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "quietmind", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        shown.append(done.stdout)
    letter = b"\xd0\xb9" if encoding == "utf-8" else b"\\u0439"
    assert b"\\udccf\\udcd2 " + letter + b".md" in shown[1]
    assert b"\\udccf\\udcd2 \xd0\xb9.md" in shown[2]  # JSON is UTF-8 wherever it goes


class NoTerminal:
    def __init__(self) -> None:
        self.written: list[str] = []

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None: ...


def test_progress_is_silent_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = NoTerminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1.0)  # a bar would be drawn at once
    with progress.terminal_progress() as watched:
        watched.begin("Reading notes", 3)
        watched.advance(2)
    assert stream.written == []
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with progress.terminal_progress() as watched:
        watched.begin("Reading notes", 3)
        watched.advance(2)
    assert any("Reading notes" in text for text in stream.written)
