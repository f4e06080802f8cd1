"""The file of the key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.serve.key import Key, key_of


def test_a_key_is_made_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = key_of(file)
    assert len(key.text) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key.new
    assert key_of(file) == Key(key.text, new=False)
    assert key_of(tmp_path / "other").text != key.text


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "the key"
    key_of(file)
    file.chmod(mode)
    with pytest.raises(UsageError, match=r"chmod 600 '.*the key'"):
        key_of(file)


@pytest.mark.parametrize("content", [b"", b"short\n", b"with a space in the middle", "длинный-ключ-для-входа".encode()])
def test_a_file_without_a_proper_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UsageError, match="holds no key"):
        key_of(file)


def test_a_key_that_cannot_be_read_or_made_is_one_line(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none" / "key"):
        with pytest.raises(UsageError, match="name another --key-file"):
            key_of(place)
