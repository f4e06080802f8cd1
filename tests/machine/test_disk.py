"""The disk of the models, wherever they would lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quietmind.machine.disk import disk_of, existing


def test_of_a_folder_that_is_not_there_its_nearest_parent_counts(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert disk_of(tmp_path / "a" / "b").free_bytes


def test_a_folder_that_cannot_be_looked_at_is_passed_over(tmp_path: Path) -> None:
    assert existing(tmp_path / ("x" * 5000) / "models") == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="other systems keep a current folder from being removed")
def test_a_current_folder_that_is_gone_has_no_known_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert disk_of(Path("models")).free_bytes is None
