"""Quantities as people write them."""

from __future__ import annotations

import pytest

from quietmind.base.errors import UsageError
from quietmind.base.units import format_bytes, parse_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("4096", 4096), ("4k", 4096), ("128K", 131_072), ("1M", 1_048_576), ("1.5k", 1536), (" 32k ", 32_768)],
)
def test_contexts_are_read_with_their_binary_suffixes(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "-4k", "0", "4g", "1.3", "four", "1e5", "4 k 4"])
def test_what_is_no_number_of_tokens_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tokens(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 13, "1000000000000.5k", f"1.{'0' * 400}"])
def test_numbers_beyond_every_model_are_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tokens(text)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (96_573_000, "92.1 MiB"), (25_232_932_864, "23.50 GiB")],
)
def test_bytes_are_shown_in_binary_units(count: int, text: str) -> None:
    assert format_bytes(count) == text
