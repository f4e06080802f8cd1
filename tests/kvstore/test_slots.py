"""The engine's slot files are read as arrays and written back bit by bit; anything else is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.floats import LARGEST_HALF, narrow, widen
from quietmind.kvstore.slots import Plane, SlotLayout, parse, parse_headers, put_rows, rows

MadeSlot = Callable[..., bytes]
SavedSlot = Callable[..., bytes]

CHANCE = np.random.default_rng(11)
KEYS, VALUES = (CHANCE.normal(size=(3, 10, 64)).astype(np.float32) for _ in range(2))


def written_again(content: bytes, layout: SlotLayout, step: int = 7) -> bytes:
    """Read all planes in pieces and write them where only the headers stood."""
    target = bytearray(layout.size)
    for at, gap in layout.gaps():
        target[at : at + len(gap)] = gap
    for plane in layout.planes:
        for first in range(0, plane.cells, step):
            put_rows(memoryview(target), plane, first, rows(content, plane, first, min(plane.cells, first + step)))
    return bytes(target)


class TestRealFiles:
    @pytest.mark.parametrize(
        ("words", "kind", "transposed"),
        [((), "f16", False), (("-fa", "off"), "f16", True), ((), "bf16", False)],
        ids=["f16", "transposed", "bf16"],
    )
    def test_one_comes_back_bit_by_bit(
        self, saved_slot: SavedSlot, words: tuple[str, ...], kind: str, transposed: bool
    ) -> None:
        content = saved_slot(*words, kv_type=kind)
        layout = parse(io.BytesIO(content))
        assert (layout.keys[0].type, layout.values[0].transposed) == (kind, transposed)
        assert (len(layout.keys), layout.keys[0].width, layout.values[0].width) == (30, 192, 192)
        assert len(layout.tokens) == layout.cells > 150
        assert list(layout.positions) == list(range(layout.cells))
        assert written_again(content, layout) == content

    def test_values_are_the_same_however_they_lie(self, saved_slot: SavedSlot) -> None:
        one, other = saved_slot(), saved_slot("-fa", "off")
        first = rows(one, parse(io.BytesIO(one)).values[0])
        second = rows(other, parse(io.BytesIO(other)).values[0])
        assert np.abs(first - second).max() < 0.01 * np.abs(first).max()

    def test_a_quantized_one_is_freed_of_the_engines_own_rotation(self, saved_slot: SavedSlot) -> None:
        one, other = saved_slot(), saved_slot(kv_type="q8_0")
        layout, plain = parse(io.BytesIO(other)), parse(io.BytesIO(one))
        assert layout.keys[0].hadamard == 64
        for mine, theirs in ((layout.keys[0], plain.keys[0]), (layout.values[0], plain.values[0])):
            found, wanted = rows(other, mine), rows(one, theirs)
            assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
            again = np.frombuffer(written_again(other, layout), np.uint8, mine.bytes, mine.offset).tobytes()
            assert np.abs(rows(again, mine.alone(mine.cells)) - found).max() < 0.02 * np.abs(wanted).max()

    def test_headers_alone_give_the_layout(self, saved_slot: SavedSlot) -> None:
        content = saved_slot("-fa", "off")
        layout = parse(io.BytesIO(content))
        assert parse_headers(layout.headers, layout.size) == layout
        assert len(layout.headers) < 0.01 * layout.size + 5000


class TestWhatIsRefused:
    @given(data=st.data())
    def test_a_cut_file_is(self, made_slot: MadeSlot, data: st.DataObject) -> None:
        content = made_slot(KEYS, VALUES, transposed=data.draw(st.booleans()))
        first_value_plane = parse(io.BytesIO(content)).values[0].offset - 12
        cut = data.draw(st.integers(0, len(content) - 1).filter(lambda end: end != first_value_plane))
        with pytest.raises(SnapshotNotUnderstood):
            parse(io.BytesIO(content[:cut]))

    @given(data=st.data())
    def test_a_file_with_changed_headers_is_or_still_has_its_size(
        self, made_slot: MadeSlot, data: st.DataObject
    ) -> None:
        content = bytearray(made_slot(KEYS, VALUES))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, 250))] ^= 1 << data.draw(st.integers(0, 7))
        try:
            layout = parse(io.BytesIO(bytes(content)))
        except SnapshotNotUnderstood:
            return
        assert sum(plane.bytes for plane in layout.planes) + len(layout.headers) == layout.size == len(content)

    @given(content=st.binary(max_size=400))
    def test_any_bytes_are(self, content: bytes) -> None:
        with pytest.raises(SnapshotNotUnderstood):
            parse(io.BytesIO(content))

    @pytest.mark.parametrize(
        ("at", "value", "why"),
        [
            (0, 0x6767736E, "does not begin as one"),
            (4, 5, "version 5"),
            (8, 0xFFFF_FFF0, "ends too early"),
            (52, 2, "2 streams"),
            (56, 0x7FFF_FFFF, "ends too early"),
            (60, 0xFFFF_FFFF, "negative"),
            (64, 2, "several sequences"),
            (180, 7, "layers make no sense"),
            (196, 2, "q4_0"),
            (196, 77, "type 77"),
            (188, 48, "Hadamard"),
        ],
    )
    def test_a_field_that_is_not_known_is_named(self, made_slot: MadeSlot, at: int, value: int, why: str) -> None:
        content = bytearray(made_slot(KEYS, VALUES))
        content[at : at + 4] = value.to_bytes(4, "little")
        with pytest.raises(SnapshotNotUnderstood, match=why):
            parse(io.BytesIO(bytes(content)))

    def test_a_second_cache_behind_the_first_is(self, made_slot: MadeSlot) -> None:
        content = made_slot(KEYS, VALUES)
        with pytest.raises(SnapshotNotUnderstood, match="window"):
            parse(io.BytesIO(content + content[52:]))

    @pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
    def test_numbers_that_are_not_finite_are(self, made_slot: MadeSlot, kind: str, value: float) -> None:
        keys = KEYS.copy()
        keys[1, 4, 33] = value
        content = made_slot(keys, VALUES, kind=kind)
        plane = parse(io.BytesIO(content)).keys[1]
        assert np.isfinite(rows(content, plane, 5)).all()
        with pytest.raises(SnapshotNotUnderstood, match="not finite"):
            rows(content, plane)


class TestArrays:
    @given(data=st.data())
    def test_pieces_of_any_kind_come_back(self, made_slot: MadeSlot, data: st.DataObject) -> None:
        kind, transposed = data.draw(st.sampled_from(["f16", "bf16", "f32"])), data.draw(st.booleans())
        content = made_slot(KEYS, VALUES, kind=kind, transposed=transposed)
        layout = parse(io.BytesIO(content))
        assert written_again(content, layout, data.draw(st.integers(1, 11))) == content
        precision = 1e-2 if kind == "bf16" else 1e-3
        assert np.allclose(rows(content, layout.values[2], 3, 8), VALUES[2, 3:8], rtol=precision, atol=1e-4)

    def test_a_file_within_another_counts_from_where_it_begins(self, made_slot: MadeSlot) -> None:
        content = made_slot(KEYS, VALUES)
        source = io.BytesIO(b"before" + content + b"after")
        source.seek(6)
        assert parse(source, len(content)) == parse(io.BytesIO(content))

    def test_no_cells_are_a_file_without_planes(self, made_slot: MadeSlot) -> None:
        content = made_slot(KEYS[:, :0], VALUES[:, :0])
        layout = parse(io.BytesIO(content))
        assert (layout.cells, layout.planes, layout.headers) == (0, (), content)


class TestHalfFloats:
    def test_every_one_comes_back(self) -> None:
        every = np.arange(1 << 16, dtype=np.uint16)
        finite = np.ascontiguousarray(every[(every & 0x7C00) != 0x7C00])
        wide = np.empty(finite.shape, np.float32)
        widen(finite.view(np.uint8), "f16", wide)
        assert np.array_equal(wide, finite.view(np.float16).astype(np.float32))
        again = np.empty_like(finite)
        narrow(wide, "f16", again.view(np.uint8))
        assert np.array_equal(again, finite)

    def test_more_than_are_widened_at_once_come_back(self) -> None:
        halves = np.linspace(-3, 3, 150_000).astype(np.float16)
        wide = np.empty(halves.shape, np.float32)
        widen(halves.view(np.uint8), "f16", wide)
        assert np.array_equal(wide, halves.astype(np.float32))

    def test_the_last_of_many_is_looked_at(self) -> None:
        halves = np.zeros(150_000, np.float16)
        halves[-1] = np.inf
        with pytest.raises(SnapshotNotUnderstood, match="not finite"):
            widen(halves.view(np.uint8), "f16", np.empty(halves.shape, np.float32))

    @given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=50))
    def test_they_are_rounded_as_the_standard_says(self, given: list[float]) -> None:
        values = np.array(given, np.float32)
        out = np.empty(values.shape, np.float16)
        narrow(values, "f16", out.view(np.uint8))
        assert np.array_equal(out, np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16))


def test_a_row_of_q8_0_takes_34_bytes_for_32_values() -> None:
    assert Plane(0, "k", "q8_0", 192, 10, 0).bytes == 10 * 6 * 34
