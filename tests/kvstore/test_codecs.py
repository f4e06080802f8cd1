"""One test matrix over all codecs: what goes in comes out, and damage is an error, never another cache."""

from __future__ import annotations

import io
import random
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.exact import BLOCK_BYTES, STRIDES, Exact
from quietmind.kvstore.codec.exact_1 import BLOCK_BYTES as FIRST_BLOCK_BYTES
from quietmind.kvstore.codec.port import Codec, codec_named

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODECS = [Exact()]


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


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
class TestEveryCodec:
    @given(content=st.binary(max_size=5000))
    def test_any_bytes_come_back(self, codec: Codec, content: bytes) -> None:
        assert through(codec, content) == content

    def test_it_is_found_by_its_name(self, codec: Codec) -> None:
        assert codec_named(codec.name).name == codec.name

    def test_more_than_a_block_comes_back(self, codec: Codec) -> None:
        content = half_floats(BLOCK_BYTES // 2 + 1234)
        assert through(codec, content) == content

    def test_a_source_that_ends_early_is_said(self, codec: Codec) -> None:
        with pytest.raises(EOFError):
            list(codec.encode(io.BytesIO(b"abc"), 4))

    @given(data=st.data())
    def test_a_block_cut_or_changed_anywhere_is_refused_or_harmless(self, codec: Codec, data: st.DataObject) -> None:
        content = half_floats(500)
        (block,) = codec.encode(io.BytesIO(content), len(content))
        if data.draw(st.booleans(), label="cut"):
            broken = block[: data.draw(st.integers(0, len(block) - 1))]
            with pytest.raises(SnapshotDamaged):
                unpacked(codec, [broken], len(content))
            return
        at = data.draw(st.integers(0, len(block) - 1))
        broken = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
        with suppress(SnapshotDamaged):  # the container's digest is what tells a flipped bit
            unpacked(codec, [broken], len(content))

    @given(content=st.binary(min_size=1, max_size=3000), other=st.integers(0, 6000))
    def test_a_target_of_another_size_is_refused(self, codec: Codec, content: bytes, other: int) -> None:
        blocks = list(codec.encode(io.BytesIO(content), len(content)))
        if other != len(content):
            with pytest.raises(SnapshotDamaged):
                unpacked(codec, blocks, other)

    def test_blocks_that_are_missing_or_too_many_are_refused(self, codec: Codec) -> None:
        content = half_floats(BLOCK_BYTES)
        blocks = list(codec.encode(io.BytesIO(content), len(content)))
        assert len(blocks) > 1
        for wrong in (blocks[:-1], [*blocks, blocks[-1]], []):
            with pytest.raises(SnapshotDamaged):
                unpacked(codec, wrong, len(content))

    def test_an_error_of_the_blocks_passes_and_lets_go_of_the_target(self, codec: Codec) -> None:
        content = half_floats(BLOCK_BYTES)

        def broken() -> Iterator[bytes]:
            yield next(codec.encode(io.BytesIO(content), len(content)))
            raise SnapshotDamaged("block 2")

        target = bytearray(len(content))
        with pytest.raises(SnapshotDamaged, match="block 2"):
            codec.decode(broken(), memoryview(target))
        after = bytes(target)
        time.sleep(0.01)
        assert target == after

    @given(junk=st.binary(max_size=400))
    def test_junk_never_raises_anything_else(self, codec: Codec, junk: bytes) -> None:
        with suppress(SnapshotDamaged):
            unpacked(codec, [junk], 500)


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
