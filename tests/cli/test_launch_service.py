"""``quietmind launch --as service``, run as a person runs it."""

from __future__ import annotations

import plistlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("home")
# The form of this system; the other one can be asked for by name.
UNIT = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> Path:
    """A home folder of the test's own, and what else the commands run with."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUIETMIND_MODELS", str(tiny.parent))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return tmp_path / "home"


@UNIT
def test_the_unit_runs_what_was_asked_for_with_whole_paths_and_no_secrets(
    quietmind: Quietmind, tiny: Path, tmp_path: Path
) -> None:
    printed = quietmind("launch", "tiny", "--as", "service", "--context", "2k", "--key-file", "my key")
    assert printed.returncode == 0, printed.stderr
    (command,) = re.findall(r"^ExecStart=(.*)$", printed.stdout, re.MULTILINE)
    assert command == (
        f'{sys.executable} -P -m quietmind up --context 2048 --key-file "{tmp_path / "my key"}"'
        f" --workspace {tmp_path / 'workspace'} -- tiny"
    )
    assert "hf_secret" not in printed.stdout
    assert f'Environment="QUIETMIND_MODELS={tiny.parent}"' in printed.stdout
    assert not (tmp_path / "my key").exists()


@UNIT
def test_it_is_written_where_the_system_looks_with_the_commands_and_never_over_another(
    quietmind: Quietmind, home: Path, tmp_path: Path
) -> None:
    asked = ("launch", "tiny", "--as", "service", "--write")
    written = quietmind(*asked)
    unit = home / ".config" / "systemd" / "user" / "quietmind.service"
    assert written.returncode == 0, written.stderr
    assert unit.read_text().startswith("# Keeps `quietmind up` running.")
    for command in ("enable quietmind", "start quietmind", "stop quietmind", "status quietmind", "enable-linger"):
        assert command in written.stdout
    assert (tmp_path / "workspace").stat().st_mode & 0o777 == 0o700
    refused = quietmind(*asked)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert quietmind(*asked, "--force").returncode == 0


def test_an_agent_of_launchd_can_be_asked_for_anywhere(quietmind: Quietmind) -> None:
    printed = quietmind("launch", "tiny", "--as", "launchd", "--port", "5000", "--allow-host", "notes.example.net")
    assert printed.returncode == 0, printed.stderr
    words = plistlib.loads(printed.stdout.encode())["ProgramArguments"]
    assert words[5:9] == ["--port", "5000", "--allow-host", "notes.example.net"]
    assert words[-2:] == ["--", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tiny", "--as", "service", "--machine", "laptop-32"), 2, "--machine"),
        (("tiny", "tiny", "--as", "service"), 2, "named twice"),
        (("no-such-model", "--as", "service"), 1, "quietmind pull"),
        (("tiny", "--as", "service", "--allow-origin", "notes"), 2, "no origin"),
        (("tiny", "--as", "service", "--tls-key", "k.pem"), 2, "--tls-cert"),
        (("tiny", "tiny", "--as", "shell"), 2, "--as service"),
        (("tiny", "--as", "shell", "--write"), 2, "--as service"),
        (("tiny", "--as", "shell", "--host", "10.0.0.1"), 2, "--as service"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    quietmind: Quietmind, arguments: tuple[str, ...], code: int, words: str
) -> None:
    refused = quietmind("launch", *arguments)
    assert refused.returncode == code, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert words in refused.stderr
