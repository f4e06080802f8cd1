"""What was read goes on as if it had just been read, whatever kind of attention a model has; or it is not kept at all.

The models are small, their weights random, and the real engine runs them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from quietmind.base.errors import EngineRefused
from quietmind.engine.port import Delta, Engine, Finished, Prompt, Request
from quietmind.kvstore.store import Store
from quietmind.notes.document import Passage
from quietmind.plan.plan import Ask
from quietmind.workspace import reading
from quietmind.workspace.choose import Desk
from quietmind.workspace.identity import can_go_back, can_go_on, fingerprint_of
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.overnight import Reader
from quietmind.workspace.reading import ReadReport, read, restore
from quietmind.workspace.workspace import Workspace

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

KEEPING, FORGETTING = ("LATENT", "HYBRID"), ("WINDOW", "SINKS")

QUESTION = "why?"
RESERVE = 256


@dataclass(frozen=True)
class Running:
    """A small model, and where what it has read is kept."""

    start: Start
    folder: Path

    @property
    def store(self) -> Store:
        return Store(self.folder / "snapshots")

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        with self.start.engine(self.folder) as engine:
            yield engine

    def layout(self, engine: Engine, passages: Sequence[Passage]) -> Layout:
        return lay_out(engine, passages, reserve=RESERVE)

    def read(self, passages: Sequence[Passage]) -> ReadReport:
        with self.engine() as engine:
            fingerprint = fingerprint_of(engine, self.start.card, self.start.plan)
            layout = self.layout(engine, passages)
            return read(engine, self.store, fingerprint, layout, label="notes", cut=can_go_back(self.start.card))

    def fresh(self, passages: Sequence[Passage]) -> str:
        """Answer as an engine does that has just read the notes."""
        with self.engine() as engine:
            layout = self.layout(engine, passages)
            generated(engine, layout.prefix(), 1)
            return generated(engine, layout.asking(QUESTION))[0]

    def restored(self, passages: Sequence[Passage]) -> tuple[str, int, int]:
        """Answer from what is stored; return the answer, the tokens that were restored, and that the engine used."""
        with self.engine() as engine:
            fingerprint = fingerprint_of(engine, self.start.card, self.start.plan)
            layout = self.layout(engine, passages)
            held = restore(engine, self.store, fingerprint, layout.prefix_tokens())
            answer, end = generated(engine, layout.asking(QUESTION))
        return answer, held.tokens, end.timings.cached


def generated(engine: Engine, prompt: Prompt, tokens: int = 24) -> tuple[str, Finished]:
    text = []
    for event in engine.generate(Request(prompt, max_tokens=tokens)):
        if isinstance(event, Delta):
            text.append(event.text)
        else:
            return "".join(text), event
    raise AssertionError("a generation ends with Finished")


def notes(count: int, edited: int | None = None) -> list[Passage]:
    return [
        Passage(Path(f"/n/{n}.md"), 1, 1, " ".join(f"{n * 7919 + word * 104_729:x}" for word in range(9)), f"Note {n}")
        if n != edited
        else Passage(Path(f"/n/{n}.md"), 1, 1, "what was changed", f"Note {n}")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def writer() -> Iterator[ModuleType]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the engine (xllamacpp) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("random_attention")


def running(writer: ModuleType, kind: str, folder: Path) -> Running:
    path = folder / "model.gguf"
    writer.write_small(getattr(writer, kind), path)
    # One thread: two of them spin while they wait for each other, and crawl on a busy machine.
    return Running(prepare(str(path), Ask(4096, threads=1), warn=lambda _line: None), folder)


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store after each batch: what cannot go back needs points along the way, and these notes are few."""
    monkeypatch.setattr(reading, "FIRST_STRETCH_TOKENS", reading.BATCH)
    monkeypatch.setattr(reading, "STRETCH_SECONDS", 0.0)


@pytest.mark.parametrize("kind", KEEPING)
@pytest.mark.usefixtures("short_stretches")
def test_restored_added_to_or_edited_it_answers_as_if_just_read(writer: ModuleType, kind: str, tmp_path: Path) -> None:
    model = running(writer, kind, tmp_path)
    assert can_go_on(model.start.card)
    first = model.read(notes(20))
    assert model.restored(notes(20)) == (model.fresh(notes(20)), first.tokens, first.tokens)

    added = model.read(notes(22))
    assert (added.restored, added.prefilled) == (first.tokens, added.tokens - first.tokens)
    answer = model.fresh(notes(22))
    assert model.restored(notes(22)) == (answer, added.tokens, added.tokens)

    edited = model.read(notes(22, edited=16))
    assert reading.BATCH <= edited.restored < first.tokens  # up to the edit, or to a point before it
    if not can_go_back(model.start.card):
        assert edited.restored % reading.BATCH == 0
    answers = model.fresh(notes(22, edited=16))
    assert answers != answer  # else equal answers would say nothing
    assert model.restored(notes(22, edited=16)) == (answers, edited.tokens, edited.tokens)


@pytest.mark.parametrize("kind", FORGETTING)
def test_the_engine_reads_all_again_after_restoring_a_sliding_window(
    writer: ModuleType, kind: str, tmp_path: Path
) -> None:
    """Once this fails, the engine has learned to go on from there, and ``can_go_on`` may say so."""
    model = running(writer, kind, tmp_path)
    report = model.read(notes(20))
    _, restored, used = model.restored(notes(20))
    assert (restored, used) == (report.tokens, 0)


def test_of_sliding_windows_nothing_is_read_ahead_and_one_line_says_why(writer: ModuleType, tmp_path: Path) -> None:
    model = running(writer, "WINDOW", tmp_path)
    assert not can_go_on(model.start.card)
    with model.engine() as engine, Workspace(tmp_path / "workspace", create=True) as archive:
        fingerprint = fingerprint_of(engine, model.start.card, model.start.plan)
        with pytest.raises(EngineRefused, match="sliding window") as refused:
            Reader.of(model.start, engine, fingerprint, model.store, 1 << 30)
        assert "\n" not in str(refused.value)
        desk = Desk.of(archive, model.start, engine)
    assert desk.reader is None
    assert desk.keeps_nothing == str(refused.value)
