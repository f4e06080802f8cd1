"""``quietmind launch``, run as a person runs it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.cli import launch as command
from quietmind.engine.launch_files import FORMS

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def test_every_form_can_be_asked_for() -> None:
    assert tuple(FORMS) == command._FORMS


def test_it_prints_what_it_would_write(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    printed = quietmind("launch", "tiny", "--as", "systemd", "--context", "2k")
    assert printed.returncode == 0, printed.stderr
    written = quietmind("launch", "tiny", "--as", "systemd", "--context", "2k", "--output", "here.service")
    assert written.stdout == "here.service\n"
    unit = (tmp_path / "here.service").read_text("utf-8")
    assert [line for line in unit.splitlines() if not line.startswith("#")] == [
        line for line in printed.stdout.splitlines() if not line.startswith("#")
    ]
    assert str(tiny) in unit
    assert "# written:  quietmind launch tiny --as systemd --context 2k --output here.service\n" in unit


def test_scripts_can_be_run_and_other_files_cannot(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    for form, mode in (("shell", 0o755), ("compose", 0o644)):
        assert quietmind("launch", "tiny", "--as", form, "--output", form).returncode == 0
        assert (tmp_path / form).stat().st_mode & 0o777 == mode


def test_a_file_that_is_there_stays_as_it_is(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.sh"
    there.write_text("mine")
    refused = quietmind("launch", "tiny", "--output", "there.sh")
    assert (refused.returncode, there.read_text()) == (2, "mine")
    assert refused.stderr == (
        "quietmind: there.sh: is there already; choose another file, or write over it with --force\n"
    )
    assert quietmind("launch", "tiny", "--output", "there.sh", "--force").returncode == 0
    assert there.read_text().startswith("#!/bin/sh\n")


def test_a_folder_that_is_not_there_is_one_line(quietmind: Quietmind, tiny: Path) -> None:
    refused = quietmind("launch", "tiny", "--output", "nowhere/x.sh")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "nowhere/x.sh: cannot be written" in refused.stderr


def test_what_does_not_fit_is_not_written(quietmind: Quietmind, tmp_path: Path) -> None:
    refused = quietmind("launch", "deepseek-v3", "--machine", "laptop-32", "--output", "x.sh")
    assert refused.returncode == 1
    assert "does not fit" in refused.stderr
    assert not (tmp_path / "x.sh").exists()


def test_weights_are_named_where_the_file_will_run(quietmind: Quietmind) -> None:
    asked = ("--machine", "rtx-pro-6000-128", "--context", "32k", "--weights", "/srv/my models/big.gguf")
    script = quietmind("launch", "qwen3-30b-a3b", *asked)
    assert script.returncode == 0, script.stderr
    assert "|| MODEL='/srv/my models/big.gguf'\n" in script.stdout
    assert '-m "$MODEL"' in script.stdout


@pytest.mark.parametrize("arguments", [("--as", "docker"), ("--engine", "ollama"), ("--port", "80")])
def test_what_is_not_known_is_one_line(quietmind: Quietmind, tiny: Path, arguments: tuple[str, ...]) -> None:
    refused = quietmind("launch", "tiny", *arguments)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_an_engine_that_is_not_here_is_named_with_what_installs_it(quietmind: Quietmind, tiny: Path) -> None:
    refused = quietmind("launch", "tiny", "--engine", "vllm")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "pip install vllm" in refused.stderr


def test_an_engine_that_lacks_an_option_is_too_old(quietmind: Quietmind, tiny: Path, tmp_path: Path) -> None:
    old = tmp_path / "llama-server"
    old.write_text("#!/bin/sh\nprintf '%s\\n' 'version: 1 (old)' '-m, --model FNAME' '--host HOST'\n")
    old.chmod(0o755)
    refused = quietmind("launch", "tiny", "--program", str(old), "--output", "x.sh")
    assert refused.returncode == 1
    assert re.search(r"version 1 \(old\), has no -c, which this plan needs", refused.stderr), refused.stderr
    assert not (tmp_path / "x.sh").exists()


def test_several_machines_get_a_script(quietmind: Quietmind) -> None:
    asked = ("--quant", "FP8", "--machine", "8x-rtx-pro-6000", "--context", "300k", "--engine", "vllm", "--nodes", "2")
    script = quietmind("launch", "qwen3-235b-a22b-2507", *asked, "--gpus", "8")
    assert script.returncode == 0, script.stderr
    assert "--distributed-executor-backend ray" in script.stdout
