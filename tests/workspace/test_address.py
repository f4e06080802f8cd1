"""A model at an address in the place of one that is started here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from quietmind.base.errors import EngineRefused, UsageError
from quietmind.workspace.address import KEY_VARIABLE, connect_to, is_address


def _load() -> Any:
    file = Path(__file__).resolve().parents[1] / "engine" / "stub_openai.py"
    spec = importlib.util.spec_from_file_location("stub_openai", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stub_openai = _load()


def test_addresses_are_told_from_models() -> None:
    assert is_address("http://127.0.0.1:11434#qwen3:30b")
    assert is_address("HTTPS://gpu.lan")
    assert not is_address("hf:Qwen/Qwen3-30B-A3B-GGUF/file.gguf")
    assert not is_address("tiny")


def test_the_model_is_named_behind_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_openai.Stub(("127.0.0.1", 0), key="secret") as stub:
        key = tmp_path / "key"
        key.write_text("secret")
        key.chmod(0o600)
        assert connect_to(f"{stub.url}/v1#stub", key=key).model == "stub"
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        assert connect_to(stub.url, key=KEY_VARIABLE, context=99).context == 99
        with pytest.raises(UsageError, match="does not serve other"):
            connect_to(f"{stub.url}#other", key=key)
        with pytest.raises(EngineRefused, match="key"):
            connect_to(stub.url)


def test_another_host_needs_consent_and_says_how_to_give_it() -> None:
    with pytest.raises(UsageError, match=r"--allow-remote gpu\.lan"):
        connect_to("https://gpu.lan#qwen3")
