"""What a continuation is measured by: the likeliest tokens of each place, the same whenever the same is asked."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from quietmind.base.errors import ContextOverflow, EngineRefused
from quietmind.engine.fake import PROBABILITY, FakeEngine, Likely
from quietmind.engine.port import Delta, Engine, Message, Position, Request, probing, saving

HELLO = [Message("user", "Say hello to the neighbours and tell them about your day.")]
TOP = 20


@pytest.fixture(params=["fake", "llamacpp"])
def any_engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine(lambda _: "one two three four five six", context=512)
    engine: Engine = request.getfixturevalue("engine")
    return engine


def probed(engine: Engine, tokens: int = 6) -> tuple[Position, ...]:
    return probing(engine).probe(engine.render(HELLO), tokens, TOP)


def test_a_probe_says_what_a_greedy_generation_says(any_engine: Engine) -> None:
    request = Request(any_engine.render(HELLO), max_tokens=6)
    said = "".join(event.text for event in any_engine.generate(request) if isinstance(event, Delta))
    positions = probed(any_engine)
    assert "".join(position.text for position in positions) == said
    assert len(positions) == 6


def test_every_place_has_its_likeliest_tokens_and_the_first_of_them_was_taken(any_engine: Engine) -> None:
    for position in probed(any_engine):
        assert len(position.logprobs) == TOP
        assert max(position.logprobs, key=lambda token: position.logprobs[token]) == position.token
        assert 0 < sum(map(math.exp, position.logprobs.values())) <= 1 + 1e-5


def test_the_same_probe_of_the_same_cache_is_the_same_to_the_last_bit(any_engine: Engine, tmp_path: Path) -> None:
    list(any_engine.generate(Request(any_engine.render(HELLO), max_tokens=1)))
    keeping = saving(any_engine)
    keeping.save(tmp_path / "cache")
    seen = set()
    for _ in range(3):
        keeping.restore(tmp_path / "cache")
        seen.add(repr(probed(any_engine)))
    assert len(seen) == 1


def test_a_probe_that_does_not_fit_is_refused(any_engine: Engine) -> None:
    with pytest.raises(ContextOverflow):
        probing(any_engine).probe("word " * 600, 8, TOP)


def test_an_engine_that_tells_no_probabilities_is_named() -> None:
    with pytest.raises(EngineRefused, match="does not tell probabilities"):
        probing(cast(Engine, SimpleNamespace(model="mute")))


def test_the_fake_says_how_likely_what_it_says_is() -> None:
    engine = FakeEngine([Likely("one two", 0.5), "three"])
    first, second = engine.probe("a prompt", 4, TOP)
    assert (first.text, second.text) == ("one", " two")
    assert first.logprobs[first.token] == pytest.approx(math.log(0.5))
    (third,) = engine.probe("a prompt", 4, TOP)
    assert third.logprobs[third.token] == pytest.approx(math.log(PROBABILITY))
