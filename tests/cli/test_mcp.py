"""``quietmind mcp`` as an assistant runs it: a real process, the SDK's own client, the small real model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from quietmind.workspace.workspace import Workspace

pytest.importorskip("mcp", reason="MCP takes more packages: pip install 'quietmind[mcp]'")

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

QUESTION = "How many litres does the tank hold?"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where a workspace with two short notes is, for processes."""
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "notes").mkdir()
    (folder / "notes" / "tank.md").write_text("# Tank\n\nThe tank holds 85 litres of water.\n", encoding="utf-8")
    (folder / "notes" / "pump.md").write_text("# Pump\n\nThe pump lifts it. See [[tank]].\n", encoding="utf-8")
    with Workspace(folder / "workspace", create=True) as workspace:
        workspace.index(folder / "notes")
    return os.environ | {
        "QUIETMIND_WORKSPACE": str(folder / "workspace"),
        "QUIETMIND_SETTINGS": str(folder / "settings.toml"),
        "PYTHONIOENCODING": "utf-8",
    }


def client_of(environment: dict[str, str], *options: str) -> Client:
    arguments = ["-m", "quietmind", "mcp", "--context", "1024", "--threads", "1", *options]
    return Client(stdio_client(StdioServerParameters(command=sys.executable, args=arguments, env=environment)))


def running(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 100))


@contextmanager
def process(environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``quietmind mcp``, whose client is the test itself; ended at the latest with the block."""
    command = [sys.executable, "-m", "quietmind", "mcp", "--context", "1024", "--threads", "1", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as started:  # type: ignore[call-overload]
        try:
            yield started
        finally:
            started.kill()


def say(to: subprocess.Popen[bytes], method: str, number: int | None = None, **params: Any) -> None:
    assert to.stdin is not None
    message = {"jsonrpc": "2.0", "method": method, "params": params} | ({"id": number} if number else {})
    to.stdin.write(json.dumps(message).encode() + b"\n")
    to.stdin.flush()


def hear(of: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert of.stdout is not None
    return dict(json.loads(of.stdout.readline()))


def greet(who: subprocess.Popen[bytes]) -> None:
    say(
        who,
        "initialize",
        1,
        protocolVersion="2025-06-18",
        capabilities={},
        clientInfo={"name": "test", "version": "1"},
    )
    assert hear(who)["result"]["serverInfo"]["name"] == "quietmind"
    say(who, "notifications/initialized")


def engines_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return list(psutil.Process(process.pid).children(recursive=True))


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_the_model_wakes_for_a_question_alone_and_sleeps_when_nobody_asks(
    environment: dict[str, str], tiny: Path
) -> None:
    async def run() -> None:
        told: list[str | None] = []

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            told.append(message)

        async with client_of(environment, "--idle", "1s") as client:

            async def state() -> str:
                return str((await client.call_tool("status", {})).structured_content["model_state"])

            found = await client.call_tool("search", {"query": "tank"})
            assert found.structured_content["passages"][0]["title"] == "Tank"
            assert await state() == "asleep"
            answer = await client.call_tool("ask", {"question": QUESTION}, progress_callback=progress)
            assert not answer.is_error, answer.content
            assert answer.structured_content["model"] == tiny.stem
            assert {"searching the notes", "waking the model"} <= set(told)
            assert await state() == "awake"
            deadline = time.monotonic() + 20
            while await state() != "asleep":
                assert time.monotonic() < deadline, "the model was not let go"
                await asyncio.sleep(0.1)

    running(run())


def test_it_ends_with_its_client_and_takes_the_model_with_it(environment: dict[str, str], tiny: Path) -> None:
    with process(environment) as started:
        greet(started)
        say(started, "tools/call", 2, name="ask", arguments={"question": QUESTION})
        until(lambda: engines_of(started))
        engines = engines_of(started)
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.close()  # as when the client is killed: nobody reads either
        started.stdout.close()
        assert started.wait(20) == 0
        assert started.stderr is not None
        assert b"Traceback" not in started.stderr.read()
        until(lambda: gone(engines))


def test_ctrl_c_ends_it_though_its_client_waits(environment: dict[str, str]) -> None:
    with process(environment) as started:
        greet(started)
        started.send_signal(signal.SIGINT)
        assert started.wait(20) == 0
        assert started.stdout is not None
        assert started.stdout.read() == b""


def test_neither_words_without_sense_nor_a_model_that_is_missing_ends_it(environment: dict[str, str]) -> None:
    with process(environment, "--model", "no-such-model") as started:
        assert started.stdin is not None
        greet(started)
        started.stdin.write(b"\xff\xfe\n{}\n[]\n" + b"[" * 100_000 + b"\n")
        say(started, "tools/call", 7, name="ask", arguments={"question": QUESTION})
        answers = [hear(started)]
        while answers[-1].get("id") != 7:
            answers.append(hear(started))
        assert answers[-1]["result"]["isError"]
        assert "no-such-model" in answers[-1]["result"]["content"][0]["text"]
        assert all("error" in each for each in answers[:-1])
        say(started, "tools/call", 8, name="search", arguments={"query": "tank"})
        assert not hear(started)["result"].get("isError")
        started.stdin.close()
        assert started.wait(20) == 0
        assert started.stderr is not None
        assert started.stderr.read() == b""  # what is asked is nobody's business


def test_a_person_who_starts_it_is_told_what_it_is_for(environment: dict[str, str]) -> None:
    client, terminal = os.openpty()
    command = [sys.executable, "-m", "quietmind", "mcp"]
    with subprocess.Popen(command, env=environment, stdin=terminal, stderr=subprocess.PIPE) as started:
        assert started.stderr is not None
        assert b"an assistant is to start this" in started.stderr.readline()
        started.terminate()
    os.close(client)
    os.close(terminal)


def test_the_inspector_uses_the_tools(environment: dict[str, str]) -> None:
    inspector = shutil.which("mcp-inspector")
    if inspector is None:
        pytest.skip("the inspector is not here: npm install -g @modelcontextprotocol/inspector")
    command = [inspector, "--cli", sys.executable, "-m", "quietmind", "mcp", "--method", "tools/call"]
    arguments = ["--tool-name", "search", "--tool-arg", "query=tank"]
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, encoding="utf-8", timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["structuredContent"]["passages"][0]["title"] == "Tank"
