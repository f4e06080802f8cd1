"""From a plan to a running engine, for every engine that a plan can name."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import (
    EngineError,
    EngineMissing,
    EngineStartFailed,
    EngineTooOld,
    ModelNotFound,
    UsageError,
)
from quietmind.engine.adapters import capabilities_of, prefill_patience, start_engine
from quietmind.engine.installed import Installed
from quietmind.engine.openai_http import Patience
from quietmind.engine.port import Finished, Message, Request
from quietmind.machine.load import load_machine
from quietmind.model.card import ModelCard
from quietmind.model.locate import locate
from quietmind.model.open import open_card
from quietmind.plan import Ask, Plan, plan
from quietmind.plan.engines import ENGINES
from quietmind.plan.interval import Interval
from quietmind.plan.speed import Speed

STUB = Path(__file__).with_name("stub_openai.py")
EIGHT = load_machine("8x-rtx-pro-6000")
PROGRAM_WORDS = {"vllm": 1, "sglang": 0}


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    folder = tmp_path / "Модель 30B"
    folder.mkdir()
    return replace(open_card("Qwen3-30B-A3B-2507", "BF16"), path=folder)


def planned(card: ModelCard, engine: str, **more: int) -> Plan:
    return plan(EIGHT, card, Ask(engine=engine, kv_type="auto", context=8192, **more))  # type: ignore[arg-type]


def stub(key: str, folder: Path, flags: frozenset[str] = frozenset()) -> Installed:
    script = folder / "stub"
    script.write_text(
        f"#!{sys.executable}\nimport runpy, sys\n"
        f"sys.argv = [sys.argv[0], {key!r}, *sys.argv[{1 + PROGRAM_WORDS[key]}:]]\n"
        f"runpy.run_path({str(STUB)!r}, run_name='__main__')\n"
    )
    script.chmod(0o755)
    return Installed(key, (str(script),), "0.33.0", flags)


@pytest.mark.parametrize("key", ["vllm", "sglang"])
def test_a_sharded_plan_becomes_an_engine_with_the_plans_context(key: str, card: ModelCard, tmp_path: Path) -> None:
    found = planned(card, key)
    with start_engine(found, card, logs=tmp_path / "logs", program=stub(key, tmp_path)) as engine:
        assert (engine.model, engine.context) == (card.name, found.context)
        assert engine.capabilities == ENGINES[key].capabilities
        items = list(engine.generate(Request(engine.render([Message("user", "hello")]), max_tokens=3)))
        assert isinstance(items[-1], Finished)
        assert (tmp_path / "logs" / f"{key}.log").exists()


@pytest.mark.parametrize("key", ["vllm", "sglang"])
def test_a_version_without_a_flag_of_the_plan_is_too_old(key: str, card: ModelCard, tmp_path: Path) -> None:
    found = planned(card, key)
    known = frozenset(each for each in found.flags if each.startswith("--"))
    lacking = max(known)
    with pytest.raises(EngineTooOld, match=f"0.33.0, has no {lacking}"):
        start_engine(found, card, program=stub(key, tmp_path, known - {lacking}))
    with pytest.raises(EngineTooOld):  # of our own
        start_engine(found, card, program=stub(key, tmp_path, known))


@pytest.mark.parametrize("key", ["vllm", "sglang", "transformers"])
def test_nothing_is_fetched_for_weights_that_are_not_here(key: str, card: ModelCard, tmp_path: Path) -> None:
    gone = replace(card, path=tmp_path / "gone")
    with pytest.raises(EngineStartFailed, match="no such folder of weights"):
        start_engine(planned(gone, key), gone, program=Installed(key, ("nothing",), "1", frozenset()))


def test_several_machines_are_not_started_from_here(card: ModelCard) -> None:
    with pytest.raises(UsageError, match="quietmind launch"):
        start_engine(planned(card, "vllm", nodes=2), card)


def test_an_address_is_not_started(card: ModelCard) -> None:
    with pytest.raises(UsageError, match="connect"):
        start_engine(replace(planned(card, "vllm"), engine_key="endpoint"), card)


@pytest.mark.parametrize("key", ["llama-server", "vllm", "sglang", "transformers"])
def test_an_engine_that_is_not_installed_is_said_with_what_installs_it(
    key: str, card: ModelCard, tmp_path: Path
) -> None:
    found = replace(planned(card, "vllm"), engine_key=key, flags=("-m", str(tmp_path)))
    with pytest.raises(EngineMissing, match="install") as caught:
        start_engine(found, card, program=tmp_path / "nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ENGINES)
def test_capabilities_are_never_more_than_the_engines_kind_says(key: str) -> None:
    kind = ENGINES[key].capabilities
    for installed in (None, Installed(key, (), "1", frozenset({"--help"})), Installed(key, (), "1", frozenset())):
        can = capabilities_of(key, installed)
        assert not [name for name in vars(can) if getattr(can, name) and not getattr(kind, name)]
    if key in {"vllm", "sglang"}:
        assert not capabilities_of(key, Installed(key, (), "1", frozenset({"--help"}))).experts_override


def test_a_slow_prefill_is_not_taken_for_a_hang(card: ModelCard) -> None:
    found = planned(card, "vllm")
    assert prefill_patience(replace(found, speed=None)) == Patience().prefill
    slow = replace(found, speed=Speed(0, Interval(0.5, 1.0, 2.0), None, ""))
    assert prefill_patience(slow) == 4 * found.context / 0.5


def test_the_small_model_runs_as_planned(tmp_path: Path) -> None:
    try:
        card = open_card(str(locate("tiny")))
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
    found = plan(load_machine("laptop-32"), card, Ask(context=512, threads=1))
    try:
        with start_engine(found, card, logs=tmp_path) as engine:
            assert engine.context == found.context
            assert engine.tokenize("a note")
    except EngineMissing as error:
        pytest.skip(str(error))


def test_a_plan_for_transformers_runs_where_it_is_installed(tmp_path: Path) -> None:
    python = os.environ.get("QUIETMIND_TRANSFORMERS_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch, transformers"], capture_output=True, check=False).returncode:
        pytest.skip("torch and transformers are not installed: pip install 'quietmind[transformers]'")
    subprocess.run([python, "-W", "ignore", "-c", _MAKE, str(tmp_path)], check=True, capture_output=True)
    card = open_card(str(tmp_path))
    machine = load_machine("laptop-32")
    found = plan(replace(machine, devices=machine.devices[:1]), card, Ask(engine="transformers", context=128))
    with start_engine(found, card, logs=tmp_path / "logs", program=Path(python)) as engine:
        assert engine.context == 128
        items = list(engine.generate(Request("abc", max_tokens=5)))
        assert isinstance(items[-1], Finished)


_MAKE = """
import sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config
words = {each: number for number, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = Tokenizer(models.BPE(words, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(sys.argv[1])
config = Qwen3Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, vocab_size=257, max_position_embeddings=256, eos_token_id=256)
AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(sys.argv[1])
"""


def test_every_error_of_a_start_is_one_of_ours(card: ModelCard, tmp_path: Path) -> None:
    for key in ("vllm", "sglang", "transformers"):
        broken = Installed(key, (str(tmp_path),), "1", frozenset())
        with pytest.raises(EngineError):
            start_engine(planned(card, key), card, program=broken)


def test_the_page_of_engines_agrees_with_the_list() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    names = next(row for row in rows if "snapshots" in row)[1:]
    able = {row[0].strip("`"): row[1:] for row in rows if len(row) == len(names) + 1 and row[0].startswith("`")}
    assert set(able) == set(ENGINES)
    for key, kind in ENGINES.items():
        assert able[key] == ["yes" if getattr(kind.capabilities, name) else "-" for name in names], key
        row = next(row for row in rows if row[:2] == [kind.title, f"`{key}`"])
        assert row[2].casefold() == (", ".join(sorted(kind.formats)) or "-")
        assert row[4] == (", ".join(kind.kv_types) or "-")
