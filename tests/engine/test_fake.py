"""What the scripted engine can be told to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import EngineCrashed, EngineHung, EngineRefused
from quietmind.engine.fake import Crash, FakeEngine, Hang, Refuse, pieces
from quietmind.engine.port import Delta, Finished, Request

ASK = Request("what is in the notes?", max_tokens=100)


def test_answers_come_in_the_order_of_the_script() -> None:
    engine = FakeEngine(["first", "second"])
    assert [next(engine.generate(ASK)), next(engine.generate(ASK))] == [Delta("first"), Delta("second")]


def test_a_callable_sees_the_request() -> None:
    engine = FakeEngine(lambda request: request.prompt.upper())
    assert next(engine.generate(Request("echo", 3))) == Delta("ECHO")


def test_every_request_is_recorded() -> None:
    engine = FakeEngine(["a", Refuse()])
    list(engine.generate(ASK))
    with pytest.raises(EngineRefused):
        next(engine.generate(Request("again", 1)))
    assert [request.prompt for request in engine.requests] == ["what is in the notes?", "again"]


def test_a_request_past_the_script_is_the_tests_mistake() -> None:
    engine = FakeEngine([])
    with pytest.raises(AssertionError, match="script of 0"):
        next(engine.generate(ASK))


def test_a_crash_comes_after_its_deltas_and_is_final() -> None:
    engine = FakeEngine([Crash("one two three", after=2), "never said"])
    items = engine.generate(ASK)
    assert [next(items), next(items)] == [Delta("one"), Delta(" two")]
    with pytest.raises(EngineCrashed):
        next(items)
    assert not engine.healthy()
    with pytest.raises(EngineCrashed):
        engine.tokenize("text")


def test_a_hang_is_found_once_and_a_crash_from_then_on() -> None:
    engine = FakeEngine([Hang()])
    with pytest.raises(EngineHung):
        next(engine.generate(ASK))
    with pytest.raises(EngineCrashed):
        next(engine.generate(ASK))


def test_a_refusal_is_of_one_request() -> None:
    engine = FakeEngine([Refuse("no such thing"), "yes"])
    with pytest.raises(EngineRefused, match="no such thing"):
        next(engine.generate(ASK))
    assert next(engine.generate(ASK)) == Delta("yes")


def test_an_answer_longer_than_asked_for_is_cut_off() -> None:
    *deltas, last = FakeEngine(["one two three"]).generate(Request("count", max_tokens=2))
    assert deltas == [Delta("one"), Delta(" two")]
    assert isinstance(last, Finished)
    assert last.reason == "length"


@given(st.text())
def test_pieces_lose_nothing(text: str) -> None:
    assert "".join(pieces(text)) == text
