"""Asking a notebook: restored where it is read, named with the reason where it is not, read now where it is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from quietmind.base.errors import ContextOverflow, SnapshotError, UsageError
from quietmind.engine.fake import FakeEngine, Step
from quietmind.engine.port import Engine, Request
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.plan.interval import Interval
from quietmind.think.answer import Answer, Notice, Text
from quietmind.think.ask import ask
from quietmind.think.verify import Standing
from quietmind.workspace.choose import Desk
from quietmind.workspace.notebook import Source
from quietmind.workspace.overnight import Reader
from quietmind.workspace.store import open_store
from quietmind.workspace.workspace import Workspace

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16 -fa on", "fake 1")
QUESTION = "How much water does the tank hold?"
TRUE = "The tank holds 85 litres [{number}]."


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = (tmp_path / "notes").resolve()
    for number in range(20):
        write(folder / "pumps" / f"{number:02}.md", f"# Pump {number}\n\nPump {number} hums at {number} Hz.\n", 100)
    write(folder / "pumps" / "tank.md", "# Water tank\n\nThe tank of the bench holds 85 litres.\n", 50)
    write(folder / "garden" / "rain.md", "# Rain\n\nRain fills the garden tank.\n\nRoses want little water.\n", 50)
    write(folder / "loose.md", "# Loose\n\nA kite flies over the meadow.\n", 50)
    return folder


def write(file: Path, text: str, age: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (1_700_000_000 - age, 1_700_000_000 - age))


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(notes)
        yield workspace


@dataclass
class Asked:
    """What came of a question."""

    answer: Answer
    engine: FakeEngine
    shown: str
    notices: list[str] = field(default_factory=list)


def asked(
    workspace: Workspace,
    *script: Step | Callable[[Request], Step],
    question: str = QUESTION,
    context: int = 40_000,
    fingerprint: Fingerprint = OURS,
    saves: bool = True,
    max_tokens: int = 64,
    notebook: str | None = None,
) -> Asked:
    steps = iter(script)

    def play(request: Request) -> Step:
        step = "x" if request.max_tokens == 1 else next(steps)  # a reading asks for one token
        return step(request) if callable(step) else step

    engine = FakeEngine(play, context=context)

    def desk(running: Engine) -> Desk:
        reader = Reader(running, fingerprint, cut=True, store=open_store(workspace.folder)) if saves else None
        return Desk(workspace.notebooks, running, reader, lambda tokens: Interval(tokens / 9, tokens / 8, tokens / 7))

    events = list(
        ask(workspace, question, lambda: engine, passages=6, max_tokens=max_tokens, desk=desk, notebook=notebook)
    )
    answer = events[-1]
    assert isinstance(answer, Answer)
    shown = "".join(event.text for event in events if isinstance(event, Text))
    return Asked(answer, engine, shown, [event.text for event in events if isinstance(event, Notice)])


def number_of(words: str, request: Request) -> int:
    """Return the number of the block of the prompt that holds ``words``."""
    before = request.prompt[: request.prompt.index(words)]
    return int(before.rpartition("\n[")[2].split("]")[0])


def true_answer(request: Request) -> str:
    return TRUE.format(number=number_of("The tank of the bench", request))


def make(workspace: Workspace, notes: Path, *names: str) -> None:
    for name in names:
        workspace.notebooks.make(name, Source("path", str(notes / name)))


def read_all(workspace: Workspace, *names: str) -> None:
    for name in names:
        asked(workspace, "Nothing.", notebook=name)


def test_a_notebook_that_is_read_is_restored_and_answers_whole(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    done = asked(workspace, true_answer)
    assert done.notices == []
    used = done.answer.notebook
    assert used is not None
    assert (used.name, used.restored) == ("pumps", used.tokens)
    assert used.snapshot is not None
    assert used.fresh_seconds > 0
    assert 0 < used.prefilled < 120
    assert done.answer.timings.engine.cached == used.tokens
    assert len(done.answer.given) == 21
    assert "hums at 19 Hz" in done.engine.requests[-1].prompt
    (citation,) = (one for one in done.answer.citations if one.supports)
    assert citation.path.name == "tank.md"
    assert citation.standing is Standing.VERIFIED
    assert done.shown == done.answer.text == f"The tank holds 85 litres. [{citation.number}]"


def test_the_question_stands_behind_the_notes_with_its_language(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    english = asked(workspace, true_answer).engine.requests[-1].prompt
    russian = asked(workspace, "Не знаю.", question="Сколько литров вмещает tank?").engine.requests[-1].prompt
    before, _, behind = english.partition("\nQuestion:")
    assert russian.startswith(before)
    assert "holds 85 litres" in before
    assert "Answer in English" in behind
    assert "Ответь по-русски" in russian.removeprefix(before)


def test_without_notebooks_everything_is_as_ever(workspace: Workspace) -> None:
    done = asked(workspace, "The tank holds 85 litres [1].")
    assert done.answer.notebook is None
    assert done.notices == []
    assert "hums" not in done.engine.requests[-1].prompt


def test_a_notebook_that_is_not_read_is_named_and_passages_answer(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    done = asked(workspace, "The tank holds 85 litres [1].")
    assert done.answer.notebook is None
    assert done.notices == [
        "notebook 'pumps' holds this and is not used: never read; read it with `quietmind read pumps`; "
        "answering from passages"
    ]
    assert done.answer.citations[0].supports == ("The tank holds 85 litres.",)


def test_an_engine_without_snapshots_answers_as_ever(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    done = asked(workspace, "The tank holds 85 litres [1].", saves=False)
    assert done.notices == []
    assert done.answer.notebook is None


def test_what_the_notes_do_not_hold_starts_no_engine(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    done = asked(workspace, question="Who painted the Sistine chapel?")
    assert not done.answer.found
    assert done.engine.requests == []


def test_another_run_than_the_one_that_read_is_said(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    done = asked(workspace, "The tank holds 85 litres [1].", fingerprint=replace(OURS, kv="q8_0 -fa on"))
    assert done.answer.notebook is None
    assert "read with another KV type" in done.notices[0]


def test_a_context_smaller_than_the_notebook_means_passages(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    done = asked(workspace, "The tank holds 85 litres [1].", context=400)
    assert done.answer.notebook is None
    assert "give a larger --context" in done.notices[0]


def test_evidence_outside_of_all_notebooks_is_answered_from_passages(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    done = asked(workspace, "A kite flies over the meadow [1].", question="What flies over the meadow?")
    assert done.answer.notebook is None
    assert done.notices == []
    assert done.answer.citations[0].path.name == "loose.md"


def test_the_best_that_is_read_is_used_and_the_better_one_named(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps", "garden")
    read_all(workspace, "garden")
    question = "How much does the tank of the bench hold, and what fills the garden tank?"
    done = asked(workspace, "Rain fills the garden tank [1].", question=question)
    assert done.answer.notebook is not None
    assert done.answer.notebook.name == "garden"
    assert done.notices == [
        "notebook 'pumps' holds this and is not used: never read; read it with `quietmind read pumps`"
    ]


def test_what_other_notebooks_hold_is_said(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps", "garden")
    read_all(workspace, "pumps", "garden")
    question = "How much does the tank of the bench hold, and what fills the garden tank?"
    done = asked(workspace, true_answer, question=question)
    assert done.answer.notebook is not None
    assert done.answer.notebook.name == "pumps"
    assert done.notices == ["1 more notebook holds something on this; --deep asks them all"]


def test_a_note_written_after_the_reading_is_answered_from(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    write(notes / "pumps" / "new.md", "# Spare tank\n\nThe spare tank holds 12 litres.\n", 0)
    workspace.index(notes)

    def script(request: Request) -> str:
        return f"The spare tank holds 12 litres [{number_of('The spare tank', request)}]."

    done = asked(workspace, script, question="How much does the spare tank hold?")
    used = done.answer.notebook
    assert used is not None
    assert 0 < used.restored < used.tokens
    assert done.answer.citations[0].path.name == "new.md"


def test_a_file_edited_after_indexing_is_found_out_in_a_notebook_too(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    write(notes / "pumps" / "tank.md", "# Water tank\n\nThe tank of the bench holds 58 litres.\n", 0)
    done = asked(workspace, true_answer)
    assert done.answer.citations[0].standing is Standing.CHANGED


def test_a_named_notebook_is_read_now_and_the_next_question_finds_it(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    first = asked(workspace, true_answer, notebook="pumps")
    assert first.notices[0].startswith("notebook 'pumps': never read; reading ")
    assert " tokens now, about " in first.notices[0]
    used = first.answer.notebook
    assert used is not None
    assert used.read_seconds is not None
    assert first.answer.timings.engine.cached == used.tokens
    again = asked(workspace, true_answer, notebook="pumps")
    assert again.notices == []
    assert again.answer.notebook is not None
    assert again.answer.notebook.restored == used.tokens
    assert again.answer.text == first.answer.text


def test_a_named_notebook_is_asked_whatever_search_finds(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    done = asked(
        workspace, "Chapels are not in the notes.", question="Who painted the Sistine chapel?", notebook="pumps"
    )
    assert done.answer.found
    assert done.answer.notebook is not None
    assert done.answer.citations == ()


def test_a_named_notebook_of_an_engine_that_keeps_nothing_is_read_each_time(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    done = asked(workspace, true_answer, notebook="pumps", saves=False)
    assert "cannot keep what it reads" in done.notices[0]
    used = done.answer.notebook
    assert used is not None
    assert used.restored == 0
    assert used.prefilled > used.tokens
    assert workspace.notebooks.named("pumps").reading is None


def test_a_store_without_room_does_not_cost_the_answer(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(workspace, notes, "pumps")
    monkeypatch.setattr("quietmind.workspace.store.LEAST_BUDGET", 10)
    monkeypatch.setattr("quietmind.workspace.store.SHARE_OF_FREE", 0.0)
    done = asked(workspace, true_answer, notebook="pumps")
    assert "is read and not kept" in done.notices[1]
    assert done.answer.citations[0].verified


def test_a_name_that_is_no_notebook_is_refused_with_those_that_are(workspace: Workspace, notes: Path) -> None:
    make(workspace, notes, "pumps")
    with pytest.raises(UsageError, match="there are: pumps"):
        asked(workspace, notebook="pump")


def test_an_answer_that_does_not_fit_behind_the_notebook_is_shorter_and_says_so(
    workspace: Workspace, notes: Path
) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    words = "The tank holds 85 litres. " + " ".join(f"word{number}" for number in range(400))
    done = asked(workspace, words, notebook="pumps", context=600, max_tokens=300)
    assert "all that a context of 600 holds behind the notebook" in done.notices[0]
    assert done.answer.stopped_early is not None
    assert "all that a context of 600 holds" in done.answer.stopped_early


def test_a_question_that_leaves_no_room_behind_a_named_notebook_is_refused_with_numbers(
    workspace: Workspace, notes: Path
) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    with pytest.raises(ContextOverflow, match="notebook 'pumps' takes"):
        asked(workspace, "x", notebook="pumps", context=600, question="How much does the tank hold? " * 30)


def test_a_named_notebook_that_the_context_cannot_hold_gives_passages_and_stays_read(
    workspace: Workspace, notes: Path
) -> None:
    make(workspace, notes, "pumps")
    read_all(workspace, "pumps")
    before = workspace.notebooks.named("pumps").reading
    stored = [snapshot.path for snapshot in open_store(workspace.folder).snapshots()]
    done = asked(workspace, "The tank holds 85 litres [1].", notebook="pumps", context=400)
    assert done.answer.notebook is None
    assert done.notices == [
        f"notebook 'pumps' is not used whole: it takes {before.tokens if before else 0} tokens, and a context of 400 "
        "has room for 300; give a larger --context"
    ]
    assert done.answer.citations[0].verified
    assert workspace.notebooks.named("pumps").reading == before
    assert [snapshot.path for snapshot in open_store(workspace.folder).snapshots()] == stored
    with pytest.raises(ContextOverflow, match="none of its passages is about the question"):
        asked(workspace, notebook="pumps", context=400, question="Who painted the Sistine chapel?")


def test_snapshots_that_cannot_be_looked_at_do_not_cost_the_answer(
    workspace: Workspace, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(workspace, notes, "pumps")

    def unreadable(_folder: Path) -> int:
        raise SnapshotError("snapshots: cannot be looked at; see its permissions")

    monkeypatch.setattr("quietmind.workspace.store.free_bytes", unreadable)
    done = asked(workspace, "The tank holds 85 litres [1].")
    assert done.notices == ["no notebook is used: snapshots: cannot be looked at; see its permissions"]
    assert done.answer.citations[0].verified
