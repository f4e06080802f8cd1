"""The command line, run as a person runs it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.model.locate import locate

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def quietmind(tmp_path: Path) -> Quietmind:
    """Run ``quietmind`` with these arguments, in a workspace of the test's own."""
    environment = os.environ | {
        "QUIETMIND_WORKSPACE": str(tmp_path / "workspace"),
        "QUIETMIND_SETTINGS": str(tmp_path / "settings.toml"),
        "PYTHONIOENCODING": "utf-8",
    }

    def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "quietmind", *arguments],
            capture_output=True,
            encoding="utf-8",
            env=environment,
            cwd=cwd or tmp_path,
            timeout=240,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The small real model."""
    try:
        return locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
