"""With reranking, the model is given what it holds to answer, out of more passages than it is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.engine.fake import FakeEngine, Likely, Step
from quietmind.engine.port import Request
from quietmind.think.answer import Answer
from quietmind.think.ask import ask
from quietmind.workspace.workspace import Workspace

QUESTION = "When does the pump of the garden rest?"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    notes = tmp_path / "notes"
    notes.mkdir()
    for n in range(8):
        text = f"# Pump {n}\n\nThe pump of the garden may rest, says page {n}, when pump and garden rest.\n"
        (notes / f"{n}.md").write_text(text, encoding="utf-8")
    (notes / "right.md").write_text("# Hours\n\nThe pump rests from nine to ten.\n", encoding="utf-8")
    with Workspace(tmp_path / "workspace", create=True) as workspace:
        workspace.index(notes)
        yield workspace


def says(request: Request) -> Step:
    if "Does this passage" not in request.prompt:
        return "The pump rests from nine to ten [1]."
    return Likely(" Yes", 0.9 if "nine to ten" in request.prompt else 0.1)


def given(archive: Workspace, *, rerank: bool) -> list[str]:
    engine = FakeEngine(says)
    *_, answer = ask(archive, QUESTION, lambda: engine, passages=2, max_tokens=64, rerank=rerank)
    assert isinstance(answer, Answer)
    return [each.passage.path.name for each in answer.given]


def test_the_model_is_given_what_it_holds_to_answer(archive: Workspace) -> None:
    assert "right.md" not in given(archive, rerank=False)
    reranked = given(archive, rerank=True)
    assert reranked[0] == "right.md"
    assert len(reranked) == 2
