"""A question within a filter is answered from the passages that the filter leaves, and from no notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Engine
from quietmind.notes.filtering import Filter
from quietmind.think.answer import Answer
from quietmind.think.ask import ask
from quietmind.workspace.choose import Desk
from quietmind.workspace.notebook import Source
from quietmind.workspace.workspace import Workspace

QUESTION = "How much water does the tank hold?"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    for name in ("bench", "garden"):
        note = tmp_path / "notes" / name / "tank.md"
        note.parent.mkdir(parents=True)
        note.write_text(f"# Tank\n\nThe water tank of the {name} holds 85 litres. #{name}\n")
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(tmp_path / "notes")
        yield workspace


def answered(workspace: Workspace, within: Filter, notebook: str | None = None) -> Answer:
    def desk(_: Engine) -> Desk:
        raise AssertionError("no notebook is to be looked for")

    engine = FakeEngine(["The tank holds 85 litres [1]."])
    *_, answer = ask(
        workspace, QUESTION, lambda: engine, passages=6, max_tokens=64, desk=desk, notebook=notebook, within=within
    )
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("within", [Filter(tags=("garden",)), Filter(folders=(Path("garden"),))])
def test_only_what_the_filter_leaves_is_given_and_no_notebook_asked(workspace: Workspace, within: Filter) -> None:
    workspace.notebooks.make("all", Source("path", str(workspace.roots()[0])))
    answer = answered(workspace, within)
    assert [given.passage.path.parent.name for given in answer.given] == ["garden"]
    assert [citation.path.parent.name for citation in answer.citations] == ["garden"]


def test_a_notebook_is_asked_as_a_whole(workspace: Workspace) -> None:
    workspace.notebooks.make("all", Source("path", str(workspace.roots()[0])))
    with pytest.raises(UsageError, match="a notebook is asked as a whole; leave out the filter, or --notebook"):
        answered(workspace, Filter(tags=("garden",)), notebook="all")


def test_a_filter_that_leaves_nothing_is_refused_before_an_engine_is_started(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no indexed note bears the tag #gardens; close to it: #garden"):
        answered(workspace, Filter(tags=("gardens",)))
