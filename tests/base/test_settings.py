"""The settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.base.settings import load_settings


def test_a_file_that_does_not_exist_leaves_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "settings.toml").model == "tiny"


def test_what_the_file_says_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('model = "qwen3"\ncontext = 32768\nworkspace = "~/notes-index"\n', encoding="utf-8")
    settings = load_settings(file)
    assert (settings.model, settings.context) == ("qwen3", 32768)
    assert settings.workspace == Path.home() / "notes-index"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('modle = "x"', "unknown setting 'modle'; known are"),
        ("model = 3", "model must be a str, not 3"),
        ("threads = true", "threads must be a int"),
        ("context = 0", "context must be at least 1, not 0"),
        ("model = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_settings(file)
    assert complaint in str(caught.value)
    assert "settings.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(file)
