"""The model behind `quietmind mcp`: woken by a question, given back when it was borrowed, kept for a while when not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietmind.base.settings import Settings
from quietmind.engine.fake import FakeEngine
from quietmind.engine.port import Engine, Request
from quietmind.plan.ask import Ask
from quietmind.serve import archive
from quietmind.serve.archive import InLine, Question
from quietmind.think.answer import Answer
from quietmind.workspace.asked_model import AskedModel
from quietmind.workspace.choose import Desk
from quietmind.workspace.notebook import Source
from quietmind.workspace.workspace import Workspace

pytest.importorskip("mcp", reason="MCP takes more packages: pip install 'quietmind[mcp]'")

from mcp.client import Client

from quietmind.serve.mcp_server import server_of
from quietmind.serve.mcp_stdio import OwnNotes
from quietmind.serve.mcp_tools import TOOLS

TEXT = "The tank holds 85 litres of water. [1]"


class Here:
    """The notes of one test. ``before`` is done where a model is started; ``engines`` are those that were."""

    def __init__(self, folder: Path, *, borrowed: bool, idle: float) -> None:
        note = folder / "notes" / "tank.md"
        if not note.exists():
            note.parent.mkdir()
            note.write_text("# Tank\n\nThe tank holds 85 litres of water.\n", encoding="utf-8")
            with Workspace(folder / "workspace", create=True) as workspace:
                workspace.index(note.parent)
        self.engines: list[FakeEngine] = []
        self.says: Callable[[Request], str] = lambda _request: TEXT
        self.before: Callable[[Callable[[int], None]], None] = lambda _waiting: None
        self.desk: Callable[[Workspace, Engine], None] = lambda _workspace, _engine: None
        here = self

        class Scripted(AskedModel):
            @property
            def borrowed(self) -> bool:
                return borrowed

            def start(self) -> Engine:
                here.before(self.waiting)
                here.engines.append(FakeEngine(here.said))
                return here.engines[-1]

            def desk_in(self, archive: Workspace, engine: Engine) -> Desk:
                here.desk(archive, engine)
                return super().desk_in(archive, engine)

        chosen = Settings(workspace=folder / "workspace", embedder="none")

        def asked(workspace: Workspace, waiting: Callable[[int], None]) -> AskedModel:
            return Scripted("small", workspace, Ask(None, "f16"), chosen, print, waiting)

        self.notes = OwnNotes(folder / "workspace", chosen, "small", asked, print, idle)

    def said(self, request: Request) -> str:
        return self.says(request)

    async def answer(self, notebook: str | None = None) -> Answer:
        question = Question("How much water does the tank hold?", notebook=notebook)
        async with aclosing(self.notes.ask(question)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("there was no answer")


def running(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # running() has an end
        await asyncio.sleep(0.005)


def test_a_model_of_our_own_is_kept_for_a_while(tmp_path: Path) -> None:
    async def run() -> None:
        here = Here(tmp_path, borrowed=False, idle=0.3)
        assert here.notes.model() == ("small", "asleep")
        for _ in range(2):
            assert (await here.answer()).text == TEXT
        assert len(here.engines) == 1
        assert here.notes.model() == ("fake", "awake")
        await until(lambda: here.notes.model()[1] == "asleep")
        assert not here.engines[0].healthy()
        await here.answer()
        assert len(here.engines) == 2
        await here.notes.close()
        assert not here.engines[1].healthy()

    running(run())


def test_a_borrowed_model_is_given_back_after_the_last_of_those_who_ask(tmp_path: Path) -> None:
    async def run() -> None:
        here = Here(tmp_path, borrowed=True, idle=600)
        answers = await asyncio.gather(here.answer(), here.answer(), here.answer())
        assert {answer.text for answer in answers} == {TEXT}
        assert len(here.engines) == 1
        await until(lambda: not here.engines[0].healthy())
        assert here.notes.model()[1] == "asleep"
        await here.notes.close()

    running(run())


def test_a_borrowed_model_is_given_back_though_nobody_waited_for_it(tmp_path: Path) -> None:
    lent = threading.Event()

    async def run() -> None:
        here = Here(tmp_path, borrowed=True, idle=600)
        here.before = lambda _waiting: lent.wait(10)  # type: ignore[assignment]
        asked = asyncio.ensure_future(here.answer())
        await until(lambda: here.notes.model()[1] == "waking")
        asked.cancel()
        await asyncio.wait({asked})
        lent.set()
        await until(lambda: here.engines and not here.engines[0].healthy())
        await here.notes.close()

    running(run())


def test_who_waits_in_the_line_of_a_lender_is_told_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SIGN_OF_LIFE", 0.02)
    lent = threading.Event()

    def before(waiting: Callable[[int], None]) -> None:
        waiting(2)
        lent.wait(10)

    async def run() -> None:
        here = Here(tmp_path, borrowed=True, idle=600)
        here.before = before
        async with aclosing(here.notes.ask(Question("How much water does the tank hold?"))) as events:
            async for event in events:
                if event == InLine(2):
                    lent.set()
                if isinstance(event, Answer):
                    break
        assert lent.is_set()
        await here.notes.close()

    running(run())


def test_a_notebook_is_read_and_kept_by_a_model_that_just_woke(tmp_path: Path) -> None:
    async def run() -> None:
        here = Here(tmp_path, borrowed=False, idle=600)
        await here.notes.call(
            lambda workspace: workspace.notebooks.make("all", Source("path", str(tmp_path / "notes")))
        )
        desks: list[tuple[Workspace, Engine]] = []
        here.desk = lambda workspace, engine: desks.append((workspace, engine))
        assert (await here.answer(notebook="all")).text == TEXT
        ((workspace, engine),) = desks
        assert workspace.folder == tmp_path / "workspace"
        assert engine.model == "fake"  # and so the desk knows how it runs

    running(run())


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_call_that_is_cancelled_stops_the_model_and_no_other_call(tmp_path: Path, era: str) -> None:
    stopped = threading.Event()

    def silent(request: Request) -> str:
        assert request.cancel is not None
        if request.cancel.wait(10):
            stopped.set()
        return "Too late."

    async def run() -> None:
        here = Here(tmp_path, borrowed=False, idle=600)
        here.says = silent
        async with Client(server_of(here.notes, None, here.notes.model), mode=era) as client:
            asked = asyncio.ensure_future(client.call_tool("ask", {"question": "How much does the tank hold?"}))
            await until(lambda: here.engines and here.engines[0].requests)
            searched = asyncio.ensure_future(client.call_tool("search", {"query": "tank"}))
            asked.cancel()
            await until(stopped.is_set)
            assert not (await searched).is_error
            here.says = lambda _request: TEXT
            again = await client.call_tool("ask", {"question": "How much does the tank hold?"})
            assert again.structured_content["answer"] == TEXT
        await here.notes.close()

    running(run())


_KEYS = sorted({key for tool in TOOLS for key in tool.takes["properties"]})
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["tank", "30d", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(
    tool=st.sampled_from([tool.name for tool in TOOLS]),
    arguments=st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=4),
    right=st.booleans(),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_there_is_a_result_or_one_line_that_says_why(
    fuzzed: Path, tool: str, arguments: dict[str, Any], right: bool
) -> None:
    needed = {"query": "tank", "path": "tank.md", "question": "How much does the tank hold?"} if right else {}
    (takes,) = (each.takes["properties"] for each in TOOLS if each.name == tool)
    known = {key: value for key, value in arguments.items() if key in takes or not right}
    given_arguments = known | {key: value for key, value in needed.items() if key in takes}

    async def run() -> None:
        here = Here(fuzzed, borrowed=False, idle=600)
        async with Client(server_of(here.notes, None, here.notes.model)) as client:
            result = await client.call_tool(tool, given_arguments)
        (content,) = result.content
        assert content.type == "text"
        if result.is_error:
            assert "\n" not in content.text
            assert not content.text.startswith(f"{tool}: unexpected ")
        await here.notes.close()

    running(run())


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")
