"""A basis: learned from caches, written whole, found again by the model, refused when it is not what was written."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.basis import MOST_WIDTH, Basis, find, grouped, load
from quietmind.kvstore.codec import following, steps, transform
from quietmind.kvstore.codec.port import codec_named
from quietmind.kvstore.codec.symbols import framed, unframed
from quietmind.kvstore.codec.transform import Transform
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.gathering import SINKS, Gathering, Sensitivity, vectors
from quietmind.kvstore.grades import FIRST, NEWEST
from quietmind.kvstore.importance import Importance, grades_for
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import parse, rows

ROTATION = Rotation(Pairs.NEIGHBOURS, 16, 16, 1e4)
MODEL = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "build 1")
LAYERS, WIDTH, TOKENS = 2, 32, 300


@pytest.fixture(scope="module")
def slot(made_slot: Callable[..., bytes]) -> bytes:
    """A cache whose layers hold little more than a few directions."""
    chance = np.random.default_rng(3)
    hidden = chance.normal(0, 1, (TOKENS, 6)) @ chance.normal(0, 1, (6, LAYERS * 2 * WIDTH))
    both = (hidden + chance.normal(0, 0.02, hidden.shape)).astype(np.float32).reshape(TOKENS, LAYERS, 2, WIDTH)
    return made_slot(*(np.ascontiguousarray(both[:, :, part].transpose(1, 0, 2)) for part in range(2)))


@pytest.fixture(scope="module")
def gathering(slot: bytes) -> Gathering:
    made = Gathering(parse(io.BytesIO(slot)), ROTATION)
    made.add(io.BytesIO(slot))
    return made


@pytest.fixture(scope="module")
def basis(gathering: Gathering) -> Basis:
    return gathering.basis(
        Sensitivity.same(gathering.widths), fingerprint=MODEL, steps={"near": 0.1, "small": 0.5}, note={"tokens": 300}
    )


@pytest.fixture(scope="module")
def telling(basis: Basis) -> Basis:
    """A basis that knows what tokens matter: those whose first number is large."""
    direction = np.zeros(basis.groups[0].width, np.float32)
    direction[0] = 1.5
    return replace(basis, importance=Importance(0, direction))


def decoded(codec: Transform, content: bytes) -> bytes:
    target = bytearray(len(content))
    codec.decode(codec.encode(io.BytesIO(content), len(content)), memoryview(target))
    return bytes(target)


def errors(one: bytes, other: bytes, part: str) -> float:
    """Return the mean square of what differs in the K or the V of all layers."""
    layout = parse(io.BytesIO(one))
    planes = layout.keys if part == "k" else layout.values
    return float(np.mean([np.square(rows(one, plane) - rows(other, plane)).mean() for plane in planes]))


def test_its_columns_are_orthonormal(gathering: Gathering) -> None:
    full = gathering.basis(Sensitivity.same(gathering.widths), fingerprint=MODEL, steps={"near": 1e-9})
    for group in full.groups:
        assert group.rank == group.width
        product = group.matrix.T.astype(np.float32) @ group.matrix
        assert np.abs(product - np.eye(group.rank)).max() < 0.01


def test_what_the_group_before_tells_is_not_written_again(made_slot: Callable[..., bytes]) -> None:
    chance = np.random.default_rng(4)
    widths = tuple((64, 64) for _ in range(2))
    hidden = chance.normal(0, 1, (400, 20)) @ chance.normal(0, 1, (20, 4 * 64))
    both = hidden.astype(np.float32).reshape(400, 2, 2, 64).transpose(1, 2, 0, 3)
    content = made_slot(*map(np.ascontiguousarray, both))
    sizes = []
    for most in (64, 10_000):  # in two groups and in one
        gathering = Gathering(parse(io.BytesIO(content)), None, most_width=2 * most)
        gathering.add(io.BytesIO(content))
        basis = gathering.basis(Sensitivity.same(widths), fingerprint=MODEL, steps={"near": 0.2})
        again = decoded(Transform(basis, 0.2), content)
        assert errors(content, again, "k") < 0.2**2 / 10
        sizes.append(sum(map(len, Transform(basis, 0.2).encode(io.BytesIO(content), len(content)))))
    assert sizes[0] < 1.3 * sizes[1]


def test_a_finer_step_leaves_less_error(basis: Basis, slot: bytes) -> None:
    found = [errors(slot, decoded(Transform(basis, step), slot), "k") for step in (1.0, 0.5, 0.25)]
    assert found[0] > found[1] > found[2] > 0


def test_what_costs_more_is_kept_better(gathering: Gathering, slot: bytes) -> None:
    keys = Sensitivity([np.full((1, 1), 100.0)] * LAYERS, [np.ones(1)] * LAYERS)
    values = Sensitivity([np.ones((1, 1))] * LAYERS, [np.full(1, 100.0)] * LAYERS)
    found = []
    for sensitivity in (keys, values):
        made = gathering.basis(sensitivity, fingerprint=MODEL, steps={"near": 0.5})
        again = decoded(Transform(made, 0.5), slot)
        found.append(errors(slot, again, "k") / errors(slot, again, "v"))
    assert found[0] < 0.5 * found[1]


def test_components_that_would_be_0_are_left_out(basis: Basis) -> None:
    coarse = basis.with_steps({"small": 2.0})
    assert coarse.groups[0].rank < basis.groups[0].rank
    assert coarse.size < basis.size


def test_what_hardly_showed_in_the_notes_comes_back_of_what_is_unlike_them(
    gathering: Gathering, made_slot: Callable[..., bytes]
) -> None:
    step = 0.1  # five times as far as most directions of the notes reach
    basis = gathering.basis(Sensitivity.same(gathering.widths), fingerprint=MODEL, steps={"near": step})
    unlike = np.random.default_rng(5).normal(0, 1, (2, LAYERS, TOKENS, WIDTH)).astype(np.float32)
    content = made_slot(*unlike)
    again = decoded(Transform(basis, step), content)
    assert max(errors(content, again, part) for part in "kv") < step**2 / 10


def test_the_first_tokens_are_exact(basis: Basis, slot: bytes) -> None:
    again = decoded(Transform(basis, 1.0), slot)
    for plane in parse(io.BytesIO(slot)).planes:
        assert np.array_equal(rows(slot, plane, 0, 4), rows(again, plane, 0, 4))


def test_the_first_and_the_last_tokens_are_nearer_than_others(basis: Basis, slot: bytes) -> None:
    again = decoded(Transform(basis, 1.0), slot)
    for plane in parse(io.BytesIO(slot)).planes:
        off = np.square(rows(slot, plane) - rows(again, plane)).mean(axis=1)
        first, others = off[SINKS:FIRST].mean(), off[FIRST:-NEWEST].mean()
        assert off[-1] < first < off[-NEWEST:-1].mean() < others
        assert first < 0.3 * others


def test_tokens_that_matter_are_nearer_than_others(telling: Basis, slot: bytes) -> None:
    assert telling.importance is not None
    layout = parse(io.BytesIO(slot))
    found = vectors(io.BytesIO(slot), 0, layout, ROTATION, (0, LAYERS), FIRST, TOKENS - NEWEST)
    grades = grades_for(telling.importance.scores(found))
    again = decoded(Transform(telling, 1.0), slot)
    off = sum(np.square(rows(slot, plane) - rows(again, plane)).mean(axis=1) for plane in layout.planes)
    between = off[FIRST:-NEWEST]
    assert grades.min() < -4 < 4 < grades.max()
    assert between[grades > 4].mean() < 0.3 * between[np.abs(grades) < 2].mean()
    assert between[np.abs(grades) < 2].mean() < 0.5 * between[grades < -4].mean()


def test_the_ends_are_as_fine_whatever_their_tokens_matter(telling: Basis, basis: Basis, slot: bytes) -> None:
    def ends(made: Basis) -> list[int]:
        _, block, *_ = Transform(made, 1.0).encode(io.BytesIO(slot), len(slot))
        found, *_ = transform._said(block, TOKENS - SINKS, len(made.groups))
        return [*found[: FIRST - SINKS], *found[-NEWEST:]]

    assert ends(telling) == ends(basis)


def test_tokens_are_held_against_all_others_of_their_cache(
    telling: Basis, slot: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grades() -> list[int]:
        _, *blocks = Transform(telling, 1.0).encode(io.BytesIO(slot), len(slot))
        each = 1 + len(telling.groups)
        sizes = [min(transform.BLOCK_TOKENS, TOKENS - first) for first in range(SINKS, TOKENS, transform.BLOCK_TOKENS)]
        return [
            int(grade)
            for block, size in zip(blocks[::each], sizes, strict=True)
            for grade in transform._said(block, size, len(telling.groups))[0]
        ]

    whole = grades()
    monkeypatch.setattr(transform, "BLOCK_TOKENS", 64)
    assert grades() == whole
    assert abs(np.mean(whole[FIRST - SINKS : -NEWEST])) < 0.5


def test_earlier_forms_are_still_read(
    basis: Basis, slot: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third wrote no parts: they were the same of all. In both before it none were expected, and none had a size.

    In the first every token was written as one of grade 0 is now.
    """
    basis.save(tmp_path)

    def again(name: str, blocks: list[bytes]) -> bytes:
        target = bytearray(len(slot))
        codec_named(name, tmp_path).decode(blocks, memoryview(target))
        return bytes(target)

    def newest_with(of_last: int, of_lasting: int) -> list[bytes]:
        """Return the blocks where so many 64ths are expected of all tokens, and nothing for their places."""
        parts = np.broadcast_to(np.array([of_last, of_lasting, 0], np.int8), following.SHAPE)
        monkeypatch.setattr(following, "learned", lambda components, times, places: parts)
        monkeypatch.setattr(following, "_OF_LAST", of_last / 64)
        monkeypatch.setattr(following, "_OF_LASTING", of_lasting / 64)
        return list(Transform(basis, 0.5).encode(io.BytesIO(slot), len(slot)))

    def without_parts(block: bytes, rank: int) -> bytes:
        (length,) = struct.unpack_from("<I", block)
        classes, averages, _, content = unframed(block[4:], [rank, rank, math.prod(following.SHAPE), length])
        return block[:4] + framed([bytes(classes), bytes(averages), bytes(content)])

    def groups(blocks: list[bytes]) -> list[bytes]:
        return [without_parts(block, group.rank) for block, group in zip(blocks[2:], basis.groups, strict=True)]

    newest = newest_with(13, 26)
    third = [*newest[:2], *groups(newest)]
    assert again("transform-3", third) == again("transform-4", newest)

    monkeypatch.setattr(steps, "_sizes", lambda deviations: np.zeros(len(deviations), np.int8))
    newest = newest_with(0, 0)
    grades, *_ = transform._said(newest[1], TOKENS - SINKS, len(basis.groups))
    second = [newest[0], framed([grades.tobytes()]), *groups(newest)]
    assert again("transform-2", second) == again("transform-4", newest)

    monkeypatch.setattr(transform, "for_places", lambda cells: np.zeros(cells, np.int8))
    newest = newest_with(0, 0)
    first = [newest[0], *groups(newest)]
    assert again("transform-1", first) == again("transform-4", newest)

    wrong = [("transform-2", first), ("transform-3", first), ("transform-3", second), ("transform-4", third)]
    for name, blocks in wrong:
        with pytest.raises(SnapshotDamaged):
            again(name, blocks)


