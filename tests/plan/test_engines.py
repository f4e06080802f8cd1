"""The engines by name: their words for a KV cache, the files they load, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.model.open import open_card
from quietmind.plan.engines import (
    ENGINES,
    Capabilities,
    default_kv_type,
    engine_kind,
    formats_of,
    kv_word,
    refuse_incapable,
)


@pytest.mark.parametrize(
    ("engine", "asked", "word"),
    [
        ("llama.cpp", "q8_0", "q8_0"),
        ("llama-server", "f16", "f16"),
        ("vllm", "f16", "auto"),
        ("vllm", "bf16", "auto"),
        ("vllm", "fp8", "fp8"),
        ("vllm", "fp8_e4m3", "fp8"),
        ("sglang", "fp8", "fp8_e4m3"),
        ("sglang", "auto", "auto"),
        ("transformers", "bf16", "auto"),
    ],
)
def test_the_same_cache_has_each_engines_own_word(engine: str, asked: str, word: str) -> None:
    assert kv_word(engine_kind(engine), asked) == word


@pytest.mark.parametrize(
    ("engine", "asked"),
    [("vllm", "q8_0"), ("sglang", "q4_0"), ("llama.cpp", "fp8"), ("transformers", "fp8"), ("vllm", "f32")],
)
def test_another_cache_is_refused_with_the_engines_that_have_it(engine: str, asked: str) -> None:
    with pytest.raises(UsageError, match=f"{engine} has no KV cache type '{asked}'") as refused:
        kv_word(engine_kind(engine), asked)
    able = [kind.key for kind in ENGINES.values() if asked in kind.kv_types]
    assert able
    assert all(key in str(refused.value) for key in able)


def test_files_are_known_by_what_was_read_or_by_their_types() -> None:
    card = open_card("Qwen3-0.6B", "BF16")
    assert formats_of(card) == {"gguf", "safetensors"}
    assert formats_of(open_card("Qwen3-0.6B", "Q4_K_M")) == {"gguf"}
    assert formats_of(open_card("Qwen3-0.6B", "FP8")) == {"safetensors"}
    assert formats_of(replace(card, exact=True, path=Path("m.gguf"))) == {"gguf"}
    assert formats_of(replace(card, exact=True, path=Path("model.safetensors.index.json"))) == {"safetensors"}


def test_what_an_engine_cannot_do_is_refused_with_those_that_can() -> None:
    kind = replace(ENGINES["vllm"], capabilities=Capabilities())
    refuse_incapable(kind, experts_override=False, yarn=False)
    with pytest.raises(UsageError, match=r"another number of experts.*llama-server"):
        refuse_incapable(kind, experts_override=True, yarn=False)
    with pytest.raises(UsageError, match=r"past the model's native context"):
        refuse_incapable(kind, experts_override=False, yarn=True)
    refuse_incapable(ENGINES["vllm"], experts_override=True, yarn=True)


def test_a_setting_for_llama_cpp_is_no_word_for_engines_that_choose() -> None:
    assert default_kv_type("llama.cpp", "q8_0") == "q8_0"
    assert default_kv_type("vllm", "q8_0") == "auto"
    with pytest.raises(UsageError, match="unknown engine"):
        default_kv_type("foo", "f16")
