"""What is stored with loss answers as the exact cache does, or is stored finer; no codec can make a reading fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from quietmind.base.errors import EngineCrashed, UsageError
from quietmind.base.settings import load_settings
from quietmind.engine.fake import FakeEngine, Likely, Step
from quietmind.engine.port import Request
from quietmind.kvstore.codec.exact import Exact
from quietmind.kvstore.codec.perchannel import PerChannel
from quietmind.kvstore.container import Header
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
from quietmind.notes.document import Passage
from quietmind.workspace.damage import Damage
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.levels import (
    BOUNDS,
    EXACT,
    LEVELS,
    LOSSLESS,
    NEAR,
    SMALL,
    Floor,
    Measured,
    Packing,
    bytes_per_token,
    require_level,
)
from quietmind.workspace.reading import ReadReport, read, restore

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "fake 1")
NOTES = [Passage(Path(f"/n/{n}.md"), 1, 1, f"note {n} says " + f"word{n} " * 400, f"Note {n}") for n in range(12)]


class Engine(FakeEngine):
    """Answers with less certainty from a cache whose file ``lossy`` names; remembers what it has restored, and when."""

    def __init__(self, lossy: Callable[[Path], bool] = lambda _file: False) -> None:
        super().__init__(self._answer, context=100_000)
        self.restored: list[str] = []
        self._lossy = lossy
        self._is_lossy = False

    def restore(self, file: Path) -> int:
        self.restored.append(file.name)
        self._is_lossy = self._lossy(file)
        return super().restore(file)

    def _answer(self, _request: Request) -> Step:
        return Likely("an answer", 0.5 if self._is_lossy else 0.9)


class Broken(Exact):
    """A codec with a mistake in it."""

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        raise ZeroDivisionError("a mistake")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "snapshots")


# A codec that loses nothing stands in for one that loses little: what the engine shows of it is the script's.
LOSSY = Packing(NEAR, (Exact(),), floor=Floor(0.0))


def laid(engine: FakeEngine, notes: int = len(NOTES)) -> Layout:
    return lay_out(engine, NOTES[:notes], reserve=1000)


def reading(engine: Engine, store: Store, packing: Packing, notes: int = len(NOTES)) -> ReadReport:
    return read(engine, store, OURS, laid(engine, notes), label="book", cut=True, packing=packing)


def measured(report: ReadReport) -> Measured:
    assert report.snapshot is not None
    return Measured.of(report.snapshot.header)


def test_what_answers_alike_is_kept_at_its_level_and_says_what_was_measured(store: Store) -> None:
    engine = Engine()
    report = reading(engine, store, LOSSY)
    assert report.finished
    assert report.check_seconds > 0
    found = measured(report)
    assert (found.level, found.before) == (NEAR, 0.0)
    assert found.damage is not None
    assert (found.damage.mean, found.damage.same) == (0.0, found.damage.probes)
    assert found.damage.positions > 1


def test_the_engine_goes_on_with_what_was_stored(store: Store) -> None:
    engine = Engine()
    report = reading(engine, store, LOSSY)
    assert engine.restored[-1].startswith("packed-")
    later = Engine()
    assert restore(later, store, OURS, laid(later).prefix_tokens()).tokens == report.tokens


def test_what_answers_otherwise_is_kept_losslessly_and_that_is_what_the_engine_holds(store: Store) -> None:
    engine = Engine(lossy=lambda file: file.name.startswith("packed-"))
    report = reading(engine, store, Packing(NEAR, (Exact(), Exact()), floor=Floor(0.0)))
    assert report.finished
    assert measured(report).level == EXACT
    assert len(report.finer) == 2
    assert all("divergence" in reason for reason in report.finer)
    assert engine.restored[-1] == "cache"


def test_the_next_finer_codec_is_taken_first(store: Store) -> None:
    engine = Engine(lossy=lambda file: file.name.startswith("packed-0"))
    report = reading(engine, store, Packing(NEAR, (Exact(), Exact()), floor=Floor(0.0)))
    assert measured(report).level == NEAR
    assert len(report.finer) == 1
    assert engine.restored[-1].startswith("packed-1")


@pytest.mark.parametrize(("codec", "reason"), [(Broken(), "a mistake"), (PerChannel(), "not understood")])
def test_a_codec_that_fails_does_not_fail_the_reading(store: Store, codec: Exact | PerChannel, reason: str) -> None:
    report = reading(Engine(), store, Packing(NEAR, (codec,)))
    assert report.finished
    assert measured(report).level == EXACT
    (said,) = report.finer
    assert reason in said


def test_an_engine_that_dies_over_a_packed_cache_has_lost_nothing(store: Store) -> None:
    class Dying(Engine):
        def restore(self, file: Path) -> int:
            raise EngineCrashed("it was ended")

    with pytest.raises(EngineCrashed):
        reading(Dying(), store, LOSSY)
    (snapshot,) = store.snapshots()
    assert Measured.of(snapshot.header).level == EXACT
    again = reading(Engine(), store, LOSSY)
    assert (again.prefilled, again.finished) == (0, True)


def test_stretches_on_the_way_are_lossless_and_cost_no_check(store: Store) -> None:
    engine = Engine()
    layout = laid(engine)
    stored: list[str | None] = []

    class Watched(Store):
        def save(self, *given: object, **named: object):  # type: ignore[no-untyped-def]
            made = super().save(*given, **named)  # type: ignore[arg-type]
            stored.append(Measured.of(made.header).level)
            return made

    watched = Watched(store.bases.parent)
    read(engine, watched, OURS, layout, label="book", cut=True, packing=LOSSY)
    assert len(stored) > 1
    assert stored == [EXACT] * (len(stored) - 1) + [NEAR]


def test_a_stretch_without_room_is_packed_and_the_engine_goes_on_with_the_exact_cache(store: Store) -> None:
    class Cramped(Store):
        def room(self) -> int | None:
            return 0

    engine = Engine()
    report = read(engine, Cramped(store.bases.parent), OURS, laid(engine), label="book", cut=True, packing=LOSSY)
    assert report.finished
    assert measured(report).before == 0.0
    assert engine.restored.count("cache") >= 1
    assert engine.restored[-1].startswith("packed-")


def test_what_is_read_on_a_lossy_beginning_notes_its_loss(store: Store) -> None:
    packing = Packing(NEAR, (Exact(),), floor=Floor(1.0))
    lossy = Engine(lossy=lambda file: file.name.startswith("packed-"))
    first = measured(reading(lossy, store, packing, notes=11))
    assert first.damage is not None
    assert first.damage.mean > 0
    appended = reading(Engine(), store, packing)
    assert appended.restored > 0
    assert measured(appended).before == pytest.approx(first.damage.mean)


def test_a_reading_without_loss_does_not_go_on_from_a_lossy_beginning(store: Store) -> None:
    reading(Engine(), store, Packing(NEAR, (Exact(),), floor=Floor(1.0)), notes=11)
    store_of_exact = reading(Engine(), store, LOSSLESS)
    assert store_of_exact.restored == 0
    assert measured(store_of_exact).loss == 0.0


def header(note: dict[str, float | str], codec: str = "transform-1") -> Header:
    return Header(OURS, "book", 100, codec, 1000, 1.0, cut=True, made="2026-11-22", note=note)


def lossy(level: str, mean: float, **more: float) -> Header:
    counts = {"kl_worst": 0.1, "positions": 40, "same": 6, "of": 6}
    return header({"level": level, "kl_mean": mean, **counts, **more})


def test_a_beginning_is_gone_on_from_only_within_the_bound() -> None:
    assert Packing(NEAR).goes_on_from(lossy(NEAR, 0.0004))
    assert not Packing(NEAR).goes_on_from(lossy(NEAR, 0.0004, kl_before=0.0004))
    assert Packing(NEAR).goes_on_from(lossy(NEAR, 0.0006, floor=0.0002))
    assert not Packing(NEAR).goes_on_from(lossy(SMALL, 0.004))
    assert Packing(SMALL).goes_on_from(lossy(SMALL, 0.004))


def test_what_is_to_be_lossless_goes_on_only_from_what_is() -> None:
    assert Packing(EXACT).goes_on_from(header({}, "exact-2"))
    assert not Packing(EXACT).goes_on_from(lossy(NEAR, 0.0))
    assert not Packing(EXACT).goes_on_from(header({"level": EXACT, "kl_before": 0.0001}, "exact-2"))
    assert not Packing(SMALL).goes_on_from(header({}))  # a lossy codec of which nothing is known


@pytest.mark.parametrize("floor", [None, Floor(0.0002), Floor(0.0002, 4, 0.003)])
@pytest.mark.parametrize("prose", [(), (0.004, 80)])
def test_what_was_measured_comes_back_from_the_note(floor: Floor | None, prose: tuple[()] | tuple[float, int]) -> None:
    given = Measured(NEAR, Damage(0.0003, 0.002, 90, 5, 6, *prose), floor, 0.0001, "abc")
    note = given.note(9.87)
    assert note["ratio"] == 9.87
    assert Measured.of(header(note)) == given


@pytest.mark.parametrize("note", [{"level": "other"}, {"level": 3}, {"kl_mean": 0.1}, {"level": NEAR, "kl_mean": "x"}])
def test_a_note_that_is_not_ours_is_not_believed(note: dict[str, float | str]) -> None:
    assert Measured.of(header(note)).loss is None


def test_answers_that_the_last_bits_change_are_not_demanded() -> None:
    damage = Damage(0.0009, 0.01, 80, 4, 6)
    assert "divergence" in BOUNDS[NEAR].broken_by(damage, Floor())
    assert "4 of 6 answers" in BOUNDS[NEAR].broken_by(damage, Floor(0.0005))
    assert "4 of 6 answers" in BOUNDS[NEAR].broken_by(damage, Floor(0.0005, 5))
    assert BOUNDS[NEAR].broken_by(damage, Floor(0.0005, 4)) == ""


def test_what_a_token_takes_is_what_it_took_at_that_level(store: Store) -> None:
    assert bytes_per_token(NEAR, OURS, store.snapshots()) is None
    report = reading(Engine(), store, LOSSY)
    assert report.snapshot is not None
    expected = report.snapshot.bytes / report.tokens
    assert bytes_per_token(NEAR, OURS, store.snapshots()) == pytest.approx(expected)
    assert bytes_per_token(SMALL, OURS, store.snapshots()) is None


def test_the_setting_knows_the_levels(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    for level in LEVELS:
        file.write_text(f'snapshot_level = "{level}"', encoding="utf-8")
        assert require_level(load_settings(file).snapshot_level) == level
    file.write_text('snapshot_level = "tiny"', encoding="utf-8")
    with pytest.raises(UsageError, match="exact, near, small"):
        load_settings(file)
    with pytest.raises(UsageError, match="exact, near or small"):
        require_level("tiny")


def test_of_facts_and_prose_whichever_takes_more_of_its_bound_decides() -> None:
    bound, floor = BOUNDS[NEAR], Floor(0.0001, prose=0.001)
    by_facts = Damage(0.0006, 0.01, 80, 6, 6, 0.001, 90)
    by_prose = Damage(0.0001, 0.01, 80, 6, 6, 0.001 + 2 * bound.prose, 90)
    assert bound.used_by(by_facts, floor) == pytest.approx(1.0)
    assert bound.used_by(by_prose, floor) == pytest.approx(2.0)
    assert bound.used_by(Damage(0.0006, 0.01, 80, 6, 6), floor) == pytest.approx(1.0)
    assert "own words" in bound.passed_by(by_prose, floor)
    assert bound.passed_by(by_facts, floor) == ""
