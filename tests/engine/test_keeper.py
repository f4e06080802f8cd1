"""Whatever a program does and however we end: nothing of it is left, and its end is told as it was."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from quietmind.base.errors import EngineStartFailed
from quietmind.engine.child import Child
from quietmind.engine.program import Program

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, control groups and subreapers are Linux's")

# A tree of processes: the program, a child, and a grandchild that leaves its session and closes everything.
BROOD = "setsid sh -c 'setsid sleep 971 >/dev/null 2>&1 & sleep 972' & sleep 973 & echo ready; wait"

PARENT = """
import sys
from quietmind.engine.child import Child
from quietmind.engine.program import Program

child = Child.run(Program(("sh", "-c", sys.argv[1])), None)
print(child._process.pid, child._rooms["processes"], flush=True)
sys.stdin.read()
"""

# A user namespace that allows no further ones: what a locked-down system or a container looks like to us.
LOCKED = 'for each in user net pid mnt; do echo 0 > /proc/sys/user/max_${each}_namespaces; done; exec "$@"'


def run(*words: str, **more: object) -> Child:
    return Child.run(Program(words, **more), None)  # type: ignore[arg-type]


def eventually(condition: Callable[[], object], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def brood(of: int) -> list[psutil.Process]:
    return [each for each in psutil.Process(of).children(recursive=True) if each.name() == "sleep"]


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it went between the two questions
        return False


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if lives(each)]


@pytest.fixture
def family() -> Iterator[tuple[Child, list[psutil.Process]]]:
    child = run("sh", "-c", BROOD)
    assert eventually(lambda: len(brood(child._process.pid)) == 3)
    yield child, brood(child._process.pid)
    child.end()


# How it ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("exit 0", "with exit status 0"),
        ("exit 7", "with exit status 7"),
        *((f"kill -{name} $$", f"by SIG{name}") for name in ("ABRT", "SEGV", "KILL", "TERM", "INT", "PIPE")),
    ],
)
def test_the_end_of_the_program_is_handed_on_as_it_was(script: str, ending: str) -> None:
    child = run("sh", "-c", script)
    assert child.ending(5) == ending
    assert not child.out_of_memory()
    child.end()


def test_the_process_id_is_the_programs(family: tuple[Child, list[psutil.Process]]) -> None:
    child, _ = family
    assert psutil.Process(child.pid).cmdline()[0] == "sh"
    os.kill(child.pid, signal.SIGSEGV)
    assert child.ending(5) == "by SIGSEGV"


def test_ending_it_ends_everything_at_once(family: tuple[Child, list[psutil.Process]]) -> None:
    child, below = family
    os.kill(child.pid, signal.SIGSTOP)
    child.end()
    assert not alive(below)
    assert not psutil.pid_exists(child.pid)


@LINUX
@pytest.mark.parametrize("who", ["program", "keeper"])
def test_the_end_of_the_program_or_of_its_keeper_ends_all_that_it_started(
    family: tuple[Child, list[psutil.Process]], who: str
) -> None:
    child, below = family
    os.kill(child.pid if who == "program" else child._process.pid, signal.SIGKILL)
    assert child.ending(5) == "by SIGKILL"
    if not child._rooms["processes"] and who == "keeper":
        pytest.skip("without a namespace, what left its session outlives a keeper that is killed")
    assert eventually(lambda: not alive(below))


@LINUX
@pytest.mark.parametrize("stopped", ["nobody", "program", "keeper"])
@pytest.mark.parametrize("locked", [False, True], ids=["namespaces allowed", "namespaces refused"])
def test_killing_us_ends_everything(stopped: str, locked: bool) -> None:
    command = [sys.executable, "-c", PARENT, BROOD]
    if locked:
        if shutil.which("unshare") is None or subprocess.run(["unshare", "-Ur", "true"], check=False).returncode:
            pytest.skip("no user namespace to refuse namespaces in")
        command = ["unshare", "-Ur", "sh", "-c", LOCKED, "sh", *command]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as us:
        assert us.stdout is not None
        keeper, own_processes = us.stdout.readline().split()
        assert (own_processes == "False") == locked
        assert eventually(lambda: len(brood(int(keeper))) == 3)
        below = psutil.Process(int(keeper)).children(recursive=True)
        if stopped == "keeper":
            os.kill(int(keeper), signal.SIGSTOP)
        if stopped == "program":
            for each in below:
                each.suspend()
        us.kill()
        assert eventually(lambda: not alive(below), 2)
        assert eventually(lambda: not psutil.pid_exists(int(keeper)) or not alive([psutil.Process(int(keeper))]), 2)


def test_a_child_that_is_dropped_is_ended() -> None:
    pid = run("sleep", "974").pid
    assert eventually(lambda: not psutil.pid_exists(pid))


# What it is given ------------------------------------------------------------------------------------------


def test_it_gets_its_words_environment_and_standard_input_and_no_descriptor_of_ours() -> None:
    script = "cat; echo \"$QUIETMIND_TEST|$1|$2\"; ls /proc/self/fd 2>/dev/null | tr '\\n' ' '"
    child = run("sh", "-c", script, "sh", "two words", "$HOME", environment={"QUIETMIND_TEST": "ключ"}, stdin="a\nb\n")
    assert child.ending(5) == "with exit status 0"
    said = child.log_tail(9)
    assert said[:3] == ["a", "b", "ключ|two words|$HOME"]
    if sys.platform == "linux":
        assert said[3].split() == ["0", "1", "2", "3"]  # 3 is what ls reads with
    child.end()


def test_its_log_is_kept_with_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "engine.log"
    for word in ("first", "second"):
        child = Child.run(Program(("echo", word)), log)
        child.ending(5)
        child.end()
    assert log.read_text() == "second\n"
    assert log.with_name("engine.log.1").read_text() == "first\n"


def test_a_program_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(EngineStartFailed, match=r"nowhere/vllm: could not be started \(No such file"):
        run(str(tmp_path / "nowhere/vllm"), "serve")
    assert psutil.Process().num_fds() == before


def test_a_socket_is_passed_on_to_the_port_of_a_program_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello from inside")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
    path = tmp_path / "s.sock"
    child = run(*server, socket=path, port=port)

    def answer() -> bytes:
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))
            client.sendall(b"GET /hello.txt HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: client.recv(4096), b""))

    assert eventually(lambda: path.exists() and answer().endswith(b"hello from inside"), 10)
    if child.sealed:
        with socket.socket() as outside:
            assert outside.connect_ex(("127.0.0.1", port)) != 0
    child.end()


# Memory ----------------------------------------------------------------------------------------------------

GLUTTON = "hoard = []\nwhile True: hoard.append(b'x' * (1 << 20))"


@LINUX
def test_more_than_the_limit_is_told_apart_from_other_ends() -> None:
    child = run(sys.executable, "-c", GLUTTON, memory_limit=200 << 20)
    assert child.ending(20) in ("by SIGKILL", "with exit status 1")  # by the control group, or refused by RLIMIT_DATA
    assert child.memory_held in ("cgroup", "rlimit")
    if child.memory_held == "cgroup":
        assert child.out_of_memory()
    child.end()


@LINUX
def test_where_there_is_no_control_group_each_process_is_held_to_its_own_memory() -> None:
    script = f"from quietmind.engine import memory_limit; memory_limit.hold_to(200 << 20)\n{GLUTTON}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stderr.strip().endswith("MemoryError")


@LINUX
def test_what_fits_in_the_limit_runs_and_a_kill_under_a_limit_is_no_lack_of_memory() -> None:
    child = run("sh", "-c", "sleep 0.1; kill -KILL $$", memory_limit=200 << 20)
    assert child.ending(5) == "by SIGKILL"
    assert not child.out_of_memory()
    child.end()


@pytest.mark.parametrize(
    "line",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.00 MiB on device 0: cudaMalloc failed: out of memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "alloc_tensor_range: failed to allocate CPU buffer of size 99999999",
        "ValueError: No available memory for the cache blocks.",
    ],
)
def test_the_log_tells_of_a_lack_of_memory(line: str) -> None:
    child = run("sh", "-c", 'echo "$1"; exit 1', "sh", line)
    assert child.ending(5) == "with exit status 1"
    assert child.out_of_memory()
    child.end()
