"""Plans: verdicts, chosen contexts, warnings, refusals, and how they are shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import DoesNotFit, ModelNotUnderstood, UsageError
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import LayerKind, ModelCard, Rope, Tensor
from quietmind.plan import Ask, DeviceUse, Row, plan, render, to_json
from quietmind.plan.compare import compare, render_comparison
from quietmind.plan.interval import Interval
from quietmind.plan.kv import KV_TYPES
from quietmind.plan.render import memory_bar
from quietmind.plan.yarn import Yarn, yarn_for

MakeCard = Callable[..., ModelCard]
MakeMachine = Callable[..., Machine]
GIB = 1 << 30


def mixture(card_of: MakeCard) -> ModelCard:
    """Return a mixture of 8 experts, 2 used."""
    experts = [Tensor(f"blk.{layer}.ffn_up_exps.weight", (1024, 512, 8), "q8_0", 4_456_448) for layer in range(4)]
    return card_of(
        arch="qwen3moe", experts=8, experts_used=2, expert_feed_forward=512, tensors=(*card_of().tensors, *experts)
    )


def test_the_ledger_holds_every_part_and_adds_up(card_of: MakeCard, machine_of: MakeMachine) -> None:
    card = card_of()
    found = plan(machine_of(), card, Ask(4096))
    components = [row.component for row in found.ledger.rows]
    assert components == [
        *("weights: embeddings", "weights: attention", "weights: feed-forward", "weights: norms"),
        *("KV cache", "compute buffer", "output buffer", "engine overhead"),
    ]
    assert found.ledger.component("weights") == card.weight_bytes
    assert found.devices[0].needed_bytes == found.ledger.total("cpu") == found.ledger.total()
    assert (found.context, found.micro_batch, found.threads, found.engine) == (4096, 512, 6, "llama.cpp")


@pytest.mark.parametrize(
    ("share_of_memory", "share_of_free", "verdict"),
    [(4.0, 2.0, "fits"), (4.0, 1.2, "fits"), (4.0, 1.05, "tight"), (4.0, 0.5, "tight"), (1.01, 0.1, "tight")],
)
def test_the_verdict_weighs_free_and_total_memory(
    card_of: MakeCard, machine_of: MakeMachine, share_of_memory: float, share_of_free: float, verdict: str
) -> None:
    needed = plan(machine_of(), card_of(), Ask(4096)).devices[0].needed_bytes
    machine = machine_of(memory=int(needed * share_of_memory), free=int(needed * share_of_free))
    assert plan(machine, card_of(), Ask(4096)).verdict == verdict


def test_tight_on_a_machine_that_is_not_here_says_nothing_of_now(card_of: MakeCard, machine_of: MakeMachine) -> None:
    needed = plan(machine_of(), card_of(), Ask(4096)).devices[0].needed_bytes
    here, elsewhere = (
        render(plan(machine_of(memory=int(needed * 1.05), free=free), card_of(), Ask(4096))) for free in (needed, None)
    )
    assert "what is free now" in here
    assert "verdict: tight: it fits into this machine, but leaves less than a tenth" in elsewhere


def test_what_does_not_fit_is_planned_all_the_same(card_of: MakeCard, machine_of: MakeMachine) -> None:
    found = plan(machine_of(memory=1 << 20, free=1 << 20), card_of(), Ask(4096))
    assert found.verdict == "does not fit"
    assert found.devices[0].needed_bytes > 1 << 20


def test_unknown_memory_is_no_yes(card_of: MakeCard, machine_of: MakeMachine) -> None:
    found = plan(machine_of(memory=None, free=None), card_of(), Ask(4096))
    assert found.verdict == "tight"
    assert any("could not be found out" in warning for warning in found.warnings)
    assert "unknown free" in render(found)
    assert plan(machine_of(free=None), card_of(), Ask(4096)).verdict == "fits"


def test_no_context_means_the_largest_sensible_that_fits(card_of: MakeCard, machine_of: MakeMachine) -> None:
    assert plan(machine_of(), card_of()).context == 32_768
    assert plan(machine_of(), card_of(native_context=8192)).context == 8192
    assert plan(machine_of(), card_of(native_context=100)).context == 256
    needed = plan(machine_of(), card_of(), Ask(10_240)).devices[0].needed_bytes
    small = plan(machine_of(free=int(needed / 0.9) + 1), card_of())
    assert (small.context, small.verdict) == (10_240, "fits")
    nothing = plan(machine_of(memory=1 << 20, free=1 << 20), card_of())
    assert (nothing.context, nothing.verdict) == (256, "does not fit")


def test_a_context_past_the_native_one_names_yarn(card_of: MakeCard, machine_of: MakeMachine) -> None:
    found = plan(machine_of(), card_of(), Ask(81_920))
    assert any("YaRN" in warning and "40,960" in warning and "2.50" in warning for warning in found.warnings)
    assert plan(machine_of(), card_of(), Ask(32_768)).warnings == ()


def test_an_idle_gpu_is_mentioned(card_of: MakeCard, machine_of: MakeMachine) -> None:
    found = plan(machine_of(gpus=(Device("cuda", "RTX", 1 << 20, 1 << 20, key="cuda0"),)), card_of(), Ask(256))
    assert any("RTX (cuda0) stays unused" in warning for warning in found.warnings)


def test_sliding_windows_have_their_own_row(card_of: MakeCard, machine_of: MakeMachine) -> None:
    kinds = (LayerKind.SLIDING, LayerKind.FULL) * 2
    found = plan(machine_of(), card_of(layer_kinds=kinds, sliding_window=1024), Ask(8192))
    rows = {row.component: row.formula for row in found.ledger.rows}
    assert "x 8,192 tokens" in rows["KV cache"]
    assert "x 1,536 tokens" in rows["KV cache, sliding window"]


def test_the_engine_lowers_batches_to_the_context_before_it_pads(card_of: MakeCard, machine_of: MakeMachine) -> None:
    found = plan(machine_of(), card_of(), Ask(300, micro_batch=512))
    assert (found.context, found.batch, found.micro_batch) == (512, 300, 300)
    assert plan(machine_of(), card_of(), Ask(4096, micro_batch=512, batch=128)).micro_batch == 128


@pytest.mark.parametrize(
    "ask",
    [
        Ask(context=0),
        Ask(context=-1),
        Ask(context=1 << 40),
        Ask(context=256, kv_type="q3_k"),
        Ask(micro_batch=0),
        Ask(batch=-5),
        Ask(threads=0),
        Ask(sequences=0),
        Ask(context=1 << 30, sequences=64),
        Ask(gpu_layers=-1),
        Ask(cpu_experts=-1),
        Ask(experts_used=2),  # of a model without experts
        Ask(kv_type="q8_0", flash_attention=False),
    ],
    ids=str,
)
def test_nonsense_is_a_usage_error_in_one_line(card_of: MakeCard, machine_of: MakeMachine, ask: Ask) -> None:
    with pytest.raises(UsageError) as refusal:
        plan(machine_of(), card_of(), ask)
    assert "\n" not in str(refusal.value)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300_000), st.sampled_from(KV_TYPES), st.integers(1, 4096), st.integers(1, 4096))
def test_every_sane_ask_gets_a_proved_plan(
    card_of: MakeCard, machine_of: MakeMachine, context: int, kv: str, micro_batch: int, batch: int
) -> None:
    found = plan(machine_of(), card_of(), Ask(context, kv, micro_batch, batch))
    assert found.context >= context
    assert found.ledger.total() == sum(row.bytes for row in found.ledger.rows) == found.devices[0].needed_bytes


def test_more_experts_than_there_are_is_a_usage_error(card_of: MakeCard, machine_of: MakeMachine) -> None:
    card = mixture(card_of)
    for used in (0, -1, 9):
        with pytest.raises(UsageError, match="of its 8 experts"):
            plan(machine_of(), card, Ask(256, experts_used=used))


def test_experts_used_change_what_is_read_not_what_is_stored(card_of: MakeCard, machine_of: MakeMachine) -> None:
    card = mixture(card_of)
    two, four = plan(machine_of(), card, Ask(4096)), plan(machine_of(), card, Ask(4096, experts_used=4))
    assert (two.experts_used, four.experts_used) == (2, 4)
    rows = [next(row for row in found.ledger.rows if row.component == "weights: experts") for found in (two, four)]
    assert rows[0].bytes == rows[1].bytes
    assert (rows[0].read_per_token, rows[1].read_per_token) == (rows[0].bytes // 4, rows[0].bytes // 2)
    assert two.ledger.component("KV cache") == four.ledger.component("KV cache")
    assert two.warnings == ()
    assert any("4 of 8 experts are used" in warning for warning in four.warnings)
    assert "--override-kv" not in two.flags
    assert "qwen3moe.expert_used_count=int:4" in four.flags


@pytest.mark.parametrize("recipe", ["GPTQ int4", "AWQ", "fp8", "FP8 blocks", "exl3"])
def test_weights_of_other_engines_are_refused_by_name(card_of: MakeCard, machine_of: MakeMachine, recipe: str) -> None:
    with pytest.raises(ModelNotUnderstood, match="vLLM") as refusal:
        plan(machine_of(), card_of(quantization=recipe), Ask(256))
    assert recipe.split(maxsplit=1)[0].upper() in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert plan(machine_of(), card_of(quantization="Q4_K_M"), Ask(256)).verdict == "fits"


def test_no_memory_at_all_is_one_line(card_of: MakeCard, machine_of: MakeMachine) -> None:
    with pytest.raises(DoesNotFit, match="close programs"):
        plan(machine_of(free=0), card_of(), Ask(256))


def test_yarn_is_relative_to_the_context_trained_on(card_of: MakeCard, machine_of: MakeMachine) -> None:
    assert yarn_for(card_of(native_context=40_960), 40_960) is None
    assert yarn_for(card_of(native_context=40_960), 131_072) == Yarn(4.0, 32_768)  # Qwen3: the file counts an answer in
    assert yarn_for(card_of(native_context=8192), 32_768) == Yarn(4.0, 8192)
    stated = card_of(native_context=163_840, rope=Rope(1e4, 64, "yarn", 40.0, 4096))
    assert yarn_for(stated, 163_840) is None
    assert yarn_for(stated, 327_680) == Yarn(80.0, 4096, known=40.0)


def test_speed_is_said_where_the_bandwidth_is_known(card_of: MakeCard, machine_of: MakeMachine) -> None:
    assert plan(machine_of(), card_of(), Ask(4096)).speed is None
    machine = machine_of()
    known = replace(machine, devices=(replace(machine.cpu, bandwidth_bytes_per_s=8e10, flops=1e12),))
    found = plan(known, card_of(), Ask(4096))
    assert found.speed is not None
    assert found.speed.depth == 4096
    assert f"prefill {found.speed.prefill} tokens/s, decode {found.speed.decode} tokens/s" in render(found)
    assert found.speed.decode is not None
    assert to_json(found)["speed"]["decode"]["mid"] == found.speed.decode.mid


@pytest.mark.parametrize(
    ("capacity", "free", "expected"),
    [
        (200, 200, "eeeewwkc............"),
        (200, 120, "eeeewwkc....########"),
        (100, 20, "eeeeeeeewwwwkkcc####"),
        (64, 64, "eeeeeeeeeewwwwwk!!!!"),
    ],
)
def test_a_bar_shows_each_part_at_its_share(capacity: int, free: int, expected: str) -> None:
    sizes = {"weights: experts": 40, "weights: norms": 20, "KV cache": 10, "compute buffer, weights in transit": 10}
    rows = [Row("cpu", component, size, "") for component, size in sizes.items()]
    use = DeviceUse("cpu", "CPU", capacity, free, sum(sizes.values()))
    assert memory_bar(use, [*rows, Row("cuda0", "KV cache", 99, "")], 20).split("[")[1].split("]")[0] == expected
    assert "memory unknown" in memory_bar(replace(use, capacity_bytes=None), rows)


def test_the_text_is_a_table_with_totals_and_a_verdict(card_of: MakeCard, machine_of: MakeMachine) -> None:
    text = render(plan(machine_of(), card_of(), Ask(81_920, "q8_0")))
    lines = text.splitlines()
    assert lines[0] == "Small (qwen3) on here, llama.cpp"
    assert "4 layers x 2 x 8 heads x 128 x 81,920 tokens x 1.0625 B (q8_0)" in text
    table = [line for line in lines if line.startswith("cpu ")]
    assert len({re.search(r"[BM]  ", line + "  ").end() for line in table if re.search(r"iB  ", line)}) == 1  # type: ignore[union-attr]
    assert re.search(
        r"^cpu +total +[\d.,]+ [MG]iB +[\d.,]+ [MG]iB  of 12.00 GiB free, 16.00 GiB in all$", text, re.MULTILINE
    )
    assert "verdict: fits" in lines
    assert lines[-1].startswith("warning: context 81,920")
    assert all(line == line.rstrip() for line in lines)


def test_the_json_has_the_promised_keys_and_the_same_sum(card_of: MakeCard, machine_of: MakeMachine) -> None:
    found = plan(machine_of(), card_of(), Ask(4096))
    read = json.loads(json.dumps(to_json(found)))
    assert {"model", "machine", "engine", "verdict", "context", "devices", "ledger", "warnings"} <= set(read)
    assert all(set(row) == {"device", "component", "bytes", "read_per_token", "formula"} for row in read["ledger"])
    assert sum(row["bytes"] for row in read["ledger"]) == read["devices"][0]["needed_bytes"]


def test_planning_imports_nothing_heavy_and_no_reader() -> None:
    banned = "torch,xllamacpp,psutil,huggingface_hub,numpy,quietmind.machine.probe,quietmind.model.gguf"
    script = f"import sys, quietmind.plan; print([m for m in {banned!r}.split(',') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_plan_that_does_not_fit_shows_no_speed(card_of: MakeCard, machine_of: MakeMachine) -> None:
    machine = machine_of(memory=1 << 20, free=1 << 20)
    known = replace(machine, devices=(replace(machine.cpu, bandwidth_bytes_per_s=8e10, flops=1e12),))
    found = plan(known, card_of(), Ask(4096))
    assert found.verdict == "does not fit"
    assert "speed: none, since it does not fit" in render(found)
    assert to_json(found)["speed"] is None
    assert " - " in render_comparison(compare(known, card_of(), Ask(4096))).splitlines()[5]


def test_the_quantization_and_the_native_context_stand_in_the_first_lines(
    card_of: MakeCard, machine_of: MakeMachine
) -> None:
    first, second, *_ = render(plan(machine_of(), card_of(quantization="Q4_K_M"), Ask(4096))).splitlines()
    assert first.startswith("Small Q4_K_M (qwen3) on ")
    assert second.startswith("context 4,096 (native 40,960), KV f16")
    named = plan(machine_of(), card_of(name="Small-q4_k_m", quantization="Q4_K_M"), Ask(4096))
    assert named.title == "Small-q4_k_m"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1092.4, "1,092"), (41.23, "41.2"), (9.0, "9.0"), (5.04, "5.0"), (0.5, "0.50"), (0.0951, "0.095")],
)
def test_every_speed_has_the_digits_of_its_size(value: float, shown: str) -> None:
    assert str(Interval(value, value, value)) == f"{shown} ({shown}-{shown})"
