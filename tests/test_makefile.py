"""What `make` does besides calling the tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="there is no make here")

# Stands for a Python without ensurepip: it leaves a virtual environment half made.
BROKEN_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p "$3/bin" && touch "$3/bin/python"
echo "ensurepip is not available" >&2
exit 1
"""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_virtual_environment_that_could_not_be_made_is_not_taken_for_one(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(BROKEN_PYTHON, encoding="utf-8")
    python.chmod(0o755)
    folder = tmp_path / "venv"
    for _ in range(2):
        done = make(f"PYTHON={python}", f"VENV={folder}", f"{folder}/bin/python")
        assert done.returncode != 0
        assert "ensurepip is not available" in done.stderr
        assert not folder.exists()


def test_the_demo_is_independent_of_the_persons_settings() -> None:
    lines = [line for line in make("--dry-run", "demo").stdout.splitlines() if "bin/quietmind " in line]
    assert len(lines) >= 5
    for line in lines:
        assert "QUIETMIND_WORKSPACE=.demo QUIETMIND_SETTINGS=.demo/none.toml " in line
