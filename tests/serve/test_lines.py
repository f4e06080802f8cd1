"""Event streams on their way through."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.serve.lines import WholeLines

STREAM = b'data: {"a": "\xd0\xb9"}\r\n\r\n: comment\n\ndata: {"b": [1]}\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_however_it_is_cut_every_byte_passes_in_whole_lines(cuts: list[int]) -> None:
    ends = sorted({0, *cuts, len(STREAM)})
    lines = WholeLines()
    passed = b""
    for start, end in pairwise(ends):
        piece = lines.feed(STREAM[start:end])
        assert piece == b"" or piece.endswith((b"\n", b"\r"))
        passed += piece
    assert passed + lines.rest == STREAM
    assert lines.finished


@pytest.mark.parametrize("last", [b"data: [DONE]\n\n", b'data: {"error": {"code": 1}}\n\n', b"error: {}\n\n"])
def test_a_stream_is_finished_by_its_last_event_or_its_own_error(last: bytes) -> None:
    lines = WholeLines()
    lines.feed(b'data: {"text": "data: [DONE]"}\n\n')
    assert not lines.finished
    lines.feed(last)
    assert lines.finished
