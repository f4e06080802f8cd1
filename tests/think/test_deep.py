"""Every notebook that holds evidence is asked; what is joined is borne by the notes, and nothing found is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quietmind.base.errors import ContextOverflow, EngineCrashed, UsageError
from quietmind.engine.fake import Crash, FakeEngine, Step
from quietmind.engine.port import Engine, Request
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.think.answer import Answer, Notice, Text
from quietmind.think.ask import ask
from quietmind.think.deep import ask_deep
from quietmind.workspace.choose import Desk
from quietmind.workspace.notebook import Source
from quietmind.workspace.overnight import Reader
from quietmind.workspace.store import open_store
from quietmind.workspace.workspace import Workspace

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16 -fa on", "fake 1")
QUESTION = "What is known of the tank?"
NOTES = {
    "bench/tank.md": "# Tank of the bench\n\nThe tank holds 85 litres. The tank is made of blue plastic.\n",
    "garden/tank.md": "# Tank in the garden\n\nRain fills the tank. The tank holds 90 litres.\n",
    "house/lamp.md": "# Lamp\n\nThe lamp takes 60 watts.\n",
    "loose.md": "# Tank\n\nThe tank was cleaned in May.\n",
}

Script = Callable[[Request], Step]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    folder = (tmp_path / "notes").resolve()
    for name, text in NOTES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(folder)
        for name in ("bench", "garden", "house"):
            workspace.notebooks.make(name, Source("path", str(folder / name)))
        yield workspace


def desk_of(workspace: Workspace, engine: Engine) -> Desk:
    return Desk(workspace.notebooks, engine, Reader(engine, OURS, cut=True, store=open_store(workspace.folder)))


def read(workspace: Workspace, *names: str) -> None:
    for name in names:
        engine = FakeEngine(lambda _request: "x", context=8000)
        list(
            ask(
                workspace,
                "What?",
                lambda engine=engine: engine,  # type: ignore[misc]
                passages=6,
                max_tokens=9,
                desk=lambda running: desk_of(workspace, running),
                notebook=name,
            )
        )


@dataclass
class Asked:
    """What came of a question."""

    answer: Answer
    requests: list[Request]
    notices: list[str]
    shown: str


def asked(
    workspace: Workspace, script: Script, question: str = QUESTION, context: int = 8000, passages: int = 6
) -> Asked:
    engine = FakeEngine(script, context=context)
    events = list(
        ask_deep(
            workspace,
            question,
            lambda: engine,
            lambda running: desk_of(workspace, running),
            passages=passages,
            max_tokens=100,
        )
    )
    answer = events[-1]
    assert isinstance(answer, Answer)
    shown = "".join(event.text for event in events if isinstance(event, Text))
    return Asked(answer, engine.requests, [each.text for each in events if isinstance(each, Notice)], shown)


def is_composing(request: Request) -> bool:
    return "Statements:" in request.prompt


def says(bench: str = "", garden: str = "", loose: str = "", composed: str = "Nonsense of elephants.") -> Script:
    def script(request: Request) -> str:
        if is_composing(request):
            return composed
        here = [
            words for place, words in (("bench", bench), ("garden", garden)) if f"Tank {_of(place)}" in request.prompt
        ]
        return here[0] if here else loose

    return script


def _of(place: str) -> str:
    return {"bench": "of the bench", "garden": "in the garden"}[place]


def test_every_notebook_with_evidence_and_the_loose_notes_are_asked(workspace: Workspace) -> None:
    read(workspace, "bench")
    done = asked(
        workspace,
        says("The tank is made of blue plastic [1].", "Rain fills the tank [1].", "The tank was cleaned in May [1]."),
    )
    parts = {part.notebook: part for part in done.answer.parts}
    assert set(parts) == {"bench", "garden", None}
    assert parts["bench"].whole is not None
    assert parts["bench"].whole.restored > 0
    assert parts["garden"].whole is None
    assert parts["garden"].why == "never read"
    assert parts[None].why == "in no notebook"
    cited = {citation.path.parent.name: citation for citation in done.answer.citations}
    assert set(cited) == {"bench", "garden", "notes"}
    assert all(citation.verified and citation.supports for citation in cited.values())
    for citation in done.answer.citations:
        assert f"{citation.supports[0]} [{citation.number}]" in done.answer.text
    assert done.shown == done.answer.text
    assert sum("kept" in line for line in done.notices) == 3


def test_passages_that_are_not_given_are_counted(workspace: Workspace, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "notes" / f"loose{number}.md").write_text(f"# Tank {number}\n\nThe tank has {number} lids.\n")
    workspace.index((tmp_path / "notes").resolve())
    lines = asked(workspace, says(loose="The tank was cleaned in May."), passages=1).notices
    assert any("what is in no notebook" in line and "passages given: 1, left out: 3;" in line for line in lines), lines
    lines = asked(workspace, says(loose="The tank was cleaned in May.")).notices
    assert not any("left out" in line for line in lines), lines


def test_what_no_passage_supports_is_dropped_and_kept_account_of(workspace: Workspace) -> None:
    done = asked(workspace, says("The tank is green. The tank is made of blue plastic.", "Rain fills the tank."))
    assert "green" not in done.answer.text
    assert [part.dropped for part in done.answer.parts if part.notebook == "bench"] == [("The tank is green.",)]
    assert done.answer.unsupported == ()


def test_what_differs_is_set_side_by_side_and_not_composed(workspace: Workspace) -> None:
    done = asked(
        workspace,
        says("The tank holds 85 litres. The tank is made of blue plastic.", "The tank holds 90 litres."),
    )
    ((one, other),) = done.answer.disagreements
    assert {one[:24], other[:24]} == {"The tank holds 85 litres", "The tank holds 90 litres"}
    assert "litres" not in done.answer.text
    assert "blue plastic" in done.answer.text
    assert not any(is_composing(request) and "litres" in request.prompt for request in done.requests)
    assert {"The tank holds 85 litres.", "The tank holds 90 litres."} <= {
        sentence for citation in done.answer.citations for sentence in citation.supports
    }
    numbers = {citation.number: citation.path.parent.name for citation in done.answer.citations}
    assert {numbers[int(line.rpartition("[")[2][:-1])] for line in (one, other)} == {"bench", "garden"}


def test_a_composed_answer_that_holds_all_is_taken(workspace: Workspace) -> None:
    done = asked(
        workspace,
        says(
            "The tank is made of blue plastic.",
            "Rain fills the tank.",
            composed="Rain fills the tank [2]. The tank is made of blue plastic [1].",
        ),
    )
    assert done.answer.text.startswith("Rain fills the tank. [")
    assert len(done.answer.text.splitlines()) == 1
    assert all(citation.verified for citation in done.answer.citations)
    assert {sentence for citation in done.answer.citations for sentence in citation.supports} == {
        "Rain fills the tank.",
        "The tank is made of blue plastic.",
    }


@pytest.mark.parametrize(
    "composed",
    [
        "Rain fills the tank [2].",  # something is lost
        "Rain fills the tank. The tank is made of blue plastic. It is the best tank.",  # something is added
        "",
        "Rain fills the tank. The tank is made of blue plastic. " + "word " * 300,  # without end
    ],
)
def test_a_composed_answer_that_loses_or_adds_something_is_not_shown(workspace: Workspace, composed: str) -> None:
    done = asked(workspace, says("The tank is made of blue plastic.", "Rain fills the tank.", composed=composed))
    assert "\n\n" in done.answer.text
    assert "did not hold all that was found" in done.notices[-1]
    assert "best tank" not in done.answer.text


def test_one_partial_answer_needs_no_composing(workspace: Workspace) -> None:
    done = asked(workspace, says("The tank is made of blue plastic.", "I do not know."))
    assert not any(map(is_composing, done.requests))
    assert done.answer.text.startswith("The tank is made of blue plastic. [1]")


def test_where_nothing_holds_the_closest_words_are_cited(workspace: Workspace) -> None:
    done = asked(workspace, says("Elephants like jazz.", "Elephants sing.", "Elephants dance."))
    assert done.answer.text == ""
    assert done.answer.citations
    assert all("tank" in citation.quote.lower() and not citation.supports for citation in done.answer.citations)


def test_a_notebook_without_evidence_is_not_asked(workspace: Workspace) -> None:
    done = asked(workspace, says("The tank is made of blue plastic."))
    assert all(part.notebook != "house" for part in done.answer.parts)
    assert not any("60 watts" in request.prompt for request in done.requests)


def test_nothing_relevant_starts_no_engine(workspace: Workspace) -> None:
    done = asked(workspace, says(), question="Who painted the Sistine chapel?")
    assert not done.answer.found
    assert done.requests == []


def test_an_empty_question_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="the question is empty"):
        asked(workspace, says(), question=" ")


def test_a_question_longer_than_the_context_is_refused_with_both_numbers(workspace: Workspace) -> None:
    with pytest.raises(ContextOverflow, match="512"):
        asked(workspace, says(), question="What is known of the tank? " * 100, context=512)


def test_an_engine_that_dies_on_the_way_leaves_what_was_found_until_then(workspace: Workspace) -> None:
    everything = "The tank was cleaned in May. The tank is made of blue plastic. Rain fills the tank."
    answers: Iterator[Step] = iter([everything, Crash()])
    done = asked(workspace, lambda _request: next(answers))
    assert len(done.answer.parts) == 1
    assert "2 of 3 not asked: fake: the engine was ended by SIGSEGV" in done.notices[-1]
    (sentence,) = done.answer.parts[0].kept
    assert done.answer.text == f"{sentence} [1]"


def test_an_engine_that_dies_at_once_is_an_error(workspace: Workspace) -> None:
    with pytest.raises(EngineCrashed):
        asked(workspace, lambda _request: Crash())
