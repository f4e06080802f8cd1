"""The settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.base.settings import load_settings


def test_a_file_that_does_not_exist_leaves_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "settings.toml").model == "tiny"


def test_what_the_file_says_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUIETMIND_WORKSPACE", raising=False)
    file = tmp_path / "settings.toml"
    file.write_text('model = "qwen3"\ncontext = 32768\nrerank = true\nworkspace = "~/notes-index"\n', encoding="utf-8")
    settings = load_settings(file)
    assert (settings.model, settings.context, settings.rerank) == ("qwen3", 32768, True)
    assert settings.workspace == Path.home() / "notes-index"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('workspace = "from-the-file"\n', encoding="utf-8")
    monkeypatch.setenv("QUIETMIND_WORKSPACE", str(tmp_path / "given"))
    assert load_settings(file).workspace == tmp_path / "given"
    monkeypatch.delenv("QUIETMIND_WORKSPACE")
    assert load_settings(file).workspace == Path("from-the-file")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('modle = "x"', "unknown setting 'modle'; known are"),
        ("model = 3", "model must be a text, not 3"),
        ("threads = true", "threads must be a whole number, not True"),
        ("rerank = 1", "rerank must be true or false, not 1"),
        ("context = 0", "context must be at least 1, not 0"),
        ("model = ", "not valid TOML"),
        (f"context = {'9' * 5000}", "not valid TOML"),
        (f"context = {'9' * 50}", "context must be at most 1,000,000,000,000"),
        (f"model = {'[' * 20_000}", "not valid TOML"),
        ('workspace = "~nobody-of-that-name/x"', "no home folder"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str) -> None:
    monkeypatch.delenv("QUIETMIND_WORKSPACE", raising=False)
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_settings(file)
    assert complaint in str(caught.value)
    assert "settings.toml" in str(caught.value) or "~nobody-of-that-name/x" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(file)
