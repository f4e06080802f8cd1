"""Notebooks are kept, follow their notes, and remember what was read of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.workspace.notebook import Reading, Source
from quietmind.workspace.notebooks import text_digest
from quietmind.workspace.workspace import Workspace

READING = Reading("run", "content", 1200, 3.5, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(["pump.md", "sub/hub.md", "sub/tank.md"]):
        write(folder / name, f"# {name}\n\nThe {Path(name).stem} is number {number}. #things\n", age=100 - number)
    write(folder / "front.md", "---\ntags: [plans, #x]\n---\n# Front\n\nNothing more.\n", age=50)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(notes)
        yield workspace


def write(file: Path, text: str, age: float) -> None:
    file.write_text(text)
    when = 1_700_000_000 - age
    os.utime(file, (when, when))


def names(workspace: Workspace, notebook: str) -> list[str]:
    return [member.path.name for member in workspace.notebooks.named(notebook).members]


def test_a_folder_makes_a_notebook_of_all_notes_below_it_oldest_first(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    assert names(workspace, "all") == ["pump.md", "hub.md", "tank.md", "front.md"]
    workspace.notebooks.make("sub", Source("path", str((notes / "sub").resolve())))
    assert names(workspace, "sub") == ["hub.md", "tank.md"]


def test_one_file_makes_a_notebook_too(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("one", Source("path", str((notes / "pump.md").resolve())))
    assert names(workspace, "one") == ["pump.md"]


def test_a_folder_whose_name_only_begins_alike_is_not_below(workspace: Workspace, notes: Path) -> None:
    with pytest.raises(UsageError, match="holds no indexed notes"):
        workspace.notebooks.make("none", Source("path", str(notes.resolve() / "su")))


@pytest.mark.parametrize(("tag", "found"), [("things", ["pump.md", "hub.md", "tank.md"]), ("plans", ["front.md"])])
def test_a_tag_makes_a_notebook_of_the_notes_that_bear_it(workspace: Workspace, tag: str, found: list[str]) -> None:
    workspace.notebooks.make("tagged", Source("tag", tag))
    assert names(workspace, "tagged") == found
    with pytest.raises(UsageError, match=f"no indexed note bears the tag #{tag[:-1]};"):
        workspace.notebooks.make("none", Source("tag", tag[:-1]))


def test_of_many_notebooks_an_error_names_some(workspace: Workspace, notes: Path) -> None:
    for number in range(23):
        workspace.notebooks.make(f"book {number:02}", Source("path", str(notes.resolve())))
    with pytest.raises(UsageError, match=r"there are: book 00, .*, book 19 and 3 more$"):
        workspace.notebooks.named("none")


def test_what_is_in_step_is_not_written_again(workspace: Workspace, notes: Path) -> None:
    made = workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    before = workspace.notebooks._connection.total_changes
    assert workspace.notebooks.refresh("all") == made
    assert workspace.notebooks._connection.total_changes == before


def test_a_query_makes_a_notebook_of_the_passages_that_it_finds(workspace: Workspace) -> None:
    made = workspace.notebooks.make("found", Source("query", "tank number"))
    assert "tank.md" in [member.path.name for member in made.members]
    assert all(member.first_line for member in made.members)
    assert any("tank is number 2" in passage.text for passage in workspace.notebooks.passages(made))


def test_a_changed_note_goes_to_the_end_and_a_new_one_behind_it(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    write(notes / "pump.md", "# pump\n\nAnother pump.\n", age=10)
    write(notes / "new.md", "# new\n\nA new note.\n", age=5)
    (notes / "sub" / "hub.md").unlink()
    workspace.index(notes)
    workspace.notebooks.refresh("all")
    assert names(workspace, "all") == ["tank.md", "front.md", "pump.md", "new.md"]


def test_refreshing_a_notebook_whose_notes_are_as_they_were_changes_nothing(workspace: Workspace, notes: Path) -> None:
    made = workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    assert workspace.notebooks.refresh("all") == made


def test_a_division_keeps_its_own_members(workspace: Workspace, notes: Path) -> None:
    whole = workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    workspace.notebooks.make("half", Source("auto", ""), whole.members[:2])
    assert names(workspace, "half") == ["pump.md", "hub.md"]
    workspace.notebooks.refresh("half")
    assert names(workspace, "half") == ["pump.md", "hub.md"]


def test_what_was_read_is_remembered_and_forgotten(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    workspace.notebooks.note_reading("all", READING)
    assert workspace.notebooks.named("all").reading == READING
    workspace.notebooks.forget_reading("all")
    assert workspace.notebooks.named("all").reading is None


def test_tokens_are_kept_by_text_and_tokenizer(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    workspace.notebooks.note_tokens("all", "bpe", {"one": [1, 2], "two": []})
    assert workspace.notebooks.tokens("all", "bpe") == {text_digest("one"): (1, 2), text_digest("two"): ()}
    assert workspace.notebooks.tokens("all", "another") == {}


def test_dropping_forgets_all_of_it(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    workspace.notebooks.note_reading("all", READING)
    workspace.notebooks.drop("all")
    assert workspace.notebooks.all() == []
    again = workspace.notebooks.make("all", Source("path", str(notes.resolve())))
    assert again.reading is None


@pytest.mark.parametrize("name", ["", " ", "a/b", "../x", "x" * 81, "a\nb", "-x"])
def test_a_name_that_would_be_trouble_is_refused(workspace: Workspace, notes: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a notebook"):
        workspace.notebooks.make(name, Source("path", str(notes.resolve())))


def test_a_name_that_is_taken_or_unknown_is_said(workspace: Workspace, notes: Path) -> None:
    workspace.notebooks.make("заметки 1", Source("path", str(notes.resolve())))
    with pytest.raises(UsageError, match="already"):
        workspace.notebooks.make("заметки 1", Source("path", str(notes.resolve())))
    with pytest.raises(UsageError, match=r"no notebook 'x'; there are: заметки 1"):
        workspace.notebooks.drop("x")
