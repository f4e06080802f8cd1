"""Plain arrays go into a file and come out; what does not fit its size is refused; the codecs read it like a slot."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.arrays import MAGIC, Shape, layout_of, layout_of_headers, write
from quietmind.kvstore.codec.perchannel import PerChannel
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import rows

CHANCE = np.random.default_rng(2)


def made(kind: str = "f16", cells: int = 300, widths: tuple[tuple[int, int], ...] = ((64, 32), (32, 64))) -> bytes:
    layers = [tuple(CHANCE.normal(size=(cells, width)).astype(np.float32) for width in pair) for pair in widths]
    sink = io.BytesIO()
    shape = Shape(cells + 1, cells, kind, widths)
    size = write(sink, shape, range(7, cells + 8), range(cells), ((key, value) for key, value in layers))
    assert size == len(sink.getvalue())
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_arrays_come_back(kind: str) -> None:
    keys, values = (CHANCE.normal(size=(5, width)).astype(np.float32) for width in (64, 32))
    sink = io.BytesIO()
    write(sink, Shape(5, 5, kind, ((64, 32),)), [9, 8, 7, 6, 5], [0, 1, 2, 3, 9], [(keys, values)])
    content = sink.getvalue()
    layout = layout_of(io.BytesIO(content))
    assert (list(layout.tokens), list(layout.positions)) == ([9, 8, 7, 6, 5], [0, 1, 2, 3, 9])
    tolerance = {"f32": 0, "f16": 1e-3, "bf16": 1e-2}[kind]
    assert np.allclose(rows(content, layout.keys[0]), keys, rtol=tolerance, atol=tolerance / 100)
    assert np.allclose(rows(content, layout.values[0]), values, rtol=tolerance, atol=tolerance / 100)
    assert layout_of_headers(layout.headers, layout.size) == layout
    assert layout.keys[0].offset % 64 == 0


def test_a_lossy_codec_takes_them() -> None:
    content = made(widths=((64, 32), (64, 32)))
    blocks = list(PerChannel(Rotation(Pairs.HALVES, 32, 32, 1e4)).encode(io.BytesIO(content), len(content)))
    target = bytearray(len(content))
    PerChannel().decode(blocks, memoryview(target))
    layout = layout_of(io.BytesIO(content))
    assert layout_of(io.BytesIO(target)) == layout
    for plane in layout.planes:
        one, other = rows(content, plane), rows(bytes(target), plane)
        assert 0 < np.square(one - other).mean() < 0.02


def test_a_file_within_another_counts_from_where_it_begins() -> None:
    content = made()
    source = io.BytesIO(b"before" + content + b"after")
    source.seek(6)
    assert layout_of(source, len(content)) == layout_of(io.BytesIO(content))


@given(data=st.data())
def test_a_cut_or_changed_file_is_refused_or_still_has_its_size(data: st.DataObject) -> None:
    content = bytearray(made(cells=3))
    if data.draw(st.booleans(), label="cut"):
        with pytest.raises(SnapshotNotUnderstood):
            layout_of(io.BytesIO(bytes(content[: data.draw(st.integers(0, len(content) - 1))])))
        return
    content[data.draw(st.integers(0, 120))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        layout = layout_of(io.BytesIO(bytes(content)))
    except SnapshotNotUnderstood:
        return
    assert sum(plane.bytes for plane in layout.planes) + len(layout.headers) == len(content)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"\xff", b'{"tokens":1,"cells":-1,"type":"f16","widths":[]}', b"[" * 20_000], ids=len
)
def test_a_description_without_sense_is_refused(text: bytes) -> None:
    with pytest.raises(SnapshotNotUnderstood):
        layout_of(io.BytesIO(MAGIC + len(text).to_bytes(4, "little") + text + bytes(100)))
