"""A model that sleeps is started by the first call that needs it, once, and let go without being lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from quietmind.base.errors import DoesNotFit, EngineCrashed, EngineRefused
from quietmind.engine.fake import Crash, FakeEngine
from quietmind.engine.port import Delta, Engine, Request
from quietmind.plan.engines import Capabilities
from quietmind.workspace.on_demand import OnDemand
from quietmind.workspace.supervise import Attempt, Pause, Supervised


class Makes:
    """Starts scripted engines, and remembers them."""

    def __init__(self, *answers: str | Crash) -> None:
        self.engines: list[FakeEngine] = []
        self.answers = answers
        self.seconds = 0.0

    def __call__(self) -> Engine:
        time.sleep(self.seconds)
        engine = FakeEngine(self.answers, model="awake", capabilities=Capabilities(snapshots=True))
        self.engines.append(engine)
        return engine


def said(engine: Engine) -> str:
    return "".join(each.text for each in engine.generate(Request("x", 9)) if isinstance(each, Delta))


def test_nothing_is_started_before_it_is_needed() -> None:
    make = Makes("one")
    engine = OnDemand("asleep", make)
    assert (engine.model, engine.state, engine.healthy(), engine.endpoint) == ("asleep", "asleep", True, None)
    assert make.engines == []
    assert said(engine) == "one"
    assert (engine.model, engine.state) == ("awake", "awake")


def test_calls_at_once_start_one_engine() -> None:
    make = Makes()
    make.seconds = 0.05
    engine = OnDemand("x", make)
    threads = [threading.Thread(target=engine.tokenize, args=("word",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(make.engines) == 1


def test_after_a_rest_another_is_started(tmp_path: Path) -> None:
    make = Makes("one")
    engine = OnDemand("x", make)
    said(engine)
    engine.save(tmp_path / "cache")
    engine.rest()
    assert (engine.state, make.engines[0].healthy()) == ("asleep", False)
    assert engine.restore(tmp_path / "cache") == 1
    assert said(engine) == "one"
    assert len(make.engines) == 2


def test_what_hinders_the_start_is_raised_by_each_call_and_may_pass() -> None:
    failing = [DoesNotFit("too large"), DoesNotFit("still too large")]

    def make() -> Engine:
        if failing:
            raise failing.pop(0)
        return FakeEngine(("here",))

    engine = OnDemand("x", make)
    for words in ("too large", "still too large"):
        with pytest.raises(DoesNotFit, match=words):
            engine.tokenize("x")
    assert said(engine) == "here"


def test_one_that_was_stopped_starts_no_more_also_if_it_was_just_starting() -> None:
    make = Makes()
    make.seconds = 0.2
    engine = OnDemand("x", make)
    raised: list[BaseException] = []

    def wake() -> None:
        try:
            engine.tokenize("x")
        except EngineRefused as error:
            raised.append(error)

    waking = threading.Thread(target=wake)
    waking.start()
    while engine.state != "waking":
        time.sleep(0.005)
    engine.stop()
    waking.join()
    assert len(raised) == 1
    assert not make.engines[0].healthy()
    with pytest.raises(EngineRefused, match="stopped"):
        engine.tokenize("x")


def test_under_supervision_a_crash_is_asked_again_of_another_engine() -> None:
    class Waking:
        log = None
        pages = False
        weight_bytes = 0

        def start(self) -> Engine:
            return OnDemand("x", make)

        def smaller(self, error: Exception) -> tuple[Attempt, str] | None:
            return self, "less"

        def decode_at_least(self, depth: int) -> float | None:
            return None

    make = Makes(Crash(), "never")
    pause = Pause(back_off=(0.0,), recovered_after=0.0, watch_every=10)
    with Supervised(Waking(), pause=pause) as supervised:
        for number in range(1, 6):  # more often than what is supervised is ever tried otherwise
            with pytest.raises(EngineCrashed):
                said(supervised)
            assert len(make.engines) == 2 * number
        make.answers = ("well",)
        assert said(supervised) == "well"
