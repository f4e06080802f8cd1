"""Calibrating learns a basis that snapshots of other notes are good with, and leaves nothing else behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import DiskFull, EngineRefused, ModelNotFound, SnapshotNotUnderstood, WorkspaceError
from quietmind.engine.fake import FakeEngine
from quietmind.engine.gradients import installed
from quietmind.engine.port import Engine
from quietmind.kvstore.basis import SUFFIX, Basis, find, load
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.gathering import Sensitivity
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.store import Store
from quietmind.model.locate import locate
from quietmind.plan.ask import Ask
from quietmind.workspace import calibrate
from quietmind.workspace.calibrate import Calibration, Calibrator, Effort, calibrator, rotation_for
from quietmind.workspace.fisher import Costs
from quietmind.workspace.identity import fingerprint_of
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.levels import NEAR, SMALL
from quietmind.workspace.sampling import Sample
from quietmind.workspace.sensitivity import Roundings
from quietmind.workspace.workspace import Workspace

ROTATION = Rotation(Pairs.NEIGHBOURS, 64, 64, 1e4)
OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "fake 1")
# Groups of one layer; of K, of V and of the bands one part each is measured, with two probes of two words.
SMALLEST = Effort(
    650, 650, tried=200, held_out=260, least=400, contexts=1, every=60, subjects=0, facts=0, continued=2, width=256
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "notes").mkdir()
    for number in range(40):
        lines = [
            f"The {thing} of house {number} was bought in {1950 + number} and stands {place} the greenhouse."
            for thing, place in (("pump", "behind"), ("tank", "beside"), ("valve", "under"), ("sensor", "above"))
        ]
        lines += [f"Насос дома {number} включают в {number % 12 + 1} часов, если воды меньше {number * 7} литров."]
        (folder / "notes" / f"{number:02}.md").write_text(f"# House {number}\n\n" + "\n".join(lines), "utf-8")
    with Workspace(folder / "ws", create=True) as workspace:
        workspace.index(folder / "notes")
        yield workspace


@pytest.fixture(scope="module")
def start() -> Start:
    try:
        return prepare(str(locate("tiny")), Ask(2048, threads=2))
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")


@pytest.fixture(scope="module")
def engine(start: Start, archive: Workspace) -> Iterator[Engine]:
    with start.engine(archive.logs) as engine:
        yield engine


@pytest.fixture(scope="module")
def calibration(
    start: Start, engine: Engine, archive: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Calibration:
    store = Store(tmp_path_factory.mktemp("store") / "snapshots")
    return calibrator(start, engine, fingerprint_of(engine, start.card, start.plan), store, SMALLEST).run(archive)


def test_the_basis_lies_in_the_store_and_is_found_by_the_model(calibration: Calibration) -> None:
    folder = calibration.path.parent
    assert [path.name for path in folder.iterdir()] == [calibration.path.name]
    found = find(folder, replace(calibration.basis.fingerprint, engine="another build", kv="q8_0"))
    assert found is not None
    assert found.digest == calibration.basis.digest
    assert load(folder, found.digest).steps == {each.level: each.step for each in calibration.levels}


def test_nothing_else_is_left_behind(calibration: Calibration) -> None:
    store = calibration.path.parent.parent
    assert {path.name for path in store.iterdir()} == {"bases", "lock"}


def test_near_is_finer_than_small_and_both_were_measured_on_what_was_held_out(calibration: Calibration) -> None:
    near, small = calibration.levels
    assert (near.level, small.level) == (NEAR, SMALL)
    assert near.step <= 0.6 * small.step
    assert 1 < near.ratio < small.ratio
    assert near.damage.probes == small.damage.probes == 2


def test_the_note_says_what_a_self_check_needs(calibration: Calibration) -> None:
    assert calibration.basis.note["floor"] == calibration.floor > 0
    assert calibration.basis.note["tokens"] == calibration.tokens > 200


def test_gradients_tell_what_errors_cost_where_transformers_is_there(calibration: Calibration) -> None:
    assert bool(calibration.by_noise) != installed()


@pytest.mark.parametrize("prevented", ["", "no memory"])
def test_where_gradients_cannot_tell_noise_does_and_the_reason_is_kept(
    prevented: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unable:
        def prevented(self, _free: int | None) -> str:
            return prevented

        def costs(self, *_: object) -> None:
            assert not prevented, "it was asked all the same"
            raise EngineRefused("another cache")

    noise = Sensitivity.same(((4, 4),))
    monkeypatch.setattr(calibrate, "roundings_of", lambda _trial: Roundings(0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(calibrate, "sensitivity_of", lambda *_, **__: noise)
    asked = replace(a_calibrator(FakeEngine([]), tmp_path), by_gradients=Unable())  # type: ignore[arg-type]
    sample = Sample((), None)  # type: ignore[arg-type]
    assert asked._costs(None, sample) == (Costs(noise, None, None), prevented or "another cache")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (EngineRefused("gone"), EngineRefused),
        (OSError(28, "No space left on device"), DiskFull),
    ],
)
def test_broken_off_it_leaves_nothing(
    error: BaseException,
    raised: type[BaseException],
    archive: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half_done(_self: Calibrator, _sample: Sample, folder: Path) -> None:
        (folder / "piece").write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(Calibrator, "_read", half_done)
    with pytest.raises(raised):
        a_calibrator(FakeEngine([], context=8192), tmp_path).run(archive)
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_too_few_notes_for_this_model_are_counted(
    start: Start, engine: Engine, archive: Workspace, tmp_path: Path
) -> None:
    effort = replace(SMALLEST, width=2048)
    fingerprint = fingerprint_of(engine, start.card, start.plan)
    asked = calibrator(start, engine, fingerprint, Store(tmp_path / "snapshots"), effort)
    with pytest.raises(WorkspaceError, match=r"tokens of notes are there to learn from, and this model takes \d,\d{3}"):
        asked.run(archive)


def test_a_model_whose_caches_are_not_understood_is_named(start: Start) -> None:
    odd = replace(start, card=replace(start.card, arch="mamba"))
    with pytest.raises(SnapshotNotUnderstood, match="mamba"):
        rotation_for(odd)


def a_calibrator(engine: object, store: Path, token_bytes: float = 100.0) -> Calibrator:
    return Calibrator(engine, ROTATION, OURS, Store(store), token_bytes, SMALLEST)  # type: ignore[arg-type]


def test_an_engine_that_tells_no_probabilities_is_refused(archive: Workspace, tmp_path: Path) -> None:
    class Mute:
        model = "mute"

    with pytest.raises(EngineRefused, match="does not tell probabilities"):
        a_calibrator(Mute(), tmp_path).run(archive)


def test_a_disk_without_room_is_named_before_anything_is_read(
    archive: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "free_bytes", lambda _folder: 1000)
    engine = FakeEngine([])
    with pytest.raises(DiskFull, match=r"takes .* of the disk for a while"):
        a_calibrator(engine, tmp_path).run(archive)
    assert not engine.requests


def test_of_earlier_bases_those_stay_that_something_may_need(tmp_path: Path) -> None:
    store, paths = Store(tmp_path), []
    for number in range(4):
        basis = Basis(OURS, None, (), (), {NEAR: 1.0}, {"number": number})
        paths.append(basis.save(store.bases))
        os.utime(paths[-1], (number, number))
    other = Basis(replace(OURS, weights="others"), None, (), (), {NEAR: 1.0}, {}).save(store.bases)
    cache = tmp_path / "cache"
    cache.write_bytes(b"saved")
    named = load(store.bases, paths[0].read_bytes()[-32:].hex()).digest
    store.save(cache, OURS, [1, 2], label="book", seconds=1, cut=True, note={"basis": named})
    (kept,) = store.snapshots()
    assert calibrate.forget_older(store, paths[3], OURS) == 1
    assert set(store.bases.glob(f"*{SUFFIX}")) == {other, paths[0], paths[2], paths[3]}
    store.remove(kept)
    assert calibrate.forget_older(store, paths[3], OURS) == 1
    assert not paths[0].exists()
