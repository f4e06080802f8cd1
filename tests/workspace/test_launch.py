"""What cannot run as asked is changed in one place, and the person is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.base.errors import EngineMissing, ModelNotFound
from quietmind.engine.installed import Installed
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.locate import locate
from quietmind.plan.plan import Ask
from quietmind.workspace import launch
from quietmind.workspace.launch import Start, prepare


@pytest.fixture(scope="module")
def tiny() -> str:
    try:
        return str(locate("tiny"))
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> Installed:
        raise EngineMissing("no llama-server")

    monkeypatch.setattr(launch, "find", missing)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find", lambda key: Installed(key, ("llama-server",), "1", frozenset()))


def prepared(tiny: str, ask: Ask) -> tuple[Start, list[str]]:
    said: list[str] = []
    return prepare(tiny, ask, warn=said.append), said


@pytest.mark.usefixtures("no_server")
def test_a_context_past_the_native_one_gives_way_where_no_engine_can_reach_it(tiny: str) -> None:
    start, said = prepared(tiny, Ask(context=20_000))
    assert (start.plan.context, start.plan.engine_key) == (8192, "llama.cpp")
    assert "past the model's native 8,192" in said[0]


@pytest.mark.usefixtures("server")
def test_a_context_past_the_native_one_goes_to_the_persons_llama_server(tiny: str) -> None:
    start, said = prepared(tiny, Ask(context=20_000))
    assert (start.plan.context, start.plan.engine_key) == (20_224, "llama-server")
    assert said == [
        "your own llama-server runs the model: llama.cpp in our child cannot do a context of 20,000",
    ]
    assert "--rope-scale" in start.plan.flags


@pytest.mark.usefixtures("server")
def test_what_our_llama_cpp_can_do_stays_with_it(tiny: str) -> None:
    start, said = prepared(tiny, Ask(context=8192))
    assert start.plan.engine_key == "llama.cpp"
    assert not said


def test_more_threads_than_cores_are_said(tiny: str) -> None:
    start, said = prepared(tiny, Ask(context=512, threads=4000))
    assert start.plan.threads is not None
    assert start.plan.threads < 4000
    assert "4,000 threads are more than" in said[0]


def test_without_somebody_to_tell_it_is_planned_as_asked(tiny: str) -> None:
    start = prepare(tiny, Ask(context=20_000, batch=2048))
    assert start.plan.context == 20_224
    assert start.plan.engine_key == "llama.cpp"


def test_a_wheel_for_processors_alone_is_planned_without_the_accelerator(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Device("cpu", "a processor", memory_bytes=32 << 30, free_bytes=30 << 30)
    card = Device("cuda", "a card", memory_bytes=24 << 30, free_bytes=24 << 30, key="cuda0")
    machine = Machine("a computer", (here, card), (), Host("Linux", "a processor", physical_cores=8, logical_cores=8))
    monkeypatch.setattr(launch, "probe", lambda: machine)
    monkeypatch.setattr(launch, "wheel_sees_accelerators", lambda: False)
    start, said = prepared(tiny, Ask(context=512))
    assert not start.machine.accelerators
    assert start.plan.flags[start.plan.flags.index("-ngl") + 1] == "0"
    assert "a card is left out" in said[0]
    monkeypatch.setattr(launch, "wheel_sees_accelerators", lambda: True)
    assert prepared(tiny, Ask(context=512))[0].machine.accelerators


def test_the_plan_names_the_model_as_it_was_found(tiny: str) -> None:
    assert prepare(tiny, Ask(context=512)).plan.flags[:2] == ("-m", str(Path(tiny)))
