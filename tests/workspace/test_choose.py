"""A notebook is answered from when it holds the evidence and can be restored; else it is said why not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.engine.fake import FakeEngine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.notes.document import Hit, Passage
from quietmind.plan.interval import Interval
from quietmind.workspace.choose import Desk, Due, Held, evidence, holding, laid, read_now, take_up, unread, worth_asking
from quietmind.workspace.notebook import Member, Notebook, Source
from quietmind.workspace.overnight import Reader
from quietmind.workspace.store import open_store
from quietmind.workspace.workspace import Workspace

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16 -fa on", "fake 1")
CONTEXT = 40_000


def hit(path: str, line: int, score: float) -> Hit:
    return Hit(Passage(Path(path), line, line, f"{path} {line}", path), score, 1.0)


def book(name: str, *members: Member) -> Notebook:
    return Notebook(name, Source("auto", ""), members, "2026-01-01T00:00:00+00:00")


def test_what_holds_most_of_the_evidence_comes_first_and_the_rest_counts_as_outside() -> None:
    books = [book("a", Member(Path("/a"))), book("b", Member(Path("/b")), Member(Path("/c")))]
    ranked = evidence(books, [hit("/a", 1, 3.0), hit("/b", 1, 2.0), hit("/c", 5, 2.0), hit("/x", 1, 1.0)])
    assert [(each.notebook.name if each.notebook else None, each.score) for each in ranked] == [
        ("b", 4.0),
        ("a", 3.0),
        (None, 1.0),
    ]
    assert [each.score for each in holding(ranked, 0.5)] == [4.0, 3.0]


def test_a_hit_lies_in_a_stretch_of_lines_only_if_it_begins_there() -> None:
    stretch = book("a", Member(Path("/a"), 10, 20))
    ranked = evidence([stretch], [hit("/a", 10, 1.0), hit("/a", 20, 1.0), hit("/a", 9, 1.0), hit("/a", 21, 1.0)])
    assert sorted(each.score for each in ranked) == [2.0, 2.0]
    assert {h.passage.first_line for each in ranked if each.notebook for h in each.hits} == {10, 20}


def test_the_best_notebook_is_the_measure_for_those_that_are_worth_asking() -> None:
    books = [book(name, Member(Path(f"/{name}"))) for name in "abc"]
    ranked = evidence(books, [hit("/x", 1, 100.0), hit("/a", 1, 10.0), hit("/b", 1, 2.0), hit("/c", 1, 1.0)])
    assert [each.notebook.name if each.notebook else None for each in worth_asking(ranked)] == [None, "a", "b"]


def test_notebooks_without_evidence_are_not_ranked() -> None:
    assert evidence([book("a", Member(Path("/a")))], []) == []


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = (tmp_path / "notes").resolve()
    for number in range(30):
        write(folder / f"{number:02}.md", f"# Note {number}\n\n" + f"The pump {number} hums. " * 60, age=100 - number)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(notes)
        workspace.notebooks.make("pumps", Source("path", str(notes)))
        yield workspace


def write(file: Path, text: str, age: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (1_700_000_000 - age, 1_700_000_000 - age))


def desk(workspace: Workspace, fingerprint: Fingerprint = OURS, context: int = CONTEXT, saves: bool = True) -> Desk:
    engine = FakeEngine(lambda _request: "an answer", context=context)
    reader = Reader(engine, fingerprint, cut=True, store=open_store(workspace.folder)) if saves else None
    return Desk(workspace.notebooks, engine, reader, lambda tokens: Interval(tokens, 2 * tokens, 3 * tokens))


def read_it(workspace: Workspace, slowly: float = 1.0) -> Held:
    at = desk(workspace)
    assert at.reader is not None
    notebook = workspace.notebooks.named("pumps")
    held = read_now(at, notebook, laid(at, notebook))
    if slowly != 1.0:  # as an engine that takes so much longer would have noted it
        snapshot = at.reader.store.snapshots()[-1]
        with at.reader.store.scratch() as folder:
            at.reader.store.restore(snapshot, OURS, folder / "cache")
            tokens = held.layout.prefix_tokens()
            seconds = snapshot.header.seconds * slowly
            at.reader.store.save(folder / "cache", OURS, tokens, label="pumps", seconds=seconds, cut=True)
    return held


def taken(workspace: Workspace, at: Desk) -> Held | Due:
    return take_up(at, workspace.notebooks.named("pumps"))


def why(workspace: Workspace, at: Desk) -> str:
    due = taken(workspace, at)
    assert isinstance(due, Due)
    return due.why


def test_what_was_read_is_restored_whole(workspace: Workspace) -> None:
    read_it(workspace)
    held = taken(workspace, desk(workspace))
    assert isinstance(held, Held)
    assert held.restored is not None
    assert held.restored.tokens == len(held.layout.prefix_tokens())
    assert held.restored.seconds > 0


def test_what_was_never_read_is_due_and_not_tokenized(workspace: Workspace) -> None:
    asked: list[str] = []

    class Listening(FakeEngine):
        def tokenize(self, text: str) -> list[int]:
            asked.append(text)
            return super().tokenize(text)

    at = desk(workspace)
    assert why(workspace, replace(at, engine=Listening([], context=CONTEXT))) == "never read"
    assert asked == []


def test_a_note_that_was_added_is_prefilled_with_the_question(workspace: Workspace, notes: Path) -> None:
    read_it(workspace)
    write(notes / "new.md", "# New\n\nThe new pump is silent.\n", age=0)
    workspace.index(notes)
    held = taken(workspace, desk(workspace))
    assert isinstance(held, Held)
    assert held.restored is not None
    assert 0 < len(held.layout.prefix_tokens()) - held.restored.tokens < 100
    assert held.layout.blocks[-1].passage.path.name == "new.md"


def test_where_an_edit_costs_longer_than_a_person_waits_the_notebook_is_due(workspace: Workspace, notes: Path) -> None:
    read_it(workspace, slowly=20.0)
    write(notes / "00.md", "# Note 0\n\nIt was edited.\n", age=0)
    workspace.index(notes)
    assert "its notes have changed, and reading" in why(workspace, desk(workspace))
    assert "tokens takes about" in why(workspace, desk(workspace))


def test_another_kv_type_is_named(workspace: Workspace) -> None:
    read_it(workspace)
    other = replace(OURS, kv="q8_0 -fa on")
    assert why(workspace, desk(workspace, other)) == "read with another KV type"


def test_a_context_that_is_smaller_than_the_notebook_is_said(workspace: Workspace) -> None:
    read_it(workspace)
    due = taken(workspace, desk(workspace, context=4096))
    assert isinstance(due, Due)
    assert "a context of 4,096 has room for 3,072" in due.why
    assert "--context" in due.mend


def test_what_was_evicted_is_due(workspace: Workspace) -> None:
    read_it(workspace)
    for snapshot in open_store(workspace.folder).snapshots():
        open_store(workspace.folder).remove(snapshot)
    assert "is gone" in why(workspace, desk(workspace))


def test_a_damaged_snapshot_is_not_answered_from(workspace: Workspace) -> None:
    read_it(workspace)
    for snapshot in open_store(workspace.folder).snapshots():
        content = bytearray(snapshot.path.read_bytes())
        content[-300] ^= 1
        snapshot.path.write_bytes(content)
    assert "not what was written" in why(workspace, desk(workspace))


def test_an_engine_that_keeps_nothing_takes_nothing_up(workspace: Workspace) -> None:
    read_it(workspace)
    assert "cannot keep" in why(workspace, desk(workspace, saves=False))


def test_what_reading_takes_is_said_before_it_is_read(workspace: Workspace) -> None:
    at = desk(workspace)
    layout = laid(at, workspace.notebooks.named("pumps"))
    tokens = len(layout.prefix_tokens())
    assert unread(at, layout) == (tokens, Interval(tokens, 2 * tokens, 3 * tokens))
    read_it(workspace)
    assert unread(at, layout) == (0, Interval(0, 0, 0))
