"""Where things live, and what is said where no home folder is known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quietmind.base import paths
from quietmind.base.errors import UsageError


def test_a_home_that_is_not_known_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="~nobody-of-that-name/x: no home folder is known"):
        paths.expanded("~nobody-of-that-name/x")
    monkeypatch.setenv("QUIETMIND_WORKSPACE", "~nobody-of-that-name/x")
    with pytest.raises(UsageError, match="no home folder is known"):
        paths.default_workspace()


@pytest.mark.skipif(os.name != "posix", reason="user numbers are POSIX's")
def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name == "HOME" or name.startswith(("XDG_", "QUIETMIND_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_123)  # no user of this computer has that number
    for place in (paths.default_workspace, paths.models_folder, paths.measured_machines_file, paths.settings_file):
        with pytest.raises(UsageError, match=r"set \$HOME"):
            place()
    monkeypatch.setenv("QUIETMIND_MODELS", "/models")
    assert paths.models_folder() == Path("/models")
