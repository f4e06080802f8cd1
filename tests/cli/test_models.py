"""``quietmind models``: what can be planned by name, and what is here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def empty_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("QUIETMIND_MODELS", "HF_HUB_CACHE", "OLLAMA_MODELS", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


def test_the_catalogue_is_one_line_a_model(quietmind: Quietmind) -> None:
    said = quietmind("models")
    assert said.returncode == 0, said.stderr
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("Qwen3-30B-A3B ")]
    assert line.split() == [
        "Qwen3-30B-A3B",
        "30.5",
        "B",
        "3.4",
        "B",
        "48",
        "96.0",
        "KiB",
        "40,960",
        "Apache-2.0",
        "32,768",
        "documented",
    ]
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("Qwen3.5-35B-A3B ")]
    assert line.endswith("from class defaults of transformers 5.23.0")
    assert "no model files are here" in said.stdout


def test_programs_get_exact_numbers_and_the_files_that_are_here(quietmind: Quietmind, empty_computer: Path) -> None:
    models = empty_computer / "QUIETMIND_MODELS"
    models.mkdir()
    (models / "mine.gguf").write_bytes(b"GGUF")
    document = json.loads(quietmind("models", "--json").stdout)
    assert [model["name"] for model in document["here"]] == ["mine"]
    by_name = {model["name"]: model for model in document["catalogue"]}
    assert by_name["Qwen3-235B-A22B"]["parameters"] == 235_093_634_560
    assert (by_name["Qwen3-32B"]["native_context"], by_name["Qwen3-32B"]["documented_context"]) == (40_960, 32_768)
    assert by_name["Qwen3.5-35B-A3B"]["basis"] == "class defaults of transformers 5.23.0"
    # 2 x layers x KV heads x head length x 2 bytes; latent attention keeps one row of 576 elements a layer
    assert by_name["Qwen3-235B-A22B"]["kv_bytes_per_token"] == 2 * 94 * 4 * 128 * 2
    assert by_name["DeepSeek-V3"]["kv_bytes_per_token"] == 61 * 576 * 2
    assert by_name["Qwen3-Next-80B-A3B"]["layer_kinds"] == {"linear": 36, "full": 12}
