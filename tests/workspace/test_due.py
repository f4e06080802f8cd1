"""A notebook is due when what is stored is not what a reading would make now, and says why; reading mends that."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.base.units import GIB
from quietmind.engine.fake import FakeEngine
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.workspace.due import standing
from quietmind.workspace.laid import laid_out, left_out, reserve_of
from quietmind.workspace.notebook import Source
from quietmind.workspace.overnight import Done, Reader, Room, read_all
from quietmind.workspace.store import LEAST_BUDGET, budget_of, open_store
from quietmind.workspace.workspace import Workspace

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16 -fa on", "fake 1")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    for name, words in (("small", 60), ("large", 900), ("middle", 300)):
        write(folder / name / "one.md", f"# {name}\n\n" + f"The {name} pump hums. " * words, age=100)
        write(folder / name / "two.md", f"# More of {name}\n\nIt is {name}.\n", age=50)
    return folder.resolve()


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(notes)
        for name in ("large", "middle", "small"):
            workspace.notebooks.make(name, Source("path", str(notes / name)))
        yield workspace


def write(file: Path, text: str, age: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (1_700_000_000 - age, 1_700_000_000 - age))


def reader(workspace: Workspace, fingerprint: Fingerprint = OURS, context: int = 50_000) -> Reader:
    engine = FakeEngine(lambda _request: "an answer", context=context)
    return Reader(engine, fingerprint, cut=True, store=Store(workspace.folder / "snapshots"))


def read_due(workspace: Workspace, by: Reader | None = None, names: tuple[str, ...] = ()) -> list[Done]:
    by = by or reader(workspace)
    return list(read_all(by, workspace.notebooks, by.due(workspace.notebooks, names)))


def why(workspace: Workspace, by: Reader | None = None) -> dict[str, str]:
    return {each.notebook.name: each.due for each in (by or reader(workspace)).due(workspace.notebooks)}


def test_what_was_never_read_is_due_and_small_notebooks_come_first(workspace: Workspace) -> None:
    assert list(why(workspace).items()) == [(name, "never read") for name in ("small", "middle", "large")]


def test_after_a_reading_nothing_is_due_and_reading_again_does_nothing(workspace: Workspace) -> None:
    done = read_due(workspace)
    assert [each.name for each in done] == ["small", "middle", "large"]
    assert all(each.report and each.report.finished for each in done)
    assert why(workspace) == {}
    assert read_due(workspace) == []
    reading = workspace.notebooks.named("small").reading
    assert reading is not None
    assert reading.tokens == (done[0].report.tokens if done[0].report else None)


def test_a_changed_note_makes_its_notebook_due_and_costs_what_stands_behind_it(
    workspace: Workspace, notes: Path
) -> None:
    read_due(workspace)
    write(notes / "large" / "two.md", "# More of large\n\nIt is another.\n", age=1)
    workspace.index(notes)
    assert why(workspace) == {"large": "its notes have changed"}
    (done,) = read_due(workspace)
    assert done.report is not None
    assert done.report.restored > 0.9 * done.report.tokens
    assert why(workspace) == {}


def test_what_nothing_is_stored_of_comes_before_what_is_stale(workspace: Workspace, notes: Path) -> None:
    read_due(workspace, names=("small", "middle"))
    write(notes / "small" / "two.md", "# More\n\nChanged.\n", age=1)
    workspace.index(notes)
    assert list(why(workspace)) == ["large", "small"]


@pytest.mark.parametrize(
    ("part", "said"),
    [("weights", "another model"), ("kv", "another KV type"), ("engine", "another engine"), ("tokenizer", "tokenizer")],
)
def test_another_run_makes_all_due_and_says_what_differs(workspace: Workspace, part: str, said: str) -> None:
    read_due(workspace)
    by = reader(workspace, replace(OURS, **{part: "another"}))
    reasons = why(workspace, by)
    assert set(reasons) == {"small", "middle", "large"}
    assert all(said in reason for reason in reasons.values())
    assert all(each.report and each.report.restored == 0 for each in read_due(workspace, by))
    assert why(workspace, by) == {}


def test_of_another_model_nothing_else_is_said_to_differ(workspace: Workspace) -> None:
    read_due(workspace)
    other = Fingerprint("another", "another", "another", "another", "another", "another", experts="another")
    assert set(why(workspace, reader(workspace, other)).values()) == {"read with another model"}


def test_another_tokenizer_does_not_use_the_tokens_that_were_kept(workspace: Workspace) -> None:
    class Counting(FakeEngine):
        asked = 0

        def tokenize(self, text: str) -> list[int]:
            self.asked += 1
            return super().tokenize(text)

    def asked(tokenizer: str) -> int:
        engine = Counting([], context=50_000)
        passages = workspace.notebooks.passages(workspace.notebooks.named("small"))
        laid_out(workspace.notebooks, "small", passages, engine, tokenizer)
        return engine.asked

    first = asked("one")
    assert asked("one") < first
    assert asked("another") == first


def test_a_snapshot_that_is_gone_makes_its_notebook_due(workspace: Workspace) -> None:
    read_due(workspace)
    by = reader(workspace)
    (snapshot,) = [each for each in by.store.snapshots() if each.header.label == "middle"]
    by.store.remove(snapshot)
    assert list(why(workspace, by)) == ["middle"]
    assert "gone" in why(workspace, by)["middle"]


def test_a_damaged_snapshot_is_said_and_read_again(workspace: Workspace, notes: Path) -> None:
    read_due(workspace)
    by = reader(workspace)
    (snapshot,) = [each for each in by.store.snapshots() if each.header.label == "small"]
    content = bytearray(snapshot.path.read_bytes())
    content[-300] ^= 1
    snapshot.path.write_bytes(content)
    write(notes / "small" / "two.md", "# More\n\nChanged.\n", age=1)
    workspace.index(notes)
    (done,) = read_due(workspace, by)
    assert done.report is not None
    assert any("not what was written" in line for line in done.report.refused)
    assert done.report.finished
    assert why(workspace, by) == {}


def test_what_had_no_room_is_read_once_a_larger_context_has_it(workspace: Workspace) -> None:
    by = reader(workspace, context=3000)
    done = {each.name: each for each in read_due(workspace, by)}
    assert done["large"].left_out
    for name in ("large", "small"):
        passages = workspace.notebooks.passages(workspace.notebooks.named(name))
        assert left_out(workspace.notebooks, name, passages) == list(done[name].left_out)
    assert not done["small"].left_out
    assert why(workspace, by) == {}
    assert why(workspace, reader(workspace, context=2000)) == {}
    assert why(workspace) == {"large": "it was cut at a context of 3,000, and 50,000 holds more"}


def test_a_context_smaller_than_one_note_is_said_and_the_others_are_read(workspace: Workspace, notes: Path) -> None:
    write(notes / "line" / "one.md", "word " * 2000, age=10)
    workspace.index(notes)
    workspace.notebooks.make("line", Source("path", str(notes / "line")))
    done = {each.name: each for each in read_due(workspace, reader(workspace, context=2000))}
    assert "no note fits" in done["line"].problem
    assert "\n" not in done["line"].problem
    assert all(done[name].report for name in ("small", "middle", "large"))


def test_out_of_time_the_rest_stays_due(workspace: Workspace) -> None:
    by = reader(workspace)
    due = by.due(workspace.notebooks)
    assert list(read_all(by, workspace.notebooks, due, until=time.monotonic())) == []
    assert len(why(workspace)) == 3


def test_a_reading_that_was_broken_off_is_due_and_says_how_far_it_came(workspace: Workspace) -> None:
    by = reader(workspace)
    notebook = workspace.notebooks.refresh("large")
    layout = laid_out(workspace.notebooks, "large", workspace.notebooks.passages(notebook), by.engine, "tokenizer")
    tokens = layout.prefix_tokens(1)
    with by.store.scratch() as folder:
        (folder / "cache").write_text("[]")
        by.store.save(folder / "cache", OURS, tokens, label="large", seconds=1.0, cut=True)
    reasons = why(workspace, by)
    assert reasons["large"] == f"read in part ({len(tokens):,} tokens)"
    assert list(reasons) == ["small", "middle", "large"]


def test_without_an_engine_what_is_known_is_compared(workspace: Workspace) -> None:
    read_due(workspace)
    notebook = workspace.notebooks.named("small")
    passages = workspace.notebooks.passages(notebook)
    snapshots = Store(workspace.folder / "snapshots").snapshots()
    assert standing(notebook, passages, snapshots).due == ""
    assert standing(notebook, passages, snapshots, {"weights": "weights"}).due == ""
    assert standing(notebook, passages, snapshots, {"weights": "x"}).due == "read with another model"


def test_an_unknown_name_is_said_before_anything_is_read(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="there are: large, middle, small"):
        reader(workspace).due(workspace.notebooks, ["small", "smal"])


def test_the_budget_is_what_was_asked_for_else_a_share_of_the_disk(tmp_path: Path) -> None:
    assert budget_of(tmp_path, 3) == 3 * GIB
    assert budget_of(tmp_path / "not" / "there" / "yet") >= LEAST_BUDGET
    assert open_store(tmp_path).snapshots() == ()


def test_of_a_small_context_a_share_stays_free() -> None:
    assert reserve_of(100_000) == 1024
    assert reserve_of(2048) == 512


def test_a_full_store_does_not_lose_one_reading_to_the_next(workspace: Workspace) -> None:
    by = reader(workspace)
    read_due(workspace, by, names=("small",))
    (small,) = by.store.snapshots()
    by = replace(by, room=Room(budget=small.bytes, per_token=4))
    done = read_due(workspace, by)
    assert all("raise snapshot_gib" in each.problem for each in done)
    assert by.store.snapshots() == (small,)
    middle = by.due(workspace.notebooks, ["middle"])
    (forced,) = read_all(by, workspace.notebooks, middle, evict=True)
    assert forced.report


def test_what_nobody_needs_any_more_is_no_reason_against_reading(workspace: Workspace) -> None:
    by = reader(workspace)
    read_due(workspace, by, names=("large",))
    workspace.notebooks.drop("large")
    by = replace(by, room=Room(budget=by.store.bytes_used(), per_token=4))
    assert all(each.report for each in read_due(workspace, by))
