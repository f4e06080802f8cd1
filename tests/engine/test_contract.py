"""What holds for every engine: the fake is only worth something as far as it behaves like the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quietmind.base.errors import ContextOverflow, EngineRefused, UsageError
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Delta, Engine, Finished, Message, Request

HELLO = [Message("user", "Say hello to the neighbours and tell them about your day.")]


@pytest.fixture(params=["fake", "llamacpp"])
def any_engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine(lambda _: "one two three four five six seven eight nine ten", context=512)
    engine: Engine = request.getfixturevalue("engine")
    return engine


@pytest.fixture(params=["fake", "llamacpp"])
def start(request: pytest.FixtureRequest) -> Callable[[], Engine]:
    if request.param == "fake":
        return lambda: FakeEngine(lambda _: "one two three")
    from quietmind.engine.llamacpp import LlamaCpp

    options = request.getfixturevalue("options")
    return lambda: LlamaCpp.start(options)


def run(items: Iterator[Delta | Finished]) -> tuple[str, Finished]:
    *deltas, last = list(items)
    assert isinstance(last, Finished)
    texts = [delta.text for delta in deltas if isinstance(delta, Delta)]
    assert len(texts) == len(deltas), "Finished came before the end"
    return "".join(texts), last


def test_a_generation_is_deltas_and_then_one_finished(any_engine: Engine) -> None:
    text, finished = run(any_engine.generate(Request(any_engine.render(HELLO), max_tokens=4)))
    assert text
    assert finished.reason == "length"
    assert finished.timings.predicted == 4
    assert finished.timings.decode_per_second > 0


def test_the_same_request_gives_the_same_text_and_finds_its_prompt_cached(any_engine: Engine) -> None:
    request = Request(any_engine.render(HELLO), max_tokens=4)
    first, _ = run(any_engine.generate(request))
    second, finished = run(any_engine.generate(request))
    assert second == first
    assert finished.timings.cached > 0
    assert finished.timings.prompt == 1


def test_a_stop_string_ends_the_text_before_itself(any_engine: Engine) -> None:
    prompt = any_engine.render(HELLO)
    whole, _ = run(any_engine.generate(Request(prompt, max_tokens=6)))
    word = whole.split()[2]
    text, finished = run(any_engine.generate(Request(prompt, max_tokens=6, stop=(word,))))
    assert text == whole[: whole.index(word)]
    assert finished.reason == "stop"


def test_tokenize_is_of_the_text_alone(any_engine: Engine) -> None:
    assert any_engine.tokenize("") == []
    assert len(any_engine.tokenize("a note")) > len(any_engine.tokenize("a"))
    assert any_engine.tokenize("Заметка") == any_engine.tokenize("Заметка")


def test_the_rendered_prompt_holds_every_message(any_engine: Engine) -> None:
    prompt = any_engine.render([Message("system", "Be brief."), Message("user", "Почему?")])
    assert prompt.index("Be brief.") < prompt.index("Почему?")


def test_an_overflow_says_both_numbers(any_engine: Engine) -> None:
    with pytest.raises(ContextOverflow) as caught:
        next(any_engine.generate(Request("word " * 600, max_tokens=8)))
    assert caught.value.context == any_engine.context == 512
    assert 600 <= caught.value.needed - 8 <= 1200


def test_prompt_and_answer_together_must_fit(any_engine: Engine) -> None:
    prompt = "one two three"
    held = len(any_engine.tokenize(prompt))
    with pytest.raises(ContextOverflow) as caught:
        next(any_engine.generate(Request(prompt, max_tokens=512 - held + 1)))
    assert caught.value.needed == 513
    items = any_engine.generate(Request(prompt, max_tokens=512 - held))
    assert isinstance(next(items), Delta)
    items.close()


@pytest.mark.parametrize("request_", [Request("", 4), Request("text", 0), Request("text", -1)])
def test_an_empty_request_is_a_usage_error(any_engine: Engine, request_: Request) -> None:
    with pytest.raises(UsageError):
        next(any_engine.generate(request_))


def test_a_second_generation_in_one_thread_is_refused_until_the_first_is_closed(any_engine: Engine) -> None:
    request = Request(any_engine.render(HELLO), max_tokens=4)
    items = any_engine.generate(request)
    next(items)
    with pytest.raises(EngineRefused, match="still open"):
        next(any_engine.generate(request))
    items.close()
    assert run(any_engine.generate(request))[1].timings.predicted == 4


def test_another_thread_waits_for_its_turn(any_engine: Engine) -> None:
    request = Request(any_engine.render(HELLO), max_tokens=4)
    items = any_engine.generate(request)
    next(items)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(run(any_engine.generate(request))))
    thread.start()
    thread.join(0.2)
    assert not done
    text = run(items)[0]
    thread.join(10)
    assert done[0][0].endswith(text)


def test_stop_can_be_repeated_and_later_calls_are_refused(start: Callable[[], Engine]) -> None:
    engine = start()
    assert engine.healthy()
    engine.stop()
    engine.stop()
    assert not engine.healthy()
    for call in (
        lambda: engine.tokenize("text"),
        lambda: engine.render(HELLO),
        lambda: next(engine.generate(Request("text", 1))),
    ):
        with pytest.raises(EngineRefused, match="has been stopped"):
            call()