@pytest.mark.parametrize("tokens", [1, 3, 4, 5])
def test_few_tokens_go_through(basis: Basis, made_slot: Callable[..., bytes], tokens: int) -> None:
    some = np.ones((LAYERS, tokens, WIDTH), np.float32)
    content = made_slot(some, some)
    again = decoded(Transform(basis, 0.5), content)
    assert parse(io.BytesIO(again)) == parse(io.BytesIO(content))


def test_another_models_cache_is_not_understood(basis: Basis, made_slot: Callable[..., bytes]) -> None:
    some = np.ones((LAYERS + 1, 20, WIDTH), np.float32)
    content = made_slot(some, some)
    with pytest.raises(SnapshotNotUnderstood, match="another model"):
        list(Transform(basis, 0.5).encode(io.BytesIO(content), len(content)))


@pytest.mark.parametrize("kind", ["basis", "telling"])
def test_numbers_that_are_none_are_not_understood(
    kind: str, request: pytest.FixtureRequest, made_slot: Callable[..., bytes]
) -> None:
    basis = request.getfixturevalue(kind)
    some = np.ones((LAYERS, 20, WIDTH), np.float32)
    some[1, 10, 3] = np.nan
    content = made_slot(some, some)
    with pytest.raises(SnapshotNotUnderstood):
        list(Transform(basis, 0.5).encode(io.BytesIO(content), len(content)))


