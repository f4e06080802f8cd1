"""docs/claims.md: what it quotes is what its commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quietmind.cli.main import _run

CLAIMS = (Path(__file__).resolve().parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")

# Predicted speeds move with every constant that is fitted; bytes do not.
SPEED = re.compile(r"\(\d[\d,.]*-\d[\d,.]*\)|tokens/s")


def quotations() -> list[tuple[str, list[str]]]:
    """Return each command with the lines that are quoted of its output."""
    found: list[tuple[str, list[str]]] = []
    for line in CLAIMS.splitlines():
        if line.startswith("    $ quietmind "):
            found.append((line.removeprefix("    $ quietmind "), []))
        elif line.startswith("    ") and found:
            found[-1][1].append(line.removeprefix("    "))
    return found


@pytest.mark.parametrize(("command", "quoted"), quotations(), ids=[command for command, _ in quotations()])
def test_what_the_document_quotes_is_what_the_command_prints(
    command: str,
    quoted: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("QUIETMIND_SETTINGS", str(tmp_path / "settings.toml"))
    _run(command.split())
    said = capsys.readouterr()
    printed = {" ".join(line.split()) for line in (said.out + said.err).splitlines()}  # columns move with the speeds
    for line in quoted:
        if "..." not in line and not SPEED.search(line):
            assert " ".join(line.split()) in printed, (
                f"`quietmind {command}` no longer prints this; put its output into docs/claims.md"
            )


def test_every_claim_is_followed_by_a_command() -> None:
    sections = CLAIMS.split("\n## ")[1:]
    assert len(sections) >= 5
    assert all("    $ quietmind " in section for section in sections)
