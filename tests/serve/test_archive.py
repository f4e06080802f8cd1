"""The archive as a model: what it yields, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import LineFull, NothingIndexed, QuietmindError, UsageError
from quietmind.base.settings import Settings
from quietmind.engine.fake import FakeEngine, Slow, Step
from quietmind.engine.port import Message, Request
from quietmind.serve import archive as module
from quietmind.serve.archive import Archive, InLine, Question
from quietmind.serve.archive_names import archive_names
from quietmind.serve.lane import Lane
from quietmind.serve.turns import MOST_WAITING
from quietmind.think.answer import Answer, Found, Loading, Text
from quietmind.workspace.supervise import Attempt, Pause, Supervised
from quietmind.workspace.workspace import Workspace

ASKED = "How much water does the tank hold?"
SAID = "The tank holds 85 litres [1]."


class Starting:
    """An attempt that hands out scripted engines."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, says: Callable[[Request], Step]) -> None:
        self.says = says
        self.engines: list[FakeEngine] = []

    def start(self) -> FakeEngine:
        def said(request: Request) -> Step:
            return self.says(request)

        self.engines.append(FakeEngine(said))
        return self.engines[-1]

    def smaller(self, error: QuietmindError) -> tuple[Attempt, str] | None:
        return None

    def decode_at_least(self, depth: int) -> float | None:
        return None


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "tank.md").write_text("# Water tank\n\nThe tank of the bench holds 85 litres.\n")
    with Workspace(tmp_path / "workspace", create=True) as workspace:
        workspace.index(notes)
    return tmp_path / "workspace"


@pytest.fixture
def attempt() -> Starting:
    return Starting(lambda _: SAID)


@pytest.fixture
def archive(workspace: Path, attempt: Starting) -> Iterator[Archive]:
    with Supervised(attempt, pause=Pause(back_off=(0.01,), watch_every=0.02)) as supervised:
        yield Archive(workspace, Settings(workspace=workspace, embedder="none"), Lane("fake", supervised))


async def asked(archive: Archive, question: Question) -> list[Any]:
    async with aclosing(archive.ask(question)) as events:
        return [event async for event in events]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def held(archive: Archive) -> AsyncIterator[None]:
    """Within it somebody else has the turn."""
    with archive.lane.turns.join():
        yield


def test_a_question_is_answered_with_citations_that_hold(archive: Archive) -> None:
    events = asyncio.run(asked(archive, Question(ASKED)))
    assert [type(event) for event in events[:2]] == [Loading, Found]
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert answer.citations[0].verified
    assert answer.citations[0].supports
    assert "".join(event.text for event in events if isinstance(event, Text)) == answer.text


def test_who_waits_learns_each_place_and_that_the_turn_has_come(archive: Archive) -> None:
    async def scene() -> list[Any]:
        places: list[Any] = []

        async def wait() -> None:
            async with aclosing(archive.ask(Question(ASKED))) as events:
                async for event in events:
                    places.append(event)

        first = archive.lane.turns.join()
        async with held(archive):
            waiting = asyncio.ensure_future(wait())
            await until(lambda: InLine(2) in places)
            archive.lane.turns.leave(first)
            await until(lambda: InLine(1) in places)
        await waiting
        return places

    events = asyncio.run(scene())
    assert [event for event in events if isinstance(event, InLine)] == [InLine(2), InLine(1), InLine(0)]
    assert isinstance(events[0], Loading), "it searches before it waits"
    assert isinstance(events[-1], Answer)


@pytest.mark.parametrize("step", [Slow("never said", reading=60), Slow("word " * 900, between=0.05)])
def test_closing_it_ends_the_generation_and_then_the_turn(archive: Archive, attempt: Starting, step: Slow) -> None:
    attempt.says = lambda request: step if len(attempt.engines[-1].requests) == 1 else SAID

    async def scene() -> list[Any]:
        events = archive.ask(Question(ASKED))
        async for event in events:
            if isinstance(event, Found):
                break
        await until(lambda: attempt.engines[-1].requests)
        assert archive.lane.turns.answering == 1
        await events.aclose()
        await until(lambda: not archive.lane.turns.answering)
        return await asked(archive, Question(ASKED))

    assert isinstance(asyncio.run(scene())[-1], Answer)
    assert len(attempt.engines) == 1, "taken for a crash"


