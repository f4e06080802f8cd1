"""The person's own llama-server: a stand-in for what rarely happens, the real one where it is here."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from quietmind.base.errors import (
    EngineCrashed,
    EngineOutOfMemory,
    EngineRefused,
    EngineStartFailed,
    EngineTooOld,
    OutOfMemoryAtStart,
    UsageError,
)
from quietmind.engine import sealed
from quietmind.engine.installed import Installed, find
from quietmind.engine.llama_engine import LlamaEngine
from quietmind.engine.llama_server import LOG_NAME, LlamaServer
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Delta, Finished, Message, Request

FLAGS = frozenset({"-m", "--model", "-c", "--host", "--api-key-file", "--alias", "--slot-save-path", "--no-webui"})


def stand_in(folder: Path, body: str, flags: frozenset[str] = FLAGS) -> Installed:
    """Return a program that is taken for a llama-server with these flags."""
    program = folder / "llama-server"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return Installed("llama-server", (str(program),), "1234", flags)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "some model.gguf"
    path.write_bytes(b"GGUF")
    return path


# A stand-in --------------------------------------------------------------------------------------------------


def test_a_flag_that_it_lacks_is_named_before_anything_starts(tmp_path: Path, model: Path) -> None:
    installed = stand_in(tmp_path, f"touch '{tmp_path}/started'")
    with pytest.raises(EngineTooOld, match=r"version 1234, has no --n-cpu-moe.*newer llama.cpp"):
        LlamaServer.run(("-m", str(model), "--n-cpu-moe", "3"), program=installed)
    assert not (tmp_path / "started").exists()


def test_a_flag_that_nothing_depends_on_is_left_out_where_it_is_unknown(tmp_path: Path, model: Path) -> None:
    installed = stand_in(tmp_path, 'echo "$@"; exit 1')
    with pytest.raises(EngineStartFailed):
        LlamaServer.run(("-m", str(model), "-c", "512"), tmp_path / "logs", program=installed)
    words = (tmp_path / "logs" / LOG_NAME).read_text()
    assert "--no-webui" in words
    assert "--offline" not in words
    assert "--alias some model --host" in words


def test_the_key_is_in_a_file_of_ours_and_not_in_the_words(tmp_path: Path, model: Path) -> None:
    body = 'while [ "$1" != --api-key-file ]; do shift; done; stat -c %a "$2"; wc -c < "$2"; exit 1'
    with pytest.raises(EngineStartFailed):
        LlamaServer.run(("-m", str(model)), tmp_path, program=stand_in(tmp_path, body))
    assert (tmp_path / LOG_NAME).read_text().split() == ["600", "65"]


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ("echo 'what():  std::bad_alloc'; exit 1", OutOfMemoryAtStart, "more memory than there is"),
        ("echo loading; kill -9 $$", EngineStartFailed, r"\(ended by SIGKILL\); something else ended it"),
        (
            "echo '0.1 E alloc_buffer: on device 0: cudaMalloc failed: out of memory'; exit 1",
            OutOfMemoryAtStart,
            "cudaMalloc failed",
        ),
        ("echo '0.1 E invalid magic characters'; exit 1", EngineStartFailed, "fetch the model again"),
        ("echo bye; exit 3", EngineStartFailed, "exit status 3: bye"),
        ("kill -SEGV $$", EngineStartFailed, "by SIGSEGV"),
        ("sleep 60", EngineStartFailed, "not ready after 1 s"),
    ],
)
def test_a_failed_start_says_why(
    tmp_path: Path, model: Path, body: str, error: type[EngineStartFailed], said: str
) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(EngineStartFailed, match=said) as caught:
        LlamaServer.run(("-m", str(model)), program=stand_in(tmp_path, body), start_timeout_s=1)
    assert type(caught.value) is error
    assert isinstance(caught.value, EngineOutOfMemory) == (error is OutOfMemoryAtStart)
    assert {child.pid for child in psutil.Process().children()} <= before


def test_words_without_a_model_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give -m FILE"):
        LlamaServer.run(("-c", "512"), program=stand_in(tmp_path, ""))


# The real ones -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(options: LlamaCppOptions) -> tuple[str, ...]:
    return options.words


@pytest.fixture(scope="module", params=["in our child", "llama-server"])
def served(request: pytest.FixtureRequest, words: tuple[str, ...]) -> Iterator[LlamaEngine]:
    if request.param == "in our child":
        with LlamaCpp.run(words) as engine:
            yield engine
        return
    if not (os.environ.get("QUIETMIND_LLAMA_SERVER") or shutil.which("llama-server")):
        pytest.skip("no llama-server here: none on PATH, none named by $QUIETMIND_LLAMA_SERVER")
    with LlamaServer.run(words, silence_timeout_s=20) as server:
        yield server


def said(engine: LlamaEngine, request: Request) -> tuple[str, Finished]:
    *deltas, last = list(engine.generate(request))
    assert isinstance(last, Finished)
    return "".join(item.text for item in deltas if isinstance(item, Delta)), last


def test_it_answers(served: LlamaEngine) -> None:
    text, last = said(served, Request(served.render([Message("user", "Say hello.")]), 8))
    assert text
    assert last.timings.predicted == 8
    assert served.context == 512
    assert served.healthy()
    assert served.build.split()[0] in ("xllamacpp", "llama-server")


def test_what_is_saved_is_found_cached_after_a_restart(
    served: LlamaEngine, words: tuple[str, ...], tmp_path: Path
) -> None:
    request = Request(served.render([Message("user", "Tell me about the sea and its lighthouses.")]), 8)
    text, _ = said(served, request)
    file = tmp_path / "snapshot.bin"
    tokens = served.save(file)
    assert tokens >= len(served.tokenize(request.prompt))
    again = (
        LlamaCpp.run(words) if isinstance(served, LlamaCpp) else LlamaServer.run(words, program=find("llama-server"))
    )
    with again as engine:
        assert engine.restore(file) == tokens
        repeated, last = said(engine, request)
        assert repeated == text
        assert last.timings.prompt == 1
        (tmp_path / "no snapshot").write_bytes(b"nonsense")
        with pytest.raises(EngineRefused):
            engine.restore(tmp_path / "no snapshot")


def test_openais_http_is_spoken_at_its_endpoint(served: LlamaEngine) -> None:
    import httpx2

    end = served.endpoint
    transport = httpx2.HTTPTransport(uds=str(end.socket))
    with httpx2.Client(base_url=end.url, transport=transport, timeout=60) as client:
        body = {"model": end.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 401
        answer = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {end.key}"})
        assert answer.json()["choices"][0]["message"]["content"]


def test_its_key_is_nowhere_to_be_seen(served: LlamaEngine) -> None:
    process, key, place = psutil.Process(served.pid), served.endpoint.key, served.endpoint.socket
    assert len(key) == 64
    assert key not in " ".join((*process.cmdline(), *process.environ().values()))
    assert place is not None
    assert not [file for file in place.parent.rglob("*") if file.is_file()]


@pytest.mark.skipif(sealed.possible() is not None, reason=f"no network of its own here: {sealed.possible()}")
def test_it_is_sealed_and_a_connection_from_inside_it_fails(served: LlamaEngine) -> None:
    assert served.sealed
    assert Path(f"/proc/{served.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    inside = shutil.which("nsenter")
    if inside is None or os.geteuid() != 0:
        pytest.skip("entering its network takes nsenter and root")
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        command = [inside, "-t", str(served.pid), "-n", sys.executable, "-c", script]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ConnectionRefusedError" in ran.stderr


def test_a_death_is_told_and_leaves_no_socket(served: LlamaEngine, words: tuple[str, ...]) -> None:
    start = LlamaCpp.run if isinstance(served, LlamaCpp) else LlamaServer.run
    with start(words) as engine:
        place = engine.endpoint.socket
        assert place is not None
        psutil.Process(engine.pid).kill()
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            said(engine, Request("One", 4))
        assert not place.parent.exists()


def test_a_memory_limit_that_is_too_small_is_out_of_memory(options: LlamaCppOptions) -> None:
    with pytest.raises(EngineStartFailed) as caught:
        LlamaCpp.start(replace(options, context=1 << 16, memory_limit=600 << 20))  # 1.4 GiB of KV cache
    assert isinstance(caught.value, EngineOutOfMemory)
