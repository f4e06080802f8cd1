"""Ordinary bad input ends in one line of ours, never in an "unexpected" error."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.base.errors import NothingIndexed, WorkspaceError
from quietmind.cli.options import AnyPath
from quietmind.workspace.workspace import Workspace

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Check that it failed in our words, and return the last line: usage errors show the usage before it."""
    assert done.returncode in (1, 2), done.stderr
    assert "unexpected" not in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def run(tmp_path: Path, *arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"QUIETMIND_SETTINGS": str(tmp_path / "none.toml"), "PYTHONIOENCODING": "utf-8"} | environment
    command = [sys.executable, "-m", "quietmind", *arguments]
    if shell:
        command = ["sh", "-c", f'{shell}; exec "$@"', "sh", *command]
    return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, encoding="utf-8", check=False)


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["search", "x", "--workspace", LONG], {}, "cannot be looked at"),
        (["index", "notes", "--workspace", LONG], {}, "cannot be made"),
        (["index", LONG], {}, "cannot be listed"),
        (["ask", "x", "--save", f"{LONG}/a.json"], {}, "no such folder to save"),
        (["plan", LONG], {}, "no such file"),
        (["machine", LONG], {}, "no machine of this name"),
        (["machine", f"{LONG}.toml"], {}, "cannot be read"),
        (["machine", "~nobody-of-that-name/x.toml"], {}, "no home folder is known"),
        (["plan", f"a/{LONG}.gguf"], {}, "cannot be looked at"),
        (["plan", "~nobody-of-that-name/x.gguf"], {}, "no home folder is known"),
        (["plan", "tiny", "--context", "9" * 400], {}, "is not a number of tokens"),
        (["search", "x"], {"QUIETMIND_WORKSPACE": "~nobody-of-that-name/x"}, "no home folder is known"),
        (["search", "x"], {"QUIETMIND_SETTINGS": "~nobody-of-that-name/x"}, "no home folder is known"),
        (["plan", "tiny"], {"QUIETMIND_MODELS": "~nobody-of-that-name/x"}, "no home folder is known"),
        (["pull", "tiny"], {"QUIETMIND_MODELS": "~nobody-of-that-name/x"}, "no home folder is known"),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("Text.\n", encoding="utf-8")
    assert words in told(run(tmp_path, *arguments, **environment))


@pytest.mark.skipif(os.name != "posix", reason="other systems keep a current folder from being removed")
@pytest.mark.parametrize(
    "arguments", [["search", "x"], ["index", "notes"], ["index", "."], ["index", ".", " --forget"]]
)
def test_a_current_folder_that_is_gone(tmp_path: Path, arguments: list[str]) -> None:
    leave = 'mkdir gone && cd gone && rmdir "$PWD"'
    given = [argument.strip() for argument in arguments]
    told(run(tmp_path, *given, shell=leave, QUIETMIND_WORKSPACE="workspace", PYTHONSAFEPATH="1"))
    told(run(tmp_path, *given, shell=leave, QUIETMIND_WORKSPACE=str(tmp_path / "workspace"), PYTHONSAFEPATH="1"))


def test_a_workspace_that_cannot_be_looked_at_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def refusing(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied")
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refusing)
    with pytest.raises(WorkspaceError, match=r"archive\.db: cannot be looked at \(Permission denied\)"):
        Workspace(tmp_path / "locked")
    with pytest.raises(NothingIndexed):
        Workspace(tmp_path / "open")


def test_a_folder_without_permission_is_left_to_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may read everything
    assert AnyPath().convert(str(tmp_path), None, None) == tmp_path  # scan() says in our words what is wrong


def test_a_folder_in_the_place_of_the_database_is_called_one(quietmind: Quietmind, tmp_path: Path) -> None:
    (tmp_path / "workspace" / "archive.db").mkdir(parents=True)
    assert "is a folder where a database should be" in told(quietmind("search", "x"))


def test_logs_of_a_workspace_that_may_only_be_read_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workspace(tmp_path / "workspace", create=True) as workspace:
        assert workspace.logs == tmp_path / "workspace" / "logs"
        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert tmp_path / "workspace" not in workspace.logs.parents
        assert workspace.logs.is_dir()