@pytest.mark.parametrize("kind", ["basis", "telling"])
def test_it_comes_back_from_its_file(kind: str, request: pytest.FixtureRequest, tmp_path: Path, slot: bytes) -> None:
    basis = request.getfixturevalue(kind)
    path = basis.save(tmp_path)
    again = load(tmp_path, basis.digest)
    assert again.digest == basis.digest
    assert (again.fingerprint, again.widths, again.steps, again.note) == (MODEL, basis.widths, basis.steps, basis.note)
    assert decoded(Transform(again, 0.5), slot) == decoded(Transform(basis, 0.5), slot)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_tokens_matter_counts_in_its_size(basis: Basis, telling: Basis) -> None:
    assert telling.size - basis.size == 4 * basis.groups[0].width


def test_the_newest_of_the_same_model_is_found(basis: Basis, tmp_path: Path) -> None:
    assert find(tmp_path / "nowhere", MODEL) is None
    basis.save(tmp_path)
    replace(basis, fingerprint=replace(MODEL, weights="others")).save(tmp_path)
    found = find(tmp_path, replace(MODEL, engine="build 2", kv="q8_0", template="of today"))
    assert found is not None
    assert found.digest == basis.digest
    assert find(tmp_path, replace(MODEL, rope="yarn")) is None


