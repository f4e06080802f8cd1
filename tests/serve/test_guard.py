"""Who is let in."""

from __future__ import annotations

import pytest

from quietmind.base.errors import UsageError
from quietmind.serve.guard import Guard, host_name, is_loopback, origin_name

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


def test_the_key_is_taken_from_either_header_and_from_both_where_they_agree() -> None:
    for shown in ({"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}):
        assert Guard(KEY).check(headers(host="localhost", **shown)) is None
    both = {"authorization": f"Bearer {KEY}", "x-api-key": KEY}
    assert Guard(KEY).check(headers(host="localhost", **both)) is None
    assert Guard(KEY).check(headers(host="localhost", **{**both, "x-api-key": "another"})) is not None
    assert Guard(KEY).check(headers(host="localhost", **{"x-api-key": f"Bearer {KEY}"})) is not None


SHARED = Guard(KEY, hosts=frozenset({"192.168.1.5", "notes.example.net"}))


@pytest.mark.parametrize("host", ["192.168.1.5:4874", "notes.example.net", "NOTES.example.net:443", "127.0.0.1:1"])
def test_the_names_that_were_given_are_right(host: str) -> None:
    assert SHARED.check(headers(host=host), open_to_all=True) is None


@pytest.mark.parametrize("host", ["192.168.1.6", "example.net", "a.notes.example.net", "notes.example.net.evil"])
def test_names_like_them_are_not(host: str) -> None:
    assert SHARED.check(headers(host=host), open_to_all=True) is not None


@pytest.mark.parametrize(
    ("origin", "host", "may"),
    [
        ("https://notes.example.net", "notes.example.net", True),
        ("https://notes.example.net", "notes.example.net:443", True),
        ("http://192.168.1.5:4874", "192.168.1.5:4874", True),
        ("http://192.168.1.5:8080", "192.168.1.5:4874", False),  # another program of that machine
        ("https://notes.example.net:8443", "notes.example.net", False),
        ("https://other.example.net", "notes.example.net", False),
        ("app://obsidian.md", "192.168.1.5:4874", True),
    ],
)
def test_a_page_may_ask_the_address_that_it_came_from(origin: str, host: str, may: bool) -> None:
    given = headers(host=host, origin=origin)
    assert (SHARED.check(given, open_to_all=True) is None) is may
    assert SHARED.origin_of(given) == (origin if may else None)


def test_where_every_address_is_listened_on_every_number_is_right_and_no_name_is() -> None:
    anywhere = Guard(KEY, any_address=True)
    for host in ("10.1.2.3:4874", "[2001:db8::1]:4874", "192.168.7.7"):
        assert anywhere.check(headers(host=host), open_to_all=True) is None
    for host in ("example.net", "10.1.2.3.nip.io", "0x7f.1"):
        assert anywhere.check(headers(host=host), open_to_all=True) is not None


@pytest.mark.parametrize(
    ("text", "name"),
    [("Notes.Example.NET.", "notes.example.net"), ("[::1]", "::1"), ("10.0.0.1", "10.0.0.1"), ("my_host", "my_host")],
)
def test_a_name_is_read_as_it_stands_in_host(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize("text", ["", "http://a.example", "a.example:443", "a b", "a/b", "*", "-a", "é.example"])
def test_what_is_no_name_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="no host name"):
        host_name(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://A.example/", "https://a.example"),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:8080", "http://a.example:8080"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_read_as_browsers_write_it(text: str, origin: str) -> None:
    assert origin_name(text) == origin


@pytest.mark.parametrize("text", ["", "a.example", "https://a.example/path", "https://u@a.example", "*", "null"])
def test_what_is_no_origin_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="no origin"):
        origin_name(text)
