"""The codec of channels and tokens: how far numbers may move, what stays exact, and what it refuses."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.codec.perchannel import GROUP, LEVELS, Level, PerChannel
from quietmind.kvstore.codec.symbols import Symbols, framed, unframed
from quietmind.kvstore.codec.symbols import packed as packed_symbols
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import SINKS
from quietmind.kvstore.rotation import Pairs, Rotation, rotation_of
from quietmind.kvstore.slots import parse, rows
from quietmind.model.gguf import read_card

pytestmark = pytest.mark.usefixtures("loops_of_both")

MadeSlot = Callable[..., bytes]
SavedSlot = Callable[..., bytes]

ROTATIONS = {
    "halves": Rotation(Pairs.HALVES, 32, 32, 1e6),
    "neighbours": Rotation(Pairs.NEIGHBOURS, 32, 32, 1e4),
    "partial": Rotation(Pairs.HALVES, 32, 16, 1e4),
    "yarn": Rotation(Pairs.NEIGHBOURS, 32, 32, 1e4, 0.25, 1.0, 1.14, original_context=2048),
    "none": None,
}


EDGES = (1, 3)  # of the blocks of one layer


def packed(content: bytes, rotation: Rotation | None, level: Level = LEVELS["4"]) -> list[bytes]:
    return list(PerChannel(rotation, level).encode(io.BytesIO(content), len(content)))


def unpacked(blocks: list[bytes], size: int) -> bytes:
    target = bytearray(b"\xa5" * size)
    PerChannel().decode(blocks, memoryview(target))
    return bytes(target)


def numbers(cells: int, layers: int = 2, width: int = 64) -> tuple[Floats, Floats]:
    chance = np.random.default_rng(cells)
    keys, values = (chance.normal(size=(layers, cells, width)).astype(np.float32) for _ in range(2))
    return keys * chance.gamma(1, 3, size=width).astype(np.float32) + 5, values * 0.1


def straight(keys: Floats, rotation: Rotation | None) -> Floats:
    if rotation is None:
        return keys
    return rotation.undo(keys.reshape(len(keys), -1, rotation.head_length), range(len(keys))).reshape(keys.shape)


class TestRealCaches:
    @pytest.mark.parametrize(("level", "keys_off", "values_off"), [("4", 0.004, 0.01), ("3", 0.015, 0.04)])
    @pytest.mark.parametrize(
        ("words", "kv_type"), [((), "f16"), (("-fa", "off"), "f16"), ((), "q8_0")], ids=["f16", "transposed", "q8_0"]
    )
    def test_one_comes_back_nearly(
        self,
        saved_slot: SavedSlot,
        model_path: Path,
        words: tuple[str, ...],
        kv_type: str,
        level: str,
        keys_off: float,
        values_off: float,
    ) -> None:
        content = saved_slot(*words, kv_type=kv_type)
        blocks = packed(content, rotation_of(read_card(model_path)), LEVELS[level])
        found = unpacked(blocks, len(content))
        layout = parse(io.BytesIO(content))
        assert parse(io.BytesIO(found)) == layout
        for planes, limit in ((layout.keys, keys_off), (layout.values, values_off)):
            off = []
            for plane in planes:
                one, other = rows(content, plane), rows(found, plane)
                off.append(np.square(one - other).sum() / np.square(one - one.mean(axis=0)).sum())
            assert np.mean(off) < limit

    def test_k_before_their_rotation_pack_better(self, saved_slot: SavedSlot, model_path: Path) -> None:
        content = saved_slot()
        layout = parse(io.BytesIO(content))

        def error(rotation: Rotation | None) -> float:
            found = unpacked(packed(content, rotation), len(content))
            return float(sum(np.square(rows(content, k) - rows(found, k)).sum() for k in layout.keys))

        assert error(rotation_of(read_card(model_path))) < 0.8 * error(None)


class TestWhatComesBack:
    @settings(max_examples=60)
    @given(data=st.data())
    def test_no_number_moves_further_than_its_step(self, made_slot: MadeSlot, data: st.DataObject) -> None:
        rotation = ROTATIONS[data.draw(st.sampled_from(sorted(ROTATIONS)))]
        kind = data.draw(st.sampled_from(["f16", "bf16", "f32"]))
        transposed = data.draw(st.booleans())
        level = data.draw(st.sampled_from(list(LEVELS.values())))
        cells = data.draw(st.integers(SINKS + GROUP, SINKS + 3 * GROUP))
        content = made_slot(*numbers(cells), kind=kind, transposed=transposed)
        found = unpacked(packed(content, rotation, level), len(content))
        layout = parse(io.BytesIO(content))
        rounding = {"f16": 2e-3, "bf16": 2e-2, "f32": 1e-5}[kind]
        for planes, fineness, turned in (
            (layout.keys, level.key_step, rotation),
            (layout.values, level.value_step, None),
        ):
            for plane in planes:
                one, other = straight(rows(content, plane), turned), straight(rows(found, plane), turned)
                groups = one[SINKS : SINKS + (cells - SINKS) // GROUP * GROUP].reshape(-1, GROUP, plane.width)
                middle = np.median(np.sqrt(groups.var(axis=1).mean(axis=0)))
                step = max(fineness * middle, np.abs(groups - groups.mean(axis=1, keepdims=True)).max() / 118)
                assert np.abs(one - other).max() <= 0.505 * step + rounding * np.abs(one).max()

    @pytest.mark.parametrize("cells", [0, 1, SINKS, SINKS + GROUP - 1])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_too_few_tokens_for_a_group_are_exact(self, made_slot: MadeSlot, cells: int, transposed: bool) -> None:
        content = made_slot(*numbers(cells), transposed=transposed)
        assert unpacked(packed(content, ROTATIONS["halves"]), len(content)) == content

    @pytest.mark.parametrize("transposed", [False, True])
    def test_the_first_and_the_newest_tokens_are_exact(self, made_slot: MadeSlot, transposed: bool) -> None:
        cells = SINKS + 2 * GROUP + 17
        content = made_slot(*numbers(cells), transposed=transposed)
        found = unpacked(packed(content, ROTATIONS["halves"]), len(content))
        for plane in parse(io.BytesIO(content)).planes:
            one, other = rows(content, plane), rows(found, plane)
            assert np.array_equal(one[:SINKS], other[:SINKS])
            assert np.array_equal(one[-17:], other[-17:])
            assert not np.array_equal(one, other)

    def test_numbers_that_are_all_the_same_stay_as_they_are(self, made_slot: MadeSlot) -> None:
        for number in (0.0, 1e-7, 3.5, -9_000.0):
            same = np.full((1, SINKS + GROUP, 64), number, np.float32)
            content = made_slot(same, same, kind="f32")
            found = unpacked(packed(content, None), len(content))
            for plane in parse(io.BytesIO(content)).planes:
                assert np.allclose(rows(found, plane), number, rtol=1e-4, atol=0)

    def test_more_values_than_a_block_holds_come_back(self, made_slot: MadeSlot) -> None:
        cells = SINKS + 20 * GROUP
        content = made_slot(*numbers(cells, layers=1, width=1024))
        blocks = packed(content, ROTATIONS["neighbours"])
        assert len(blocks) == 1 + 2 * (1 + 3)
        found = unpacked(blocks, len(content))
        plane = parse(io.BytesIO(content)).keys[0]
        one, other = rows(content, plane), rows(found, plane)
        assert np.square(one - other).sum() < 0.02 * np.square(one - one.mean(axis=0)).sum()

    def test_a_finer_level_takes_more_and_errs_less(self, made_slot: MadeSlot) -> None:
        content = made_slot(*numbers(SINKS + 4 * GROUP))
        plane = parse(io.BytesIO(content)).keys[1]
        sizes, errors = [], []
        for level in LEVELS.values():
            blocks = packed(content, ROTATIONS["halves"], level)
            sizes.append(sum(map(len, blocks)))
            errors.append(np.square(rows(content, plane) - rows(unpacked(blocks, len(content)), plane)).sum())
        assert sizes[0] > sizes[1]
        assert errors[0] < errors[1]


class TestWhatIsRefused:
    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 20_000.0])
    @pytest.mark.parametrize("part", ["k", "v"])
    def test_numbers_that_no_step_can_hold(self, made_slot: MadeSlot, number: float, part: str) -> None:
        keys, values = numbers(SINKS + GROUP)
        (keys if part == "k" else values)[1, 70, 9] = number
        content = made_slot(keys, values, kind="f32")
        with pytest.raises(SnapshotNotUnderstood, match="losslessly"):
            packed(content, ROTATIONS["halves"])

    def test_a_file_of_another_kind(self) -> None:
        with pytest.raises(SnapshotNotUnderstood, match="does not begin as one"):
            packed(b"anything that is no slot file", None)

    def test_heads_that_do_not_fit(self, made_slot: MadeSlot) -> None:
        with pytest.raises(SnapshotNotUnderstood, match="not whole heads"):
            packed(made_slot(*numbers(300)), Rotation(Pairs.HALVES, 48, 48, 1e4))

    def test_a_source_that_became_shorter_is_said(self, made_slot: MadeSlot) -> None:
        content = made_slot(*numbers(300))
        source = io.BytesIO(content)
        blocks = PerChannel(None).encode(source, len(content))
        next(blocks)
        source.truncate(len(content) // 2)
        with pytest.raises(EOFError):
            list(blocks)

    @given(data=st.data())
    def test_damage_is_or_is_harmless(self, made_slot: MadeSlot, data: st.DataObject) -> None:
        content = made_slot(*numbers(SINKS + GROUP + 3, layers=1))
        blocks = packed(content, ROTATIONS["partial"])
        number = data.draw(st.integers(0, len(blocks) - 1))
        block = blocks[number]
        at = data.draw(st.integers(0, len(block) - 1))
        if data.draw(st.booleans(), label="cut"):
            blocks[number] = block[:at]
            with pytest.raises(SnapshotDamaged):
                unpacked(blocks, len(content))
            return
        blocks[number] = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
        with suppress(SnapshotDamaged):
            found = unpacked(blocks, len(content))
            layout = parse(io.BytesIO(found))
            if number not in EDGES:  # of which every byte is as it was written
                assert all(np.abs(rows(found, plane)).max() < 60_000 for plane in layout.planes)

    def test_a_head_that_says_too_much_is_damage(self, made_slot: MadeSlot) -> None:
        content = made_slot(*numbers(SINKS + GROUP))
        first, *rest = packed(content, None)
        bomb = struct.pack("<II", 0xFFFF_FFFF, 0xFFFF_FFFF) + first[8:]
        headers = parse(io.BytesIO(content)).headers
        heads = [bomb, *(_head(text, headers) for text in (b"[]", b"{}", b'{"rotation": 1, "level": {}}', b"\xff"))]
        for head in heads:
            with pytest.raises(SnapshotDamaged):
                unpacked([head, *rest], len(content))


def _head(text: bytes, headers: bytes) -> bytes:
    return struct.pack("<II", len(text), len(headers)) + framed([text, headers])


@given(data=st.data())
def test_symbols_come_back(data: st.DataObject) -> None:
    groups, n, channels = data.draw(st.integers(1, 4)), 2 * data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    symbols = (
        np.random.default_rng(1).integers(0, data.draw(st.integers(1, 256)), (groups, n, channels)).astype(np.uint8)
    )
    spread = np.random.default_rng(2).normal(size=channels).astype(np.float32)
    sizes = Symbols.sizes(groups, n, channels)
    again = Symbols(unframed(framed(packed_symbols(symbols, spread)), sizes), groups, n, channels)
    first = data.draw(st.integers(0, groups - 1))
    out = np.empty((groups - first, n, channels), np.uint8)
    again.take(first, out)
    assert np.array_equal(out, symbols[first:])


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1, 3], [0, 2, 65535]])
def test_an_order_of_channels_that_is_none_is_refused(order: list[int]) -> None:
    symbols = np.zeros((1, 2, 3), np.uint8)
    parts = [
        np.array(order, "<u2").tobytes(),
        *(part.tobytes() for part in packed_symbols(symbols, np.zeros(3, np.float32))[1:]),
    ]
    with pytest.raises(ValueError, match="order"):
        Symbols(parts, 1, 2, 3)
