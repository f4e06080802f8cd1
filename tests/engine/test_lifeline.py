"""However our process ends, the engine ends with it: the child is gone within two seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from quietmind.base.errors import EngineStartFailed
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Request

GONE_WITHIN_SECONDS = 2.0

PARENT = """
import sys
from pathlib import Path
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Request

path, then = sys.argv[1:]
engine = LlamaCpp.start(LlamaCppOptions(Path(path), context=2048, threads=1))
print(engine.pid, flush=True)
if then == "generate":
    for item in engine.generate(Request("Once upon a time", 2000, temperature=1.0)):
        print("x", flush=True)
elif then == "idle":
    sys.stdin.read()
elif then == "exit":
    sys.exit()
"""


@contextmanager
def parent(model: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PARENT, str(model), then]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def eventually(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    try:  # an orphan that nobody collects stays as a zombie, which holds nothing any more
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def loads_forever(tmp_path: Path) -> Path:
    """A named pipe that nobody writes to: the engine stays inside its loading code, with the interpreter's lock."""
    path = tmp_path / "slow.gguf"
    os.mkfifo(path)
    return path


def child_that_loads(of: int) -> int:
    """Wait until the process ``of`` has a child inside the extension's loading code, and return its process id."""

    def loads(process: psutil.Process) -> bool:
        # While open(2) waits for a writer, the pipe is no open file yet; the extension's library is.
        try:
            return any("xllamacpp" in region.path for region in process.memory_maps())
        except psutil.Error:  # processes come and go while the keeper tries what the kernel allows
            return False

    def loading() -> list[int]:
        return [child.pid for child in psutil.Process(of).children(recursive=True) if loads(child)]

    assert eventually(loading, 10)
    time.sleep(0.3)
    (pid,) = loading()
    return pid


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("then", ["idle", "generate"])
def test_killing_the_parent_ends_the_engine(model_path: Path, then: str, stopped: bool) -> None:
    with parent(model_path, then) as process:
        child = int(line(process))
        if then == "generate":
            assert line(process) == "x\n"
        if stopped:
            os.kill(child, signal.SIGSTOP)
        assert not gone(child)
        process.kill()
        assert eventually(lambda: gone(child), GONE_WITHIN_SECONDS)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killing_the_parent_ends_an_engine_that_still_loads(
    loads_forever: Path, end: signal.Signals, stopped: bool
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    with parent(loads_forever, "idle") as process:
        child = child_that_loads(process.pid)
        if stopped:
            os.kill(child, signal.SIGSTOP)
        assert not gone(child)
        process.send_signal(end)
        assert eventually(lambda: gone(child), GONE_WITHIN_SECONDS)


@pytest.mark.parametrize("then", ["generate", "idle"])
def test_an_interrupt_of_the_parent_ends_the_engine(model_path: Path, then: str) -> None:
    with parent(model_path, then) as process:
        child = int(line(process))
        process.send_signal(signal.SIGINT)
        assert eventually(lambda: gone(child), GONE_WITHIN_SECONDS)


def test_a_parent_that_exits_without_stopping_ends_the_engine(model_path: Path) -> None:
    with parent(model_path, "exit") as process:
        child = int(line(process))
        assert eventually(lambda: gone(child), GONE_WITHIN_SECONDS)
        assert process.wait(5) == 0


def test_a_start_that_takes_too_long_fails_and_leaves_nothing(loads_forever: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(EngineStartFailed, match="not ready after 1 s"):
        LlamaCpp.start(LlamaCppOptions(loads_forever, context=512, start_timeout_s=1))
    assert {child.pid for child in psutil.Process().children()} <= before


def test_an_engine_outlives_the_thread_that_started_it(options: LlamaCppOptions) -> None:
    started: list[LlamaCpp] = []
    thread = threading.Thread(target=lambda: started.append(LlamaCpp.start(options)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    with started[0] as engine:
        assert len(list(engine.generate(Request("One", 1)))) == 2


def test_a_forked_process_does_not_end_the_engine_it_inherited(options: LlamaCppOptions) -> None:
    with LlamaCpp.start(options) as engine:
        child = os.fork()
        if child == 0:
            try:
                engine.stop()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert engine.healthy()
