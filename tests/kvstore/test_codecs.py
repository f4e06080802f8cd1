"""One test matrix over all codecs: what goes in comes out, and damage is an error, never another cache."""

from __future__ import annotations

import io
import random
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.exact import BLOCK_BYTES, STRIDES, Exact
from quietmind.kvstore.codec.port import Codec, codec_named

CODECS = [Exact()]


def through(codec: Codec, content: bytes) -> bytes:
    return b"".join(codec.decode(list(codec.encode(io.BytesIO(content), len(content)))))


def half_floats(count: int) -> bytes:
    chance = random.Random(7)
    return struct.pack(f"<{count}e", *(chance.gauss(0, 1) for _ in range(count)))


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
                list(codec.decode([broken]))
            return
        at = data.draw(st.integers(0, len(block) - 1))
        broken = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
        try:
            out = b"".join(codec.decode([broken]))
        except SnapshotDamaged:
            return
        assert len(out) == len(content)  # the container's digest is what tells a flipped bit; the size must hold

    @given(junk=st.binary(max_size=400))
    def test_junk_never_raises_anything_else(self, codec: Codec, junk: bytes) -> None:
        with suppress(SnapshotDamaged):
            list(codec.decode([junk]))


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


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(SnapshotDamaged, match="'transform-9' is not known"):
        codec_named("transform-9")


def test_a_few_bytes_cannot_ask_for_much_memory() -> None:
    bomb = struct.pack("<BI", 1, 0xFFFF_FFFF) + b"\0" * 32
    with pytest.raises(SnapshotDamaged):
        list(Exact().decode([bomb]))
