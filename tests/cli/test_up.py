"""``quietmind up`` and ``down`` as a person runs them: real processes, the real engine, the small real model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from click.testing import CliRunner

from quietmind.cli.main import cli
from quietmind.serve.up import Wanted

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "archive"
Quietmind = Callable[..., subprocess.CompletedProcess[str]]

pytest.importorskip("uvicorn", reason="serving takes uvicorn: pip install 'quietmind[serve]'")
pytest.importorskip("xllamacpp", reason="the engine is not installed: pip install 'quietmind[llamacpp]'")


@contextmanager
def started(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``quietmind up`` in the workspace that the fixture ``quietmind`` uses; killed at the end at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "quietmind", "up", *arguments, "--context", "512", "--threads", "1", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"QUIETMIND_WORKSPACE": str(tmp_path / "workspace")},
        cwd=tmp_path,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found is not None, line or process.communicate()[1]
    return found[0]


def chat(url: str, **more: Any) -> httpx2.Response:
    body = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], **more}
    return httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


def refuses(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_model_is_served_until_it_is_ended(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, "tiny") as process:
        url = address(process)
        assert chat(url).json()["usage"]["completion_tokens"] == 4
        engines = psutil.Process(process.pid).children(recursive=True)
        assert engines
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert said.endswith("ended\n")
        assert "Traceback" not in said
        assert gone(engines)
        assert refuses(url)


def test_a_second_up_finds_the_first_and_down_ends_it(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    same = ("up", "tiny", "--context", "512", "--threads", "1")
    with started(tmp_path, "tiny") as process:
        url = address(process)
        engines = psutil.Process(process.pid).children(recursive=True)
        again = quietmind(*same)
        assert (again.returncode, again.stderr) == (0, "")
        assert url in again.stdout
        assert json.loads(quietmind(*same, "--json").stdout)["found"] is True
        assert quietmind("up", str(tiny), *same[2:]).returncode == 0  # by its path, the same
        for other in (
            ("up", "tiny", "--context", "1k"),
            (*same, "--port", "1024"),
            (*same, "--key-file", str(tmp_path / "key")),
        ):
            refused = quietmind(*other)
            assert refused.returncode == 1
            assert refused.stderr.count("\n") == 1
            assert "quietmind down" in refused.stderr
        ended = quietmind("down")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert gone(engines)
        assert process.wait(5) == 0
        assert refuses(url)
    assert quietmind("down").stdout == "nothing was running\n"


def test_a_killed_up_leaves_no_engine_no_port_and_no_record(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    with started(tmp_path, "tiny") as process:
        url = address(process)
        engines = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert gone(engines)
        assert refuses(url)
        assert quietmind("down").stdout == "nothing was running\n"
    with started(tmp_path, "tiny", "--json") as process:
        assert process.stdout is not None
        document = json.JSONDecoder().raw_decode(_document(process.stdout))[0]
        assert document["found"] is False
        assert document["models"][0]["bytes"]["cpu"] > 100 << 20
        assert chat(document["url"]).status_code == 200


def _document(lines: Any) -> str:
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            break
    return text


def test_it_can_be_ended_while_it_loads(tiny: Path, tmp_path: Path) -> None:
    with started(tmp_path, "tiny") as process:
        record = tmp_path / "workspace" / "up.json"
        while not (record.exists() and "127.0.0.1" in record.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.01)
        engines = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert process.returncode in (0, 130)
        assert "Traceback" not in said
        assert gone(engines)


def test_an_engine_that_is_killed_comes_back(tiny: Path, tmp_path: Path) -> None:
    with started(tmp_path, "tiny") as process:
        url = address(process)
        for engine in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it went with the one above it
                engine.kill()
        failed = chat(url)
        assert failed.status_code == 503
        assert "started again" in failed.json()["error"]["message"]
        deadline = time.monotonic() + 60
        while (answer := chat(url)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)


def test_clients_need_the_key_of_the_file(tiny: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    with started(tmp_path, "tiny", "--key-file", str(key)) as process:
        url = address(process)
        assert chat(url).status_code == 401
        right = {"Authorization": f"Bearer {key.read_text(encoding='ascii').strip()}"}
        assert httpx2.get(f"{url}/v1/models", headers=right, trust_env=False).status_code == 200


def test_a_question_beside_it_restores_notebooks_where_the_model_runs(
    quietmind: Quietmind, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "start.md").write_text("# Start\n\nThe pump starts at 40 degrees.\n", encoding="utf-8")
    assert quietmind("index", "notes").returncode == 0
    assert quietmind("notebook", "make", "pumps", "--from", "notes").returncode == 0
    question = ("ask", "At how many degrees does the pump start?", "--json", "--max-tokens", "12")
    key = tmp_path / "key"
    with started(tmp_path, "tiny", "--key-file", str(key)) as process:
        url = address(process)
        engines = psutil.Process(process.pid).children(recursive=True)
        read = answered(quietmind(*question, "--notebook", "pumps"))
        assert read["notebook"]["read_s"] > 0
        restored = answered(quietmind(*question))
        assert restored["notebook"]["restored_tokens"] == restored["notebook"]["tokens"] == read["notebook"]["tokens"]
        assert restored["timings"]["cached_tokens"] == restored["notebook"]["tokens"]
        assert restored["answer"] == read["answer"]
        shown = {"Authorization": f"Bearer {key.read_text(encoding='ascii').strip()}"}
        body = {"model": "archive:pumps", "messages": [{"role": "user", "content": question[1]}], "max_tokens": 12}
        served = httpx2.post(f"{url}/v1/chat/completions", json=body, headers=shown, timeout=60, trust_env=False).json()
        assert served["archive"]["notebook"]["restored_tokens"] == restored["notebook"]["tokens"]
        assert served["choices"][0]["message"]["content"].startswith(restored["answer"])
        assert psutil.Process(process.pid).children(recursive=True) == engines
        assert list((tmp_path / "workspace" / "lent").iterdir()) == []
        log = (tmp_path / "workspace" / "logs" / "llamacpp.log").exists()
        assert not log, "a second engine was started"
    alone = answered(quietmind(*question, "--context", "512", "--threads", "1"))  # the same run, started for itself
    assert alone["notebook"]["restored_tokens"] == restored["notebook"]["tokens"]
    assert alone["answer"] == restored["answer"]


def test_notebooks_are_read_and_checked_by_the_model_that_runs(
    quietmind: Quietmind, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    said = "".join(
        f"Pump {n} of house {n} was opened on a Monday by gardener {n} and closed again.\n" for n in range(5)
    )
    (tmp_path / "notes" / "start.md").write_text(f"# Start\n\n{said}", encoding="utf-8")
    assert quietmind("index", "notes").returncode == 0
    assert quietmind("notebook", "make", "pumps", "--from", "notes").returncode == 0
    with started(tmp_path, "tiny", "--key-file", str(tmp_path / "key")) as process:
        address(process)
        (read,) = answered(quietmind("read", "--level", "small", "--json"))["read"]
        assert (read["finished"], read["restored"], read["problem"]) == (True, 0, None)
        assert read["check_seconds"] > 0
        assert read["positions"] or read["finer"], "nothing was asked of what was packed"
        assert not (tmp_path / "workspace" / "logs" / "llamacpp.log").exists(), "a second engine was started"
        assert "nothing is due" in quietmind("read").stdout


def answered(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tiny", "--host", "192.0.2.7"], 2, "no address of this machine"),
        (["tiny", "--host", ""], 2, "no host name"),
        (["tiny", "tiny"], 2, "named twice"),
        (["tiny", "no-such-model"], 1, "quietmind pull"),
        (["tiny", "--engine", "steam"], 2, "llama-server"),
        (["tiny", "--key-file", "none/key"], 2, "name another --key-file"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    quietmind: Quietmind, tiny: Path, arguments: list[str], code: int, words: str
) -> None:
    refused = quietmind("up", *arguments)
    assert refused.returncode == code, refused.stderr
    assert words in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], "q8_0"), (["--engine", "vllm"], "auto"), (["--engine", "vllm", "--kv", "fp8"], "fp8")],
)
def test_the_kv_type_of_the_settings_is_for_the_engines_that_know_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], expected: str
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('kv = "q8_0"', encoding="utf-8")
    monkeypatch.setenv("QUIETMIND_SETTINGS", str(settings))
    monkeypatch.setenv("QUIETMIND_WORKSPACE", str(tmp_path / "workspace"))
    asked: list[Wanted] = []
    monkeypatch.setattr("quietmind.serve.up.up", lambda wanted, *_: asked.append(wanted))
    assert CliRunner().invoke(cli, ["up", "a-model", *words]).exit_code == 0
    assert [wanted.ask.kv_type for wanted in asked] == [expected]


def test_the_model_of_the_settings_runs_and_answers_from_the_notes_with_lines_that_hold(
    quietmind: Quietmind, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('model = "tiny"\npassages = 1\nembedder = "none"', encoding="utf-8")
    monkeypatch.setenv("QUIETMIND_SETTINGS", str(settings))
    assert quietmind("index", str(EXAMPLES)).returncode == 0
    with started(tmp_path) as process:
        url = address(process)
        question = "How long does a single watering session last at most?"
        answer = chat(url, model="archive", messages=[{"role": "user", "content": question}], max_tokens=24).json()
        first = answer["choices"][0]["message"]["citations"][0]
        lines = Path(first["path"]).read_text(encoding="utf-8").splitlines()
        assert first["quote"] in "\n".join(lines[first["first_line"] - 1 : first["last_line"]])
        assert first["verified"]
        where = f"{Path(first['path']).relative_to(EXAMPLES)}:{first['first_line']}-{first['last_line']}"
        assert where in answer["choices"][0]["message"]["content"]


def test_an_address_in_use_is_refused_with_its_user(quietmind: Quietmind, tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = quietmind("up", "tiny", "--context", "512", "--port", str(other.getsockname()[1]))
    assert refused.returncode == 1
    assert f"process {os.getpid()}" in refused.stderr
    assert "--port" in refused.stderr


def test_an_open_key_file_is_refused_with_the_command(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a" * 32, encoding="ascii")
    key.chmod(0o644)
    refused = quietmind("up", "tiny", "--key-file", str(key))
    assert refused.returncode == 2
    assert "chmod 600" in refused.stderr
