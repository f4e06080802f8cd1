"""What becomes of what was read when the notes are gone, or when the context is smaller than it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import EngineRefused, NoRoomForSnapshot
from quietmind.engine.fake import FakeEngine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.workspace.choose import Desk, Due, take_up
from quietmind.workspace.laid import laid_out
from quietmind.workspace.notebook import Source
from quietmind.workspace.overnight import Reader, read_all
from quietmind.workspace.reading import restore
from quietmind.workspace.workspace import Workspace

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16 -fa on", "fake 1")


class Strict(FakeEngine):
    """Refuses a cache that is larger than its context, as llama.cpp does."""

    def restore(self, file: Path) -> int:
        tokens = super().restore(file)
        if tokens > self.context:
            raise EngineRefused(f"{tokens} tokens do not fit")
        return tokens


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    for folder in ("kept", "gone"):
        (tmp_path / "notes" / folder).mkdir(parents=True)
        (tmp_path / "notes" / folder / "one.md").write_text(f"# {folder}\n\n" + "The pump hums. " * 200)
    return (tmp_path / "notes").resolve()


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(notes)
        for name in ("kept", "gone"):
            workspace.notebooks.make(name, Source("path", str(notes / name)))
        yield workspace


def reader(workspace: Workspace, context: int = 50_000) -> Reader:
    engine = Strict(lambda _request: "an answer", context=context)
    return Reader(engine, OURS, cut=True, store=Store(workspace.folder / "snapshots"))


def test_a_notebook_whose_notes_are_gone_is_named_and_not_read(workspace: Workspace, notes: Path) -> None:
    shutil.rmtree(notes / "gone")
    workspace.index(notes)
    by = reader(workspace)
    done = {each.name: each for each in read_all(by, workspace.notebooks, by.due(workspace.notebooks))}
    assert done["kept"].report is not None
    assert done["gone"].report is None
    assert "none of its notes is in the index any more" in done["gone"].problem
    assert "\n" not in done["gone"].problem
    assert [snapshot.header.label for snapshot in by.store.snapshots()] == ["kept"]


def test_a_notebook_that_was_read_and_is_empty_now_does_not_answer(workspace: Workspace, notes: Path) -> None:
    by = reader(workspace)
    list(read_all(by, workspace.notebooks, by.due(workspace.notebooks)))
    shutil.rmtree(notes / "gone")
    workspace.index(notes)
    taken = take_up(Desk(workspace.notebooks, by.engine, by), workspace.notebooks.named("gone"))
    assert isinstance(taken, Due)
    assert "none of its notes" in taken.why


def test_what_was_read_in_a_larger_context_is_kept(workspace: Workspace) -> None:
    by = reader(workspace)
    list(read_all(by, workspace.notebooks, by.due(workspace.notebooks, ["kept"])))
    (stored,) = by.store.snapshots()
    passages = workspace.notebooks.passages(workspace.notebooks.named("kept"))
    layout = laid_out(workspace.notebooks, "kept", passages, by.engine, OURS.tokenizer)
    smaller = reader(workspace, context=stored.header.tokens - 1)
    held = restore(smaller.engine, smaller.store, OURS, layout.prefix_tokens()[:100])
    assert held.tokens == 0
    assert held.refused
    assert [snapshot.path for snapshot in by.store.snapshots()] == [stored.path]


def test_what_takes_more_room_than_was_expected_does_not_end_the_night(workspace: Workspace) -> None:
    by = replace(reader(workspace), store=Store(workspace.folder / "snapshots", budget=10))
    done = list(read_all(by, workspace.notebooks, by.due(workspace.notebooks)))
    assert [each.report for each in done] == [None, None]
    assert all("all together may take" in each.problem for each in done)
    with pytest.raises(NoRoomForSnapshot):  # asked for by its name, it is an error
        list(read_all(by, workspace.notebooks, by.due(workspace.notebooks), evict=True))
