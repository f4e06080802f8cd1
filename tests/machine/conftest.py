"""Drivers that are not here, as small C libraries with the same functions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that compiles C into a shared library of the given name, in a folder of the test's own."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("there is no C compiler here")

    def build(name: str, source: str) -> Path:
        library = tmp_path / name
        subprocess.run(
            [compiler, "-x", "c", "-shared", "-fPIC", "-o", str(library), "-"],
            input=source.encode(),
            check=True,
            timeout=60,
        )
        return library

    return build