def test_who_leaves_the_line_frees_the_place_and_the_thread(archive: Archive) -> None:
    async def scene() -> None:
        async with held(archive):
            events = archive.ask(Question(ASKED))
            async for event in events:
                if event == InLine(1):
                    break
            await events.aclose()
            await until(lambda: not archive.lane.turns.waiting)
            assert archive.lane.turns.answering == 1
        assert isinstance((await asked(archive, Question(ASKED)))[-1], Answer)

    asyncio.run(scene())
    for thread in [thread for thread in threading.enumerate() if thread.name == "question"]:
        thread.join(10)
        assert not thread.is_alive()


def test_a_silence_is_broken_by_a_sign_of_life(
    archive: Archive, attempt: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIGN_OF_LIFE", 0.05)
    attempt.says = lambda _: Slow(SAID, reading=0.5)
    events = asyncio.run(asked(archive, Question(ASKED)))
    assert InLine(0) in events


def test_more_questions_than_the_line_holds_are_refused(archive: Archive) -> None:
    async def scene() -> int:
        async with held(archive):
            waiting = [asyncio.ensure_future(asked(archive, Question(ASKED))) for _ in range(MOST_WAITING)]
            await until(lambda: archive.lane.turns.waiting == MOST_WAITING)
            others = [asyncio.ensure_future(asked(archive, Question(ASKED))) for _ in range(2)]
            refused = await asyncio.gather(*others, return_exceptions=True)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await until(lambda: not archive.lane.turns.waiting)
        return sum(isinstance(error, LineFull) for error in refused)

    assert asyncio.run(scene()) == 2


def test_errors_of_the_thread_are_raised_to_whoever_asks(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no notebook"):
        asyncio.run(asked(archive, Question(ASKED, notebook="cellar")))
    with pytest.raises(UsageError, match="empty"):
        asyncio.run(asked(archive, Question("  ")))
    with pytest.raises(UsageError, match="200,000"):
        asyncio.run(asked(archive, Question("word " * 50_000)))
    bare = Archive(tmp_path / "nothing", archive.settings, archive.lane)
    with pytest.raises(NothingIndexed):
        asyncio.run(asked(bare, Question(ASKED)))
    assert asyncio.run(archive_names(bare)) == []
    assert archive.lane.turns.answering == 0


def test_earlier_turns_reach_the_search_and_the_model(archive: Archive, attempt: Starting) -> None:
    earlier = (Message("system", "Be brief."), Message("user", ASKED), Message("assistant", SAID))
    answer = asyncio.run(asked(archive, Question("and what is it made of?", earlier)))[-1]
    assert answer.found
    assert "Be brief." in attempt.engines[-1].requests[-1].prompt


def test_a_question_counts_until_its_thread_has_ended(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    searching, go_on = threading.Event(), threading.Event()

    def search(*_: Any) -> list[Any]:
        searching.set()
        go_on.wait(10)
        return []

    async def scene() -> None:
        monkeypatch.setattr(Workspace, "search", search)
        leaving = [asyncio.ensure_future(asked(archive, Question(ASKED))) for _ in range(MOST_WAITING + 1)]
        await until(searching.is_set)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        with pytest.raises(LineFull):
            await asked(archive, Question(ASKED))
        go_on.set()
        await until(lambda: not archive._asking)
        assert not (await asked(archive, Question(ASKED)))[-1].found

    asyncio.run(scene())


def test_few_questions_search_at_once_and_those_behind_them_can_leave(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, changing = threading.Event(), threading.Lock()
    begun, now, most = 0, 0, 0

    def search(*_: Any) -> list[Any]:
        nonlocal begun, now, most
        with changing:
            begun, now = begun + 1, now + 1
            most = max(most, now)
        go_on.wait(10)
        with changing:
            now -= 1
        return []

    async def scene() -> None:
        monkeypatch.setattr(Workspace, "search", search)
        asking = [asyncio.ensure_future(asked(archive, Question(ASKED))) for _ in range(12)]
        await until(lambda: now == module._CALLS)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        go_on.set()
        await until(lambda: not archive._asking)
        assert begun == module._CALLS, "nobody waits for what the others would have found"
        asking = [asyncio.ensure_future(asked(archive, Question(ASKED))) for _ in range(12)]
        assert not any(answers[-1].found for answers in await asyncio.gather(*asking))

    asyncio.run(scene())
    assert begun == module._CALLS + 12
    assert most == module._CALLS


def test_a_call_returns_and_raises_what_it_did_in_its_thread(archive: Archive) -> None:
    assert asyncio.run(archive.call(lambda workspace: workspace.count_passages())) == 1

    def fail(_workspace: Workspace) -> None:
        raise UsageError("not so")

    with pytest.raises(UsageError, match="not so"):
        asyncio.run(archive.call(fail))
