"""What `quietmind up` is told of its address, and what it tells: the key once, a warning in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from quietmind.cli.main import cli
from quietmind.serve.entrance import Entrance
from quietmind.serve.up import Serving, Wanted

Up = Callable[..., tuple[Result, list[Wanted]]]
KEY = "the-key-that-was-made-just-now"


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Up:
    """Run the command with what keeps models running exchanged: it is ready at once, with the key of ``serving``."""

    def run(*words: str, terminal: bool = False, **serving: Any) -> tuple[Result, list[Wanted]]:
        asked: list[Wanted] = []

        def ready_at_once(wanted: Wanted, _tell: object, _planned: object, ready: Callable[[Serving], None]) -> None:
            asked.append(wanted)
            ready(Serving("http://127.0.0.1:4874", (), (), **serving))

        monkeypatch.setattr("quietmind.serve.up.up", ready_at_once)
        monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: terminal, raising=False)
        monkeypatch.setenv("QUIETMIND_SETTINGS", str(tmp_path / "none.toml"))
        return CliRunner().invoke(cli, ["up", "a-model", "--workspace", str(tmp_path), *words]), asked

    return run


def test_what_is_said_of_the_address_is_what_is_wanted(up: Up) -> None:
    words = ["--host", "10.0.0.5", "--port", "5", "--key-file", "k", "--allow-host", "a.example", "--allow-host", "b"]
    words += ["--allow-origin", "https://c.example", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    result, (wanted,) = up(*words, "--time-limit", "60")
    assert result.exit_code == 0, result.output
    assert wanted.entrance == Entrance(
        "10.0.0.5", 5, Path("k"), ("a.example", "b"), ("https://c.example",), Path("cert.pem"), Path("key.pem")
    )
    assert wanted.limits.answer == 60


def test_a_new_key_is_shown_once_and_on_a_terminal_alone(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "up.key"
    shown, _ = up(terminal=True, key_file=file, new_key=KEY)
    assert shown.stdout.count(KEY) == 1
    for kept in (
        up(terminal=False, key_file=file, new_key=KEY),
        up(terminal=True, key_file=file),
        up("--json", terminal=True, key_file=file, new_key=KEY),
    ):
        assert KEY not in kept[0].output
        assert str(file) in kept[0].output


def test_others_are_told_their_address_and_the_person_that_they_can_be_read(up: Up, tmp_path: Path) -> None:
    result, _ = up("--host", "10.0.0.5", outside_url="http://10.0.0.5:4874", key_file=tmp_path / "up.key")
    assert "for others at http://10.0.0.5:4874/v1" in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert "without TLS everybody on the network" in line
    assert "warning" not in up()[0].stderr
