"""A supervised engine comes back after whatever can be mended, says so, and stops with a reason after the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quietmind.base.errors import (
    ContextOverflow,
    EngineCrashed,
    EngineError,
    EngineGivenUp,
    EngineHung,
    EngineMissing,
    EngineOutOfMemory,
    EngineRefused,
    EngineStartFailed,
)
from quietmind.engine.fake import Crash, FakeEngine, Hang, Refuse, Step
from quietmind.engine.port import Delta, Engine, Finished, Message, Request
from quietmind.engine.vitals import Vitals
from quietmind.workspace.supervise import GIVE_UP_AFTER, Attempt, Pause, Supervised, last_lines

QUICK = Pause(back_off=(0.0,), watch_every=0.01)
IDLE = Pause(back_off=(0.0,), watch_every=3600.0)  # nobody looks: what happens is what the request makes happen


@dataclass
class Scripted:
    """An attempt whose every start plays the next script, or raises the next error."""

    runs: Iterator[Sequence[Step] | EngineError]
    next_smaller: Attempt | None = None
    log: Path | None = None
    pages: bool = False
    weight_bytes: int = 0
    started: list[FakeEngine] = field(default_factory=list)
    least: float | None = None

    def start(self) -> Engine:
        run = next(self.runs)
        if isinstance(run, EngineError):
            raise run
        self.started.append(FakeEngine(run))
        return self.started[-1]

    def smaller(self, _error: EngineError) -> tuple[Attempt, str] | None:
        return None if self.next_smaller is None else (self.next_smaller, "a micro-batch of 256 in place of 512")

    def decode_at_least(self, _depth: int) -> float | None:
        return self.least


Told = list[str]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def supervise(told: Told) -> Iterator[Callable[..., Supervised]]:
    running: list[Supervised] = []

    def start(attempt: Attempt, pause: Pause = IDLE) -> Supervised:
        running.append(Supervised(attempt, told.append, pause))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def scripted(*runs: Sequence[Step] | EngineError) -> Scripted:
    return Scripted(iter(runs))


def ask(engine: Engine) -> str:
    events = list(engine.generate(Request("one two", max_tokens=32)))
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_a_request_that_showed_nothing_yet_is_asked_again_after_a_crash(
    supervise: Callable[..., Supervised], told: Told
) -> None:
    attempt = scripted([Crash()], ["the answer"])
    assert ask(supervise(attempt)) == "the answer"
    assert len(attempt.started) == 2
    assert len(told) == 1
    assert "SIGSEGV" in told[0]
    assert "started again" in told[0]


def test_a_hang_is_ended_and_the_engine_started_again(supervise: Callable[..., Supervised], told: Told) -> None:
    assert ask(supervise(scripted([Hang()], ["the answer"]))) == "the answer"
    assert "silent" in told[0]


def test_a_request_that_has_shown_words_raises_and_the_next_one_is_answered(
    supervise: Callable[..., Supervised],
) -> None:
    engine = supervise(scripted([Crash("one two three", after=2)], ["the answer"]))
    seen: list[Delta | Finished] = []
    with pytest.raises(EngineCrashed):
        seen.extend(engine.generate(Request("x", max_tokens=8)))
    assert seen == [Delta("one"), Delta(" two")]
    assert ask(engine) == "the answer"


def test_a_request_that_kills_the_engine_twice_raises(supervise: Callable[..., Supervised]) -> None:
    engine = supervise(scripted([Crash()], [Crash()], ["the answer to another question"]))
    with pytest.raises(EngineCrashed):
        ask(engine)
    assert ask(engine) == "the answer to another question"


def test_after_memory_ran_out_the_next_smaller_run_is_taken_and_said(
    supervise: Callable[..., Supervised], told: Told
) -> None:
    attempt = scripted([Crash(out_of_memory=True)])
    attempt.next_smaller = scripted(["the answer"])
    assert ask(supervise(attempt)) == "the answer"
    assert "memory ran out" in told[0]
    assert "a micro-batch of 256 in place of 512" in told[0]


def test_memory_that_ran_out_at_the_first_start_leads_to_a_smaller_run_too(
    supervise: Callable[..., Supervised], told: Told
) -> None:
    attempt = scripted(EngineOutOfMemory("model.gguf: 12 GiB could not be had"))
    attempt.next_smaller = scripted(["the answer"])
    assert ask(supervise(attempt)) == "the answer"
    assert len(told) == 1


def test_with_nothing_smaller_left_it_is_given_up(supervise: Callable[..., Supervised]) -> None:
    engine = supervise(scripted([Crash(out_of_memory=True)]))
    for _ in range(2):
        with pytest.raises(EngineGivenUp, match="nothing smaller is left"):
            ask(engine)
    assert engine.state == "given up"


def test_what_is_wrong_at_the_first_start_is_raised_at_once(told: Told) -> None:
    attempt = scripted(EngineStartFailed("model.gguf: the file is damaged; fetch it again"))
    with pytest.raises(EngineStartFailed, match="damaged"):
        Supervised(attempt, told.append, IDLE)
    assert told == []


def test_after_three_failures_it_stops_with_the_last_lines_of_the_log(
    supervise: Callable[..., Supervised], tmp_path: Path, told: Told
) -> None:
    log = tmp_path / "engine.log"
    log.write_text("loading\n\nthe cause\n")
    failures = [EngineStartFailed("model.gguf: could not start") for _ in range(GIVE_UP_AFTER)]
    attempt = scripted([Crash()], *failures)
    attempt.log = log
    engine = supervise(attempt)
    with pytest.raises(EngineGivenUp, match=f"failed {GIVE_UP_AFTER} times in a row") as given_up:
        ask(engine)
    assert given_up.value.log == ("loading", "the cause")
    assert len(told) == GIVE_UP_AFTER + 2
    assert told[-2:] == ["  its log: loading", "  its log: the cause"]
    assert len(attempt.started) == 1


def test_an_engine_that_was_removed_while_it_ran_is_given_up_with_its_own_words(
    supervise: Callable[..., Supervised],
) -> None:
    engine = supervise(scripted([Crash()], EngineMissing("llama-server is not installed: install it")))
    with pytest.raises(EngineGivenUp, match="not installed"):
        ask(engine)


def test_failures_far_apart_are_not_in_a_row(supervise: Callable[..., Supervised]) -> None:
    forever = Pause(back_off=(0.0,), recovered_after=0.0, watch_every=3600.0)
    runs = [[Crash("a b", after=1)] for _ in range(2 * GIVE_UP_AFTER)]
    engine = supervise(scripted(*runs, ["the answer"]), forever)
    for _ in runs:
        with pytest.raises(EngineCrashed):
            ask(engine)
    assert ask(engine) == "the answer"


def test_what_an_engine_refuses_is_no_reason_to_start_it_again(
    supervise: Callable[..., Supervised], told: Told
) -> None:
    attempt = scripted([Refuse(), "the answer"])
    engine = supervise(attempt)
    with pytest.raises(ContextOverflow):
        list(engine.generate(Request("x", max_tokens=100_000)))
    with pytest.raises(EngineRefused):
        ask(engine)
    assert told == []
    assert len(attempt.started) == 1


def test_an_engine_that_ends_while_nobody_asks_is_back_before_somebody_does(
    supervise: Callable[..., Supervised], told: Told
) -> None:
    attempt = scripted([Crash("a b", after=1)], ["the answer"])
    engine = supervise(attempt, QUICK)
    crash = attempt.started[0].generate(Request("x", max_tokens=8))  # behind the supervisor's back
    next(crash)
    with pytest.raises(EngineCrashed):
        next(crash)
    until(lambda: len(attempt.started) == 2)
    assert ask(engine) == "the answer"
    assert "SIGSEGV" in told[0]


def test_two_threads_that_see_one_crash_start_one_engine(supervise: Callable[..., Supervised]) -> None:
    attempt = scripted([Crash()], ["the answer", "the answer"])
    engine = supervise(attempt)
    seen = engine.engine
    error = EngineCrashed("seen by two")
    threads = [threading.Thread(target=engine.broken, args=(seen, error)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attempt.started) == 2


def test_tokenize_and_render_survive_a_crash_too(supervise: Callable[..., Supervised]) -> None:
    engine = supervise(scripted([Crash("a b", after=1)], ["x"]))
    with pytest.raises(EngineCrashed):
        ask(engine)
    assert len(engine.tokenize("one two")) == 2
    assert "hello" in engine.render([Message("user", "hello")])


def test_after_stop_everything_is_refused_and_nothing_is_started(supervise: Callable[..., Supervised]) -> None:
    attempt = scripted(["never asked"], ["never started"])
    engine = supervise(attempt, QUICK)
    engine.stop()
    engine.stop()
    with pytest.raises(EngineRefused, match="stopped"):
        ask(engine)
    assert not engine.healthy()
    assert engine.state == "stopped"
    assert len(attempt.started) == 1
    assert not attempt.started[0].healthy()


def test_stopping_while_it_waits_to_start_again_ends_the_waiting(supervise: Callable[..., Supervised]) -> None:
    engine = supervise(scripted([Crash()], ["too late"]), Pause(back_off=(3600.0,), watch_every=3600.0))
    raised: list[EngineError] = []

    def wait_for_an_answer() -> None:
        try:
            ask(engine)
        except EngineError as error:
            raised.append(error)

    asking = threading.Thread(target=wait_for_an_answer)
    asking.start()
    until(lambda: engine.state == "starting")
    engine.stop()
    asking.join(10)
    assert not asking.is_alive()
    assert len(raised) == 1


def test_a_generation_that_is_closed_early_ends_in_the_engine(supervise: Callable[..., Supervised]) -> None:
    engine = supervise(scripted(["one two three", "the answer"]))
    events = engine.generate(Request("x", max_tokens=8))
    assert isinstance(events, Generator)
    next(events)
    events.close()
    assert ask(engine) == "the answer"


def test_speed_far_under_the_plan_is_said_once(supervise: Callable[..., Supervised], told: Told) -> None:
    long = " ".join(["word"] * 20)
    attempt = scripted([long, long])
    attempt.least = 1e6
    engine = supervise(attempt)
    ask(engine)
    ask(engine)
    assert len(told) == 1
    assert "the plan says at least" in told[0]


@pytest.mark.parametrize(("pages", "times", "lines"), [(False, 3, 1), (False, 1, 0), (True, 3, 0)])
def test_a_model_that_is_read_from_the_disk_again_and_again_is_said_once(
    supervise: Callable[..., Supervised],
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    pages: bool,
    times: int,
    lines: int,
) -> None:
    attempt = scripted(["never asked"])
    attempt.weight_bytes, attempt.pages = 1000, pages
    looked: list[Vitals] = []

    def reading(_processes: object) -> Vitals:
        looked.append(Vitals(0, 1000 * times))
        return looked[-1]

    monkeypatch.setattr("quietmind.workspace.paging.vitals", reading)
    engine = supervise(attempt, QUICK)
    until(lambda: len(looked) > 0 or pages)
    time.sleep(0.05)
    engine.stop()
    assert len(told) == lines
    assert all("3.0 times its weights" in line for line in told)


def test_the_last_lines_of_a_log_are_those_that_say_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(["early", *map(str, range(30)), "", "  ", "last  ", ""]))
    assert last_lines(log, 2) == ("29", "last")
    assert last_lines(tmp_path / "absent", 2) == ()
    assert last_lines(None, 2) == ()


def test_engine_hung_is_told_apart_from_a_crash(supervise: Callable[..., Supervised]) -> None:
    engine = supervise(scripted([Hang("a b", after=1)], ["x"]))
    with pytest.raises(EngineHung):
        ask(engine)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)
