"""One test matrix over all codecs: what goes in comes out, and damage is an error, never another cache."""

from __future__ import annotations

import io
import mmap
import random
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.exact import BLOCK_BYTES, STRIDES, Exact
from quietmind.kvstore.codec.exact_1 import BLOCK_BYTES as FIRST_BLOCK_BYTES
from quietmind.kvstore.codec.perchannel import LEVELS, PerChannel
from quietmind.kvstore.codec.port import Codec, codec_named
from quietmind.kvstore.codec.transform import BLOCK_TOKENS, Transform
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.gathering import Gathering, Sensitivity
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import parse, rows

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LOSSLESS = [Exact()]
NAMES = ["exact-2", "perchannel-1 at 4", "perchannel-1 at 3", "transform-4"]
TOKENS = 400


def unpacked(codec: Codec, blocks: Iterable[bytes], size: int) -> bytes:
    target = bytearray(b"\xa5" * size)
    codec.decode(blocks, memoryview(target))
    return bytes(target)


def through(codec: Codec, content: bytes) -> bytes:
    return unpacked(codec, codec.encode(io.BytesIO(content), len(content)), len(content))


def half_floats(count: int) -> bytes:
    chance = random.Random(7)
    some = struct.pack("<5000e", *(chance.gauss(0, 1) for _ in range(5000)))
    return (some * (count // 5000 + 1))[: 2 * count]


@dataclass(frozen=True)
class Case:
    """A codec, and what it is asked to pack: ``small``, and ``large``, which makes several blocks."""

    codec: Codec
    small: bytes
    large: bytes
    bases: Path | None = None

    @cached_property
    def blocks(self) -> list[bytes]:
        """The blocks of what is small."""
        return list(self.codec.encode(io.BytesIO(self.small), len(self.small)))

    def encode_large(self) -> Iterator[bytes]:
        return self.codec.encode(io.BytesIO(self.large), len(self.large))


@pytest.fixture(scope="session", params=NAMES)
def case(
    request: pytest.FixtureRequest, made_slot: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    name, _, level = request.param.partition(" at ")
    if name == "exact-2":
        return Case(Exact(), half_floats(500), half_floats(BLOCK_BYTES))
    if name == "transform-4":
        return transform_case(made_slot, tmp_path_factory.mktemp("bases"))
    chance = np.random.default_rng(5)
    slots: list[bytes] = []
    for layers, width in ((1, 32), (3, 64)):
        keys, values = (chance.normal(3, 1, (layers, TOKENS, width)).astype(np.float32) for _ in range(2))
        slots.append(made_slot(keys, values))
    small, large = slots
    return Case(PerChannel(Rotation(Pairs.HALVES, 32, 32, 1e4), LEVELS[level]), small, large)


def transform_case(made_slot: Callable[..., bytes], bases: Path) -> Case:
    """Return the codec with a basis of what it packs."""
    chance = np.random.default_rng(6)
    mixed = chance.normal(0, 0.5, (4 * 64, 4 * 64)) + np.eye(4 * 64)

    def slot(tokens: int) -> bytes:
        both = (chance.normal(0, 1, (tokens, 4 * 64)) @ mixed + 3).astype(np.float32).reshape(tokens, 4, 64)
        return made_slot(*(np.ascontiguousarray(each.transpose(1, 0, 2)) for each in (both[:, :2], both[:, 2:])))

    small, large = slot(60), slot(BLOCK_TOKENS + 200)
    rotation = Rotation(Pairs.HALVES, 32, 32, 1e4)
    gathering = Gathering(parse(io.BytesIO(large)), rotation)
    gathering.add(io.BytesIO(large))
    parts = Fingerprint(*(f"{number}" for number in range(6)))
    made = gathering.basis(Sensitivity.same(gathering.widths), fingerprint=parts, steps={"near": 4.0})
    made.save(bases)
    return Case(Transform(made, made.steps["near"]), small, large, bases)


class TestEveryCodec:
    def test_what_goes_in_comes_out_nearly_or_as_it_was(self, case: Case) -> None:
        found = unpacked(case.codec, case.blocks, len(case.small))
        if isinstance(case.codec, Exact):
            assert found == case.small
            return
        layout = parse(io.BytesIO(case.small))
        assert parse(io.BytesIO(found)) == layout
        for plane in layout.planes:
            one, other = rows(case.small, plane), rows(found, plane)
            assert 0 < np.square(one - other).mean() < 0.15 * one.var()

    def test_it_takes_fewer_bytes(self, case: Case) -> None:
        assert sum(map(len, case.encode_large())) < 0.9 * len(case.large)

    def test_it_is_found_by_its_name(self, case: Case) -> None:
        assert codec_named(case.codec.name, case.bases).name == case.codec.name

    def test_whoever_reads_needs_the_blocks_alone(self, case: Case) -> None:
        again, found = bytearray(len(case.small)), unpacked(case.codec, case.blocks, len(case.small))
        codec_named(case.codec.name, case.bases).decode(case.blocks, memoryview(again))
        assert again == found

    def test_a_source_that_ends_early_is_said(self, case: Case) -> None:
        for missing in (1, len(case.small) // 2, len(case.small) - 2):
            with pytest.raises(EOFError):
                list(case.codec.encode(io.BytesIO(case.small[:-missing]), len(case.small)))

    def test_a_source_is_read_from_where_it_stands(self, case: Case) -> None:
        source = io.BytesIO(b"before" + case.small + b"after")
        source.seek(6)
        assert list(case.codec.encode(source, len(case.small))) == case.blocks

    @given(data=st.data())
    def test_a_block_cut_or_changed_anywhere_is_refused_or_harmless(self, case: Case, data: st.DataObject) -> None:
        blocks = list(case.blocks)
        number = data.draw(st.integers(0, len(blocks) - 1))
        block = blocks[number]
        if data.draw(st.booleans(), label="cut"):
            blocks[number] = block[: data.draw(st.integers(0, len(block) - 1))]
            with pytest.raises(SnapshotDamaged):
                unpacked(case.codec, blocks, len(case.small))
            return
        at = data.draw(st.integers(0, len(block) - 1))
        blocks[number] = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
        with suppress(SnapshotDamaged):  # the container's digest is what tells a flipped bit
            unpacked(case.codec, blocks, len(case.small))

    @given(other=st.integers(0, 1 << 17))
    def test_a_target_of_another_size_is_refused(self, case: Case, other: int) -> None:
        if other != len(case.small):
            with pytest.raises(SnapshotDamaged):
                unpacked(case.codec, case.blocks, other)

    def test_blocks_that_are_missing_or_too_many_are_refused(self, case: Case) -> None:
        blocks = list(case.encode_large())
        assert len(blocks) > 1
        for wrong in (blocks[:-1], [*blocks, blocks[-1]], []):
            with pytest.raises(SnapshotDamaged):
                unpacked(case.codec, wrong, len(case.large))

    def test_an_error_of_the_blocks_passes_and_lets_go_of_the_target(self, case: Case) -> None:
        def broken() -> Iterator[bytes]:
            yield next(case.encode_large())
            raise SnapshotDamaged("block 2")

        target = bytearray(len(case.large))
        with pytest.raises(SnapshotDamaged, match="block 2"):
            case.codec.decode(broken(), memoryview(target))
        after = bytes(target)
        time.sleep(0.01)
        assert target == after

    def test_nothing_holds_the_target_after_damage(self, case: Case) -> None:
        *blocks, last = case.encode_large()
        # Closing raises BufferError where anything still looks at it.
        with mmap.mmap(-1, len(case.large)) as target, memoryview(target) as view, suppress(SnapshotDamaged):
            case.codec.decode([*blocks, last[:-1]], view)

    @given(junk=st.binary(max_size=400))
    def test_junk_never_raises_anything_else(self, case: Case, junk: bytes) -> None:
        with suppress(SnapshotDamaged):
            unpacked(case.codec, [junk], 500)


@pytest.mark.parametrize("codec", LOSSLESS, ids=lambda codec: codec.name)
class TestEveryLosslessCodec:
    @given(content=st.binary(max_size=5000))
    def test_any_bytes_come_back(self, codec: Codec, content: bytes) -> None:
        assert through(codec, content) == content

    def test_more_than_a_block_comes_back(self, codec: Codec) -> None:
        content = half_floats(BLOCK_BYTES // 2 + 1234)
        assert through(codec, content) == content


def test_half_floats_take_fewer_bytes() -> None:
    content = half_floats(200_000)
    packed = sum(map(len, Exact().encode(io.BytesIO(content), len(content))))
    assert packed < 0.9 * len(content)


@pytest.mark.parametrize("stride", STRIDES)
def test_every_stride_comes_back(stride: int) -> None:
    chance = random.Random(stride)
    pattern = [bytes([chance.randrange(4)]) if k < stride // 2 else None for k in range(stride)]
    content = b"".join(part or chance.randbytes(1) for _ in range(3000) for part in pattern)
    assert through(Exact(), content) == content


def packed_in_the_first_form(content: bytes, stride: int) -> Iterator[bytes]:
    """Yield the blocks of codec exact-1, as it wrote them."""
    for start in range(0, len(content), FIRST_BLOCK_BYTES):
        block = content[start : start + FIRST_BLOCK_BYTES]
        planes = [zstd.compress(block[plane::stride], level=1) for plane in range(stride)]
        yield struct.pack("<BI", stride, len(block)) + b"".join(struct.pack("<I", len(each)) + each for each in planes)


@pytest.mark.parametrize("stride", [1, 2, 34])
def test_the_first_form_is_still_read(stride: int) -> None:
    content = half_floats(FIRST_BLOCK_BYTES // 2 + 777)
    blocks = list(packed_in_the_first_form(content, stride))
    target = bytearray(len(content))
    codec_named("exact-1").decode(blocks, memoryview(target))
    assert target == content
    with pytest.raises(SnapshotDamaged):
        codec_named("exact-1").decode(blocks[:1], memoryview(target))


def test_noise_is_kept_plain_and_a_plane_of_full_length_is_read_as_such() -> None:
    noise = random.Random(1).randbytes(100_000)
    (block,) = Exact().encode(io.BytesIO(noise), len(noise))
    assert noise in block


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(SnapshotDamaged, match="'transform-9' is not known"):
        codec_named("transform-9")


def test_a_few_bytes_cannot_ask_for_much_memory() -> None:
    bomb = struct.pack("<BI", 1, 0xFFFF_FFFF) + b"\0" * 32
    with pytest.raises(SnapshotDamaged):
        unpacked(Exact(), [bomb], 100)
