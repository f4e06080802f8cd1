"""The index follows the paths that changed as it follows a whole folder, and takes a missing disk for no deletion."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from quietmind.base.errors import NotesError
from quietmind.notes import index as index_module
from quietmind.notes.report import Report

if TYPE_CHECKING:
    from tests.notes.conftest import Archive


def refresh(archive: Archive, *names: str) -> tuple[int, int, int]:
    report = archive.index.refresh(archive.root, [str(archive.root / name) for name in names])
    return report.added, report.changed, report.removed


def names(archive: Archive) -> list[str]:
    return [name.removeprefix("notes/") for name in archive.names()]


@pytest.fixture
def only_parts(monkeypatch: pytest.MonkeyPatch, archive: Archive) -> None:
    """Fail where all of a root is walked."""
    archive.write("kept.md")
    archive.index.update(archive.root)

    def unexpected(root: Path) -> None:
        raise AssertionError(f"all of {root} was walked")

    monkeypatch.setattr(index_module, "scan", unexpected)


def test_only_the_paths_that_are_named_are_followed(archive: Archive, only_parts: None) -> None:
    archive.write("a.md", "кошка")
    archive.write("b.md", "мышка")
    assert refresh(archive, "a.md") == (1, 0, 0)
    assert names(archive) == ["a.md", "kept.md"]
    archive.write("a.md", "собака")
    assert refresh(archive, "a.md", "b.md", "a.md") == (1, 1, 0)
    assert archive.found("собаки") == ["a.md"]
    (archive.root / "b.md").unlink()
    assert refresh(archive, "b.md") == (0, 0, 1)
    assert refresh(archive, "b.md", "never-there.md") == (0, 0, 0)
    assert names(archive) == ["a.md", "kept.md"]


def test_an_editor_that_saves_by_renaming_changes_one_note(archive: Archive, only_parts: None) -> None:
    archive.write("a.md", "кошка")
    refresh(archive, "a.md")
    archive.write(".a.md.swap", "собака").replace(archive.root / "a.md")
    assert refresh(archive, ".a.md.swap", "a.md") == (0, 1, 0)
    assert archive.found("собака") == ["a.md"]


def test_folders_that_come_move_and_go_take_their_notes_along(archive: Archive, only_parts: None) -> None:
    archive.write("in/deep/a.md")
    archive.write("in/b.md")
    archive.write("in.md")
    assert refresh(archive, "in", "in/b.md", "in.md") == (3, 0, 0)
    (archive.root / "in").rename(archive.root / "out")
    assert refresh(archive, "in", "out") == (2, 0, 2)
    assert names(archive) == ["in.md", "kept.md", "out/b.md", "out/deep/a.md"]
    shutil.rmtree(archive.root / "out")
    assert refresh(archive, "out/deep") == (0, 0, 1)
    assert refresh(archive, "out") == (0, 0, 1)


def test_a_folder_that_becomes_a_note_and_a_note_that_becomes_a_folder(archive: Archive, only_parts: None) -> None:
    archive.write("x.md/a.md")
    refresh(archive, "x.md")
    shutil.rmtree(archive.root / "x.md")
    archive.write("x.md")
    assert refresh(archive, "x.md/a.md", "x.md") == (1, 0, 1)
    (archive.root / "x.md").unlink()
    archive.write("x.md/b.md")
    assert refresh(archive, "x.md") == (1, 0, 1)
    assert names(archive) == ["kept.md", "x.md/b.md"]


def test_what_a_walk_would_not_find_is_not_followed(archive: Archive, only_parts: None, tmp_path: Path) -> None:
    for name in (".git/a.md", "in/.hidden/b.md", "c.png", "d.md~"):
        archive.write(name)
    (tmp_path / "outside.md").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "e.md").write_text("x")
    (archive.root / "link").symlink_to(tmp_path / "folder")
    seen = (".git", ".git/a.md", "in/.hidden", "in/.hidden/b.md", "c.png", "d.md~", "../outside.md", "link/e.md", "")
    assert refresh(archive, *seen[:-1]) == (0, 0, 0)
    assert names(archive) == ["kept.md"]


def test_a_name_that_changes_in_case_only_is_a_new_name(archive: Archive, only_parts: None) -> None:
    archive.write("Note.md").rename(archive.root / "NOTE.MD")
    refresh(archive, "Note.md", "NOTE.MD")
    (archive.root / "NOTE.MD").rename(archive.root / "note.md")
    assert refresh(archive, "NOTE.MD", "note.md") == (1, 0, 1)
    assert names(archive) == ["kept.md", "note.md"]


def test_a_name_that_is_not_utf8_is_followed(archive: Archive, only_parts: None) -> None:
    name = os.fsdecode(b"\xef\xf0\xe8\xe2\xe5\xf2.md")
    (archive.root / name).write_text("привет", encoding="utf-8")
    assert refresh(archive, name) == (1, 0, 0)
    assert archive.found("приветы") == [name]
    (archive.root / name).unlink()
    assert refresh(archive, name) == (0, 0, 1)


def test_a_clock_that_was_set_back_hides_no_change(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive.write("a.md", "кошка")
    os.utime(path, (4e9, 4e9))  # as far as the file knows, it was written in 2096
    archive.write("b.md", "слова")
    archive.index.update(archive.root)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 10**15)
    path.write_text("мышка", encoding="utf-8")
    os.utime(path, (4e9, 4e9))
    assert refresh(archive, "a.md") == (0, 1, 0)
    path.write_text("собака", encoding="utf-8")
    os.utime(path, (1, 1))
    assert archive.index.update(archive.root).changed == 1
    assert archive.found("собаки") == ["a.md"]


def test_the_last_notes_of_a_root_do_not_go_by_themselves(archive: Archive) -> None:
    for name in ("a.md", "in/b.md"):
        archive.write(name)
    archive.index.update(archive.root)
    (archive.root / "in/b.md").unlink()
    assert refresh(archive, "in/b.md") == (0, 0, 1)
    (archive.root / "a.md").unlink()
    with pytest.raises(NotesError, match=r"holds no notes.*--forget"):
        refresh(archive, "a.md")
    (archive.root / "b.md").symlink_to("nowhere")
    with pytest.raises(NotesError, match=r"none of its 1 indexed notes is there.*--forget"):
        refresh(archive, "a.md")
    shutil.rmtree(archive.root)
    with pytest.raises(NotesError, match=r"no such folder.*--forget"):
        refresh(archive, "a.md")
    assert names(archive) == ["a.md"]


def test_a_disk_that_is_not_mounted_any_more_keeps_its_notes(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.write("a.md")
    note = archive.write("disk/b.md", "кошка")
    real_stat, mounted = os.stat, str(archive.root / "disk")

    def stat(path: str, **how: bool) -> os.stat_result | SimpleNamespace:
        status = real_stat(path, **how)
        return SimpleNamespace(st_dev=-1, st_mode=status.st_mode) if path == mounted else status

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os.path, "ismount", lambda path: os.fspath(path) == mounted and note.exists())
    assert archive.index.update(archive.root).skipped == ()
    with pytest.raises(NotesError, match=r"not among the indexed folders"):
        archive.index.forget(archive.root / "disk")
    note.unlink()
    for report in (archive.index.update(archive.root), archive.index.refresh(archive.root, [mounted])):
        assert (report.removed, [str(skip.path) for skip in report.skipped]) == (0, [mounted])
        assert "--forget" in report.skipped[0].reason
    assert archive.found("кошки") == ["b.md"]
    archive.index.forget(archive.root / "disk")
    assert names(archive) == ["a.md"]
    assert archive.index.update(archive.root).skipped == ()


def whole(archive: Archive) -> list[tuple[bytes, str, str, int]]:
    """All that the index holds of documents, without its own numbers."""
    return archive.connection.execute("SELECT path, sha256, title, lines FROM documents ORDER BY path").fetchall()


def changed(archive: Archive, chance: random.Random, step: int, links: bool) -> set[Path]:
    """Change something in the tree; return the paths that a watcher would name."""
    names = ["a.md", "b.md", "in/a.md", "in/deep/c.md", "other/d.md", "l.md", "in/l.md"]
    path, other = archive.root / chance.choice(names), archive.root / chance.choice(names)
    match chance.choice(["write", "write", "remove", "link", "rename", "folder"]):
        case "write":
            path.unlink(missing_ok=True)
            archive.write(str(path.relative_to(archive.root)), f"заметка {step}")
            return {path, path.parent}
        case "remove":
            path.unlink(missing_ok=True)
        case "link" if links:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(other)
        case "rename" if path.exists() and other.parent.exists():
            path.replace(other)
            return {path, other}
        case "folder" if (archive.root / "in").exists():
            shutil.rmtree(archive.root / "moved", ignore_errors=True)
            (archive.root / "in").rename(archive.root / "moved")
            return {archive.root / "in", archive.root / "moved"}
    return {path}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_", ["links", "a root inside"])
def test_a_whole_walk_has_nothing_to_add_to_what_was_followed_in_parts(archive: Archive, seed: int, with_: str) -> None:
    chance = random.Random(seed)
    roots = [archive.root] if with_ == "links" else [archive.root, archive.root / "other"]
    for root in roots:
        archive.write(str((root / "kept.md").relative_to(archive.root)), "всегда здесь")
        archive.index.update(root)
    for step in range(40):
        told = changed(archive, chance, step, with_ == "links")
        for root in roots:
            archive.index.refresh(root, [str(path) for path in told if path.is_relative_to(root)])
        followed = set(whole(archive))
        for root in roots:
            archive.index.update(root)
        # A link that led nowhere for a while keeps its note until a walk finds its target under a name of its own.
        extra = {path for path, *_ in followed - set(whole(archive))}
        assert set(whole(archive)) <= followed, (step, told)
        assert all(Path(os.fsdecode(path)).is_symlink() for path in extra), (step, told)


def test_thousands_of_changes_are_one_walk(archive: Archive) -> None:
    archive.write("kept.md")
    archive.index.update(archive.root)
    for number in range(1500):
        archive.write(f"{number % 50}/{number}.md", f"заметка {number}")
    report: Report = archive.index.refresh(
        archive.root, [str(archive.root / f"{number % 50}/{number}.md") for number in range(1500)]
    )
    assert (report.added, report.unchanged) == (1500, 1)


def test_a_tree_deeper_than_the_recursion_limit_is_walked(archive: Archive) -> None:
    archive.write("kept.md")
    here = Path.cwd()
    try:
        os.chdir(archive.root)
        for _ in range(sys.getrecursionlimit() + 100):  # the path in all is shorter than what a system call takes
            Path("d").mkdir()
            os.chdir("d")
        Path("deep.md").write_text("глубоко", encoding="utf-8")
        assert archive.index.update(archive.root).added == 2
        assert archive.found("глубоко") == ["deep.md"]
        assert refresh(archive, "d") == (0, 0, 0)
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", str(archive.root)], check=True)  # shutil.rmtree does recurse


def test_a_note_that_is_too_large_is_left_out_by_name_and_comes_back_when_it_shrinks(archive: Archive) -> None:
    archive.write("kept.md")
    path = archive.write("a.md", "кошка")
    archive.index.update(archive.root)
    path.write_bytes(b"word and word\n" * (50 << 20 >> 4) * 2)
    report = archive.index.refresh(archive.root, [str(path)])
    assert (report.removed, "MiB is more than the" in report.skipped[0].reason) == (1, True)
    path.write_text("собака", encoding="utf-8")
    assert refresh(archive, "a.md") == (1, 0, 0)