@given(data=st.data())
def test_a_file_cut_or_changed_anywhere_is_refused(
    telling: Basis, basis: Basis, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    basis = data.draw(st.sampled_from([telling, basis]))
    folder = tmp_path_factory.mktemp("bases")
    path = basis.save(folder)
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="cut"):
        path.write_bytes(content[:at])
    else:
        path.write_bytes(content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :])
    with pytest.raises(SnapshotDamaged):
        load(folder, basis.digest)
    find(folder, MODEL)


def test_a_snapshot_without_its_basis_is_refused(basis: Basis, slot: bytes, tmp_path: Path) -> None:
    blocks = list(Transform(basis, 0.5).encode(io.BytesIO(slot), len(slot)))
    other = basis.with_steps({"near": 0.2})
    with pytest.raises(SnapshotDamaged, match="another basis"):
        Transform(other, 0.5).decode(blocks, memoryview(bytearray(len(slot))))
    with pytest.raises(SnapshotDamaged, match="cannot be read"):
        load(tmp_path, basis.digest)


def test_too_few_tokens_make_no_basis(made_slot: Callable[..., bytes]) -> None:
    some = np.ones((LAYERS, 40, WIDTH), np.float32)
    content = made_slot(some, some)
    gathering = Gathering(parse(io.BytesIO(content)), None)
    gathering.add(io.BytesIO(content))
    with pytest.raises(SnapshotNotUnderstood, match="36 tokens were read"):
        gathering.basis(Sensitivity.same(gathering.widths), fingerprint=MODEL, steps={"near": 1.0})


@given(st.lists(st.integers(0, 2 * MOST_WIDTH), min_size=1, max_size=80))
def test_groups_hold_all_layers_in_their_order(widths: list[int]) -> None:
    found = list(grouped(tuple((width, 0) for width in widths)))
    assert [layer for first, last in found for layer in range(first, last)] == list(range(len(widths))) or not any(
        widths
    )
