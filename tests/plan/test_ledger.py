"""The ledger adds up, and says so loudly when it does not."""

from __future__ import annotations

import pytest

from quietmind.plan import Ledger, Row

LEDGER = Ledger(
    (
        Row("cpu", "weights: attention", 100, "a"),
        Row("cpu", "weights: norms", 20, "b"),
        Row("cpu", "KV cache", 7, "c"),
        Row("cuda0", "KV cache", 3, "d"),
    )
)


def test_totals_are_by_device_and_component() -> None:
    assert LEDGER.devices == ("cpu", "cuda0")
    assert (LEDGER.total(), LEDGER.total("cpu"), LEDGER.total("cuda0"), LEDGER.total("none")) == (130, 127, 3, 0)
    assert (LEDGER.component("weights"), LEDGER.component("KV cache")) == (120, 10)


def test_a_true_claim_is_proved() -> None:
    LEDGER.prove({"cpu": 127, "cuda0": 3}, {"weights": 120, "KV cache": 10})


def test_a_wrong_sum_prints_the_whole_equation() -> None:
    with pytest.raises(AssertionError) as wrong:
        LEDGER.prove({"cpu": 130, "cuda0": 3}, {})
    assert str(wrong.value) == (
        "cpu: needed: 100 (weights: attention) + 20 (weights: norms) + 7 (KV cache) = 127 bytes, not 130 (off by -3)"
    )
    with pytest.raises(AssertionError, match=r"weights: 100 .* = 120 bytes, not 119"):
        LEDGER.prove({"cpu": 127, "cuda0": 3}, {"weights": 119})


def test_a_device_that_the_claim_forgets_is_noticed() -> None:
    with pytest.raises(AssertionError, match="cuda0"):
        LEDGER.prove({"cpu": 127}, {})
    with pytest.raises(AssertionError, match="nothing = 0 bytes, not 5"):
        LEDGER.prove({"cpu": 127, "cuda0": 3, "metal": 5}, {})


def test_negative_bytes_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="takes -1 bytes"):
        Ledger((Row("cpu", "x", -1, "?"),)).prove({"cpu": -1}, {})
