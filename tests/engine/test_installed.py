"""What is installed is found without importing it, and a flag that it lacks is named before anything starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from quietmind.base.errors import EngineMissing, EngineTooOld, UsageError
from quietmind.engine.installed import Installed, find, knows, require_flags

HELP = """----- common params -----

-h,    --help, --usage                  print usage and exit
-m,    --model FNAME                    model path to load; see --model-url
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
                                        --not-a-flag is only mentioned here
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading (default: enabled)
--host HOST                             ip address to listen on
"""


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body)
    path.chmod(0o755)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Path:
    version = "echo 'version: 4711 (abcdef0)' >&2"
    body = f"case $1 in --version) {version};; --help) cat <<'END'\n{HELP}END\n;; esac\n"
    return script(tmp_path / "bin" / "llama-server", f"#!/bin/sh\n{body}")


def package(root: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Make a Python package that fails when it is imported, and a Python that has it; return that Python."""
    site = root / "site"
    for file, text in {"__init__.py": "raise RuntimeError('imported')\n", **files}.items():
        (site / name / file).parent.mkdir(parents=True, exist_ok=True)
        (site / name / file).write_text(text)
    (site / f"{name}-{version}.dist-info").mkdir()
    (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    return script(root / "bin" / "python3", f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')


VLLM = {
    "engine/arg_utils.py": "def add(parser):\n    parser.add_argument('--tensor-parallel-size', '-tp', type=int)\n",
    "entrypoints/common/cli_args.py": "class FrontendArgs:\n    uds: str | None = None\n    log_stats: bool = 0\n",
}


def test_llama_servers_flags_are_those_of_its_help(server: Path) -> None:
    found = find("llama-server", server)
    assert found.version == "4711 (abcdef0)"
    assert found.program == (str(server),)
    assert found.flags == {
        *("-h", "--help", "--usage", "-m", "--model", "-c", "--ctx-size", "--host"),
        *("-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"),
    }


def test_the_environment_goes_before_the_settings_and_both_before_the_path(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = script(tmp_path / "other" / "llama-server", server.read_text())
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("QUIETMIND_LLAMA_SERVER", raising=False)
    assert find("llama-server").program == (str(other),)
    settings = tmp_path / "settings.toml"
    settings.write_text(f"llama_server = '{server}'\n")
    monkeypatch.setenv("QUIETMIND_SETTINGS", str(settings))
    assert find("llama-server").program == (str(server),)
    monkeypatch.setenv("QUIETMIND_LLAMA_SERVER", str(other))
    assert find("llama-server").program == (str(other),)


def test_a_program_that_is_no_llama_server_is_said(tmp_path: Path) -> None:
    no_server = script(
        tmp_path / "llama-server", "#!/bin/sh\necho 'libcuda.so.1: cannot open shared object file' >&2\nexit 127\n"
    )
    with pytest.raises(EngineMissing, match=r"llama-server: is no llama-server that runs here \(libcuda.*cannot open"):
        find("llama-server", no_server)
    with pytest.raises(EngineMissing, match="absent: is no program that can be run"):
        find("llama-server", tmp_path / "absent")


def test_vllms_flags_are_read_from_its_source_and_nothing_is_imported(tmp_path: Path) -> None:
    python = package(tmp_path, "vllm", "0.33.0", VLLM)
    program = script(tmp_path / "bin" / "vllm", f"#!{python}\n")
    found = find("vllm", program)
    assert (found.program, found.version) == ((str(program),), "0.33.0")
    assert {"--tensor-parallel-size", "-tp", "--uds", "--log-stats", "--no-log-stats"} <= found.flags


def test_sglang_is_run_by_the_python_that_has_it(tmp_path: Path) -> None:
    files = {
        "srt/server_args.py": "class ServerArgs:\n    tp_size: int = 1\n    mem_fraction_static: float | None = None\n"
    }
    python = package(tmp_path, "sglang", "0.5.23", files)
    found = find("sglang", python)
    assert found.program == (str(python), "-P", "-m", "sglang.launch_server")
    assert found.version == "0.5.23"
    assert {"--tp-size", "--mem-fraction-static"} <= found.flags


@pytest.mark.parametrize(("key", "line"), [("vllm", "pip install vllm"), ("llama-server", "QUIETMIND_LLAMA_SERVER")])
def test_what_is_not_installed_is_said_with_what_installs_it(
    key: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("QUIETMIND_LLAMA_SERVER", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(EngineMissing, match=line) as caught:
        find(key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["endpoint", "deepspeed"])
def test_what_is_never_installed_is_a_usage_error(key: str) -> None:
    with pytest.raises(UsageError):
        find(key)


OLD = Installed("vllm", ("vllm",), "0.5.0", frozenset({"--max-model-len", "-tp"}))


def test_a_flag_that_the_version_lacks_is_named_with_both_and_what_to_do() -> None:
    with pytest.raises(EngineTooOld, match=r"vLLM, version 0.5.0, has no --kv-offloading-size.*pip install -U vllm"):
        require_flags(OLD, ("--max-model-len", "1000", "--kv-offloading-size", "8"))


def test_values_are_no_flags() -> None:
    require_flags(OLD, ("model", "--max_model_len=1000", "-tp", "-1", '{"a": "--b"}', "/--weird/path"))


def test_an_engine_without_a_command_line_knows_every_flag() -> None:
    assert knows(Installed("transformers", ("python",), "5.0", frozenset()), "--anything")
