"""What reading costs is said beforehand: the bytes of the cache as they are stored, the seconds only where known."""

from __future__ import annotations

import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.model.locate import locate
from quietmind.plan.plan import Ask
from quietmind.workspace.cost import PACKED, cost_of
from quietmind.workspace.launch import Start, prepare


def planned(kv_type: str) -> Start:
    try:
        locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
    return prepare("tiny", Ask(1024, kv_type))


def test_the_bytes_are_those_of_the_cache_packed_where_that_was_measured() -> None:
    values = 30 * 2 * 3 * 64  # layers, keys and values, heads, their length
    assert cost_of(planned("f16"), [600, 400]).bytes == int(1000 * 2 * values * PACKED["f16"])
    assert cost_of(planned("q8_0"), [600, 400]).bytes == 1000 * values * 34 // 32


def test_the_tokens_of_all_notebooks_are_added_up() -> None:
    assert cost_of(planned("f16"), [600, 400]).tokens == 1000
    assert cost_of(planned("f16"), []).bytes == 0
