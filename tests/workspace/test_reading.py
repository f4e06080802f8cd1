"""A notebook is read once: what is stored serves again, what changed is read again, what is damaged is never used."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from quietmind.base.errors import ContextOverflow, EngineCrashed, EngineRefused
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Delta, Finished, Request
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.notes.document import Passage
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.reading import BATCH, ReadReport, read, restore

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "fake 1")


def notes(count: int, words: int = 300) -> list[Passage]:
    return [Passage(Path(f"/n/{n}.md"), 1, 1, f"note {n} " + "word " * words, f"Note {n}") for n in range(count)]


def an_engine(context: int = 100_000) -> FakeEngine:
    return FakeEngine(lambda _request: "an answer [1]", context=context)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "snapshots")


def reading(engine: FakeEngine, store: Store, passages: Sequence[Passage], *, cut: bool = True) -> ReadReport:
    return read(engine, store, OURS, laid(engine, passages), label="book", cut=cut)


def laid(engine: FakeEngine, passages: Sequence[Passage]) -> Layout:
    return lay_out(engine, passages, reserve=100)


def cached(engine: FakeEngine, request: Request) -> int:
    *_, last = engine.generate(request)
    assert isinstance(last, Finished)
    return last.timings.cached


def test_after_a_reading_a_new_engine_finds_the_whole_notebook_cached(store: Store) -> None:
    passages = notes(20)
    report = reading(an_engine(), store, passages)
    assert report.finished
    assert report.restored == 0
    assert report.prefilled == report.tokens
    later = an_engine()
    layout = laid(later, passages)
    restored = restore(later, store, OURS, layout.prefix_tokens())
    assert restored.tokens == report.tokens
    assert cached(later, Request(layout.asking("what?"), max_tokens=4)) == report.tokens


def test_the_tokens_of_the_question_follow_those_of_the_prefix() -> None:
    engine = an_engine()
    layout = laid(engine, notes(3))
    asked = engine.tokenize(layout.asking("what?"))
    assert asked[: len(layout.prefix_tokens())] == layout.prefix_tokens()


def test_reading_again_reads_nothing(store: Store) -> None:
    first = reading(an_engine(), store, notes(20))
    again = reading(an_engine(), store, notes(20))
    assert again.prefilled == 0
    assert again.finished
    assert again.seconds == pytest.approx(first.seconds)


@pytest.mark.parametrize("cut", [True, False])
def test_an_appended_note_costs_only_itself(store: Store, cut: bool) -> None:
    before = reading(an_engine(), store, notes(20), cut=cut)
    after = reading(an_engine(), store, notes(21), cut=cut)
    assert after.restored == before.tokens
    assert after.prefilled == after.tokens - before.tokens


def test_an_edit_costs_what_stands_behind_it(store: Store) -> None:
    passages = notes(20)
    reading(an_engine(), store, passages)
    passages[15] = Passage(Path("/n/15.md"), 1, 1, "another text " * 50, "Note 15")
    report = reading(an_engine(), store, passages)
    assert report.restored > 0.7 * report.tokens
    assert report.finished


def test_where_the_engine_cannot_go_back_an_edit_goes_back_to_a_point_along_the_way(store: Store) -> None:
    passages = notes(20)
    reading(an_engine(), store, passages, cut=False)
    passages[-1] = Passage(Path("/n/x.md"), 1, 1, "another text " * 50, "Note")
    report = reading(an_engine(), store, passages, cut=False)
    assert 0 < report.restored < report.tokens
    assert report.finished


def test_a_reading_that_was_broken_off_goes_on_where_it_was(store: Store) -> None:
    class Dying(FakeEngine):
        calls = 0

        def generate(self, request: Request) -> Generator[Delta | Finished]:
            self.calls += 1
            if self.calls == 2:
                raise EngineCrashed("killed")
            yield from super().generate(request)

    passages = notes(40)
    with pytest.raises(EngineCrashed):
        reading(Dying(lambda _request: "x", context=100_000), store, passages)
    report = reading(an_engine(), store, passages)
    assert report.restored > 0
    assert report.finished


@pytest.mark.parametrize("batch", [BATCH, 3 * BATCH])
def test_a_reading_in_stretches_computes_the_batches_of_a_reading_in_one(store: Store, batch: int) -> None:
    engine = an_engine()
    layout = laid(engine, notes(40))
    tokens = layout.prefix_tokens()
    read(engine, store, OURS, layout, label="book", cut=True, batch=batch)
    lengths = [len(engine.tokenize(request.prompt)) for request in engine.requests]
    assert len(lengths) > 1
    assert all(length % batch == 0 for length in lengths[:-1])
    assert lengths[-1] == len(tokens)
    assert engine.tokenize(engine.requests[0].prompt) == tokens[: lengths[0]]


def test_out_of_time_it_stops_at_a_point_that_is_stored(store: Store) -> None:
    engine = an_engine()
    report = read(engine, store, OURS, laid(engine, notes(40)), label="book", cut=True, until=time.monotonic())
    assert not report.finished
    assert report.prefilled == 0


def test_a_damaged_snapshot_is_read_again_and_says_so(store: Store) -> None:
    passages = notes(20)
    reading(an_engine(), store, passages)
    (kept,) = store.snapshots()
    content = bytearray(kept.path.read_bytes())
    content[-300] ^= 1
    kept.path.write_bytes(content)
    report = reading(an_engine(), store, passages)
    assert len(report.refused) == 1
    assert "not what was written" in report.refused[0]
    assert report.prefilled == report.tokens
    assert reading(an_engine(), store, passages).prefilled == 0


def test_a_snapshot_that_the_engine_refuses_is_read_again(store: Store) -> None:
    class Choosy(FakeEngine):
        def restore(self, file: Path) -> int:
            raise EngineRefused("not mine")

    reading(an_engine(), store, notes(5))
    report = reading(Choosy(lambda _request: "x", context=100_000), store, notes(5))
    assert report.finished
    assert "not mine" in report.refused[0]


def test_an_engine_that_saved_less_than_it_read_is_not_believed(store: Store) -> None:
    class Short(FakeEngine):
        def save(self, file: Path) -> int:
            return super().save(file) - 1

    with pytest.raises(EngineRefused, match="nothing of it is kept"):
        reading(Short(lambda _request: "x", context=100_000), store, notes(5))
    assert store.snapshots() == ()


def test_progress_moves_within_a_stretch_and_ends_with_all_of_the_notebook(store: Store) -> None:
    class Watching:
        def __init__(self) -> None:
            self.total, self.steps = 0, list[int]()

        def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
            self.total = total or 0

        def advance(self, amount: int = 1) -> None:
            self.steps.append(amount)

    engine, progress = an_engine(), Watching()
    layout = laid(engine, notes(20))
    read(engine, store, OURS, layout, label="book", cut=True, progress=progress)
    assert sum(progress.steps) == progress.total == len(layout.prefix_tokens())
    assert all(step >= 0 for step in progress.steps)
    assert len([step for step in progress.steps if step]) > len(engine.requests)


def test_what_has_no_room_is_left_out_and_named() -> None:
    layout = laid(an_engine(context=2000), notes(20))
    assert 0 < len(layout.blocks) < 20
    assert len(layout.blocks) + len(layout.left_out) == 20
    assert [block.number for block in layout.blocks] == list(range(1, len(layout.blocks) + 1))


def test_a_context_smaller_than_one_note_is_an_error_with_numbers() -> None:
    with pytest.raises(ContextOverflow, match="no note fits"):
        laid(an_engine(context=300), notes(2))


def test_tokens_that_are_known_are_not_asked_for_again() -> None:
    engine = an_engine()
    passages = notes(3)
    first = laid(engine, passages)
    known = dict(zip((block.text for block in first.blocks), first.tokens[1:], strict=True))
    asked: list[str] = []

    class Listening(FakeEngine):
        def tokenize(self, text: str) -> list[int]:
            asked.append(text)
            return super().tokenize(text)

    again = lay_out(Listening([], context=100_000), passages, reserve=100, known=known)
    assert again.tokens == first.tokens
    assert not any("word word" in text for text in asked)
