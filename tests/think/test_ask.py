"""Asking: what is found, what the model is given, and what becomes of its words. The engine here is scripted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import ContextOverflow, EngineCrashed, NothingIndexed, UsageError
from quietmind.engine.fake import Crash, FakeEngine, Step
from quietmind.think.answer import Answer, Found, Loading, Text
from quietmind.think.ask import ask
from quietmind.think.verify import Standing
from quietmind.workspace.workspace import Workspace

NOTES = {
    "tank.md": "# Water tank\n\nThe tank of the bench holds 85 litres.\nIt is made of blue plastic.\n",
    "pump.md": "# Pump\n\nThe pump rests for 10 minutes after every run.\n",
    "полив.md": "# Полив\n\nПолив включается, когда влажность почвы ниже 32 %.\n",
}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / name).write_text(text, encoding="utf-8")
    with Workspace(tmp_path / "workspace", create=True) as workspace:
        workspace.index(notes)
        yield workspace


def answer_to(archive: Workspace, question: str, *script: Step, context: int = 4096) -> tuple[Answer, FakeEngine, str]:
    """Return the answer, the engine that gave it, and what was shown while it came."""
    engine = FakeEngine(script, context=context)
    events = list(ask(archive, question, lambda: engine, passages=6, max_tokens=64))
    assert isinstance(events[0], Loading)
    assert isinstance(events[1], Found)
    assert isinstance(events[-1], Answer)
    return events[-1], engine, "".join(event.text for event in events if isinstance(event, Text))


def test_a_supported_sentence_is_cited_with_the_words_that_bear_it(archive: Workspace) -> None:
    answer, engine, shown = answer_to(archive, "How much water does the tank hold?", "The tank holds 85 litres [1].")
    (citation,) = answer.citations
    assert citation.path.name == "tank.md"
    assert (citation.first_line, citation.last_line) == (3, 3)
    assert citation.quote == "The tank of the bench holds 85 litres."
    assert citation.standing is Standing.VERIFIED
    assert citation.supports == ("The tank holds 85 litres.",)
    assert answer.unsupported == ()
    assert shown == answer.text == "The tank holds 85 litres. [1]"
    assert "85 litres" in engine.requests[0].prompt


def test_a_sentence_that_the_model_left_unmarked_gets_the_mark_of_the_passage_that_holds_it(archive: Workspace) -> None:
    answer, _, _ = answer_to(
        archive, "Сколько влажность почвы для полива?", "Полив включается при влажности ниже 32 %."
    )
    assert answer.text.endswith(f"[{answer.citations[0].number}]")
    assert answer.citations[0].path.name == "полив.md"


def test_a_mark_on_the_wrong_passage_is_not_believed(archive: Workspace) -> None:
    answer, _, _ = answer_to(archive, "How much does the tank hold, and the pump?", "The tank holds 85 litres [2].")
    citation = answer.citations[0]
    assert citation.path.name == "tank.md"
    assert answer.text == f"The tank holds 85 litres. [{citation.number}]"


def test_a_sentence_that_no_passage_supports_is_marked_and_listed(archive: Workspace) -> None:
    answer, _, _ = answer_to(
        archive, "How much water does the tank hold?", "The tank holds 850 litres [1]. It is made of blue plastic."
    )
    assert answer.unsupported == ("The tank holds 850 litres.",)
    assert answer.text == "The tank holds 850 litres. [?] It is made of blue plastic. [1]"


def test_the_closest_words_are_cited_when_the_model_says_nothing_that_holds(archive: Workspace) -> None:
    answer, _, _ = answer_to(archive, "How much water does the tank hold?", "Elephants like jazz music.")
    assert answer.citations[0].quote == "The tank of the bench holds 85 litres."
    assert answer.citations[0].verified
    assert answer.citations[0].supports == ()


def test_nothing_relevant_means_that_no_model_is_started(archive: Workspace) -> None:
    def never() -> FakeEngine:
        raise AssertionError("the engine was started")

    events = list(ask(archive, "Who painted the Sistine chapel?", never, passages=6, max_tokens=64))
    assert events[0] == Found(())
    assert isinstance(events[-1], Answer)
    assert not events[-1].found
    assert events[-1].model is None


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(archive: Workspace, question: str) -> None:
    with pytest.raises(UsageError, match="the question is empty"):
        list(ask(archive, question, FakeEngine, passages=6, max_tokens=64))  # type: ignore[arg-type]


def test_a_question_longer_than_the_context_is_refused_with_both_numbers(archive: Workspace) -> None:
    question = "How much water does the tank hold? " * 200
    with pytest.raises(ContextOverflow, match="1,024") as caught:
        answer_to(archive, question, context=1024)
    assert caught.value.needed > caught.value.context == 1024


def test_an_engine_that_crashes_is_reported_and_stopped(archive: Workspace) -> None:
    with pytest.raises(EngineCrashed):
        answer_to(archive, "How much water does the tank hold?", Crash("The tank holds 85 litres.", after=2))


def test_a_reader_who_leaves_stops_the_engine(archive: Workspace) -> None:
    engine = FakeEngine(["The tank holds 85 litres. " * 20])
    events = ask(archive, "How much water does the tank hold?", lambda: engine, passages=6, max_tokens=64)
    while not isinstance(next(events), Text):
        pass
    events.close()
    assert not engine.healthy()


def test_a_model_that_repeats_itself_is_stopped(archive: Workspace) -> None:
    answer, _, _ = answer_to(archive, "How much does the tank hold?", "The tank holds 85 litres. " * 8)
    assert answer.text.count("85 litres") == 2
    assert answer.stopped_early is not None
    assert "repeat" in answer.stopped_early


def test_an_answer_that_was_cut_says_so_and_its_last_sentence_bears_nothing(archive: Workspace) -> None:
    said = "The tank holds 85 litres. " + "And " + " ".join(f"word{n}" for n in range(99))
    answer, _, _ = answer_to(archive, "How much does the tank hold?", said)
    assert answer.stopped_early == "the answer was cut at 64 tokens (max_tokens)"
    assert answer.text.startswith("The tank holds 85 litres. [1]")
    assert answer.text.endswith("[?]")


def test_a_short_answer_is_checked_too(archive: Workspace) -> None:
    answer, _, _ = answer_to(archive, "What is the tank made of?", "Blue. Red. No.")
    assert answer.text == "Blue. [1] Red. [?] No. [?]"


def test_a_line_without_end_is_no_obstacle(archive: Workspace) -> None:
    note = archive.roots()[0] / "long.md"
    note.write_text("Nothing here. " * 30_000 + "The armadillo weighs 5 kg. " + "Or here. " * 9_000, encoding="utf-8")
    archive.index(archive.roots()[0])
    answer, engine, _ = answer_to(archive, "How much does the armadillo weigh?", "The armadillo weighs 5 kg.")
    assert answer.citations[0].standing is Standing.VERIFIED
    assert len(engine.requests[0].prompt) < 6000


def test_a_file_that_changed_after_indexing_is_said_to_have_changed(archive: Workspace) -> None:
    note = archive.roots()[0] / "tank.md"
    note.write_text("# Water tank\n\nThe tank of the bench holds 58 litres.\n", encoding="utf-8")
    answer, _, _ = answer_to(archive, "How much water does the tank hold?", "The tank holds 85 litres [1].")
    assert answer.citations[0].standing is Standing.CHANGED
    assert not answer.citations[0].verified


def test_an_empty_workspace_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingIndexed, match="quietmind index FOLDER"):
        Workspace(tmp_path / "none")
