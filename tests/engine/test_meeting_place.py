"""The folder of a socket is ours alone, and none stays behind, whatever ends its owner."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import EngineStartFailed
from quietmind.engine.meeting_place import MeetingPlace


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a socket's path is short, and those of pytest are not
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield Path(short)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_this_user_can_look_into_it_and_it_goes_away(runtime_folder: Path) -> None:
    place = MeetingPlace()
    assert place.folder.parent.parent == runtime_folder
    secret = place.secret("key", "abc\n")
    assert (mode(place.folder), mode(place.folder.parent), mode(secret)) == (0o700, 0o700, 0o600)
    assert len(os.fsencode(place.socket)) < 104
    place.forget()
    assert not secret.exists()
    place.close()
    place.close()
    assert not place.folder.exists()


def test_what_a_killed_process_left_goes_with_the_next_and_what_lives_stays() -> None:
    script = (
        "import os; from quietmind.engine.meeting_place import MeetingPlace; place = MeetingPlace();"
        "print(place.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    left = Path(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.strip()
    )
    assert left.is_dir()
    living = MeetingPlace()
    other = MeetingPlace()
    assert not left.exists()
    assert living.folder.is_dir()
    for place in (living, other):
        place.close()


def test_a_folder_that_others_may_enter_is_not_used(runtime_folder: Path) -> None:
    folder = runtime_folder / f"quietmind-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(EngineStartFailed, match="not this user's alone") as caught:
        MeetingPlace()
    assert "\n" not in str(caught.value)


def test_a_runtime_folder_with_a_long_path_is_passed_over(
    runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = runtime_folder / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    place = MeetingPlace()
    assert long not in place.folder.parents
    place.close()
