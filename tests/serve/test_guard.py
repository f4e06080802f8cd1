"""Who is let in."""

from __future__ import annotations

import pytest

from quietmind.serve.guard import Guard, is_loopback

KEY = "a-key-of-some-length"


def headers(**given: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in given.items()]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST.", "::1"])
def test_loopback_is_known_by_name_and_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.nip.io", "2130706433"]
)
def test_everything_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:4874", "localhost:1", "[::1]:4874"])
def test_a_loopback_host_is_let_in(host: str) -> None:
    assert Guard().check(headers(host=host)) is None
    assert Guard().check(headers(host=host, origin=f"http://{host}")) is None


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:4874", "user@127.0.0.1", "127.0.0.1/x", "127.0.0.1:x", "[::1", "\xe9"]
)
def test_any_other_host_and_origin_is_refused(host: str) -> None:
    refused = Guard().check(headers(host=host))
    assert refused is not None
    assert refused.status == 403
    assert Guard().check(headers(host="localhost", origin=f"http://{host}")) is not None


def test_a_request_without_a_host_or_with_two_is_refused() -> None:
    assert Guard().check([]) is not None
    assert Guard().check([*headers(host="localhost"), *headers(host="localhost")]) is not None


@pytest.mark.parametrize("origin", ["null", "file://", "chrome-extension://abc", "https://evil.example", "localhost"])
def test_origins_that_are_no_loopback_page_are_refused(origin: str) -> None:
    assert Guard().check(headers(host="localhost", origin=origin)) is not None


@pytest.mark.parametrize("offered", ["", KEY, f"Bearer {KEY}x", f"bearer {KEY[:-1]}", "Bearer \xe9", "Basic abc"])
def test_a_wrong_key_is_refused(offered: str) -> None:
    refused = Guard(KEY).check(headers(host="localhost", authorization=offered))
    assert refused is not None
    assert refused.status == 401


def test_the_right_key_opens_and_only_health_does_without() -> None:
    assert Guard(KEY).check(headers(host="localhost", authorization=f"Bearer {KEY}")) is None
    assert Guard(KEY).check(headers(host="localhost")) is not None
    assert Guard(KEY).check(headers(host="localhost"), open_to_all=True) is None
    assert Guard(KEY).check(headers(host="evil.example"), open_to_all=True) is not None
