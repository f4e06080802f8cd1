"""Wrong keys."""

from __future__ import annotations

import pytest

from quietmind.serve import attempts
from quietmind.serve.attempts import Attempts, network_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_few_are_free_and_then_the_wait_doubles_up_to_five_minutes() -> None:
    known = Attempts(Clock())
    assert [known.failed("10.0.0.1") for _ in range(17)] == [0] * 5 + [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert known.failed("10.0.0.2") == 0


def test_a_quarter_of_an_hour_without_one_is_forgotten() -> None:
    clock = Clock()
    known = Attempts(clock)
    for _ in range(10):
        known.failed("10.0.0.1")
    clock.now = 901
    assert known.failed("10.0.0.1") == 0


def test_however_many_guess_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MOST_PEERS", 10)
    known = Attempts(Clock())
    for number in range(1000):
        known.failed(f"10.0.{number // 250}.{number % 250}")
    assert len(known._known) == 10


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("somebody", "somebody"),
    ],
)
def test_addresses_of_one_household_are_one(peer: str, network: str) -> None:
    assert network_of(peer) == network
