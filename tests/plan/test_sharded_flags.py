"""The words for vLLM, SGLang and our transformers child: each says what the plan says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.machine.load import load_machine
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan import Ask, Plan, plan

GIB = 1 << 30
EIGHT = load_machine("8x-rtx-pro-6000")
MILLION = 1 << 20


def options(words: tuple[str, ...]) -> dict[str, str]:
    """Return options by name; those without a value have "". No option may come twice."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            assert word not in found, word
            name, found[word] = word, ""
        else:
            assert not found.setdefault(name, "")
            found[name] = word
    return found


def planned(card: ModelCard, engine: str, machine: Machine = EIGHT, **ask: object) -> Plan:
    settled: dict[str, object] = {"engine": engine, "kv_type": "auto", "context": 32_768} | ask
    return plan(machine, card, Ask(**settled))  # type: ignore[arg-type]


def test_vllm_is_told_the_whole_plan() -> None:
    found = planned(open_card("Qwen3-235B-A22B-2507", "FP8"), "vllm", context=MILLION, experts_used=6)
    said = options(found.flags)
    assert found.flags[0] == "Qwen3-235B-A22B-2507-FP8"
    assert said["--max-model-len"] == "1048576"
    assert said["--tensor-parallel-size"] == "8"
    assert said["--decode-context-parallel-size"] == "2"
    assert said["--kv-cache-dtype"] == "fp8"
    assert said["--max-num-seqs"] == "1"
    assert said["--max-num-batched-tokens"] == "8192"
    assert {"--enable-expert-parallel", "--enable-prefix-caching", "--enable-chunked-prefill"} <= set(said)
    overrides = json.loads(said["--hf-overrides"])
    assert overrides["num_experts_per_tok"] == 6
    assert overrides["max_position_embeddings"] == MILLION
    assert overrides["rope_parameters"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 262_144,
        "rope_theta": 5_000_000.0,
    }


def test_the_share_of_memory_is_the_ledgers_with_its_estimates_at_their_highest() -> None:
    found = planned(open_card("Qwen3-235B-A22B", "FP8"), "vllm", context=131_072)
    share = float(options(found.flags)["--gpu-memory-utilization"])
    device = EIGHT.accelerators[0]
    assert device.memory_bytes is not None
    needed = found.ledger.total("cuda0")
    assert needed < share * device.memory_bytes < needed + 5 * GIB


def test_memory_that_others_hold_is_not_asked_for() -> None:
    busy = replace(
        EIGHT, devices=tuple(replace(each, free_bytes=(each.memory_bytes or 0) // 2) for each in EIGHT.devices)
    )
    said = options(planned(open_card("Qwen3-30B-A3B", "BF16"), "vllm", busy, gpus=2).flags)
    assert float(said["--gpu-memory-utilization"]) <= 0.5


def test_within_the_native_context_nothing_is_overridden() -> None:
    for engine in ("vllm", "sglang"):
        said = options(planned(open_card("Qwen3-30B-A3B", "BF16"), engine).flags)
        assert "--hf-overrides" not in said
        assert "--json-model-override-args" not in said


def test_sglang_is_told_the_whole_plan_in_its_own_words() -> None:
    found = planned(open_card("Qwen3-Coder-480B-A35B", "FP8"), "sglang", context=MILLION)
    said = options(found.flags)
    assert said["--model-path"] == "Qwen3-Coder-480B-A35B-FP8"
    assert said["--context-length"] == "1048576"
    assert (said["--tp-size"], said["--ep-size"]) == ("8", "8")
    assert said["--kv-cache-dtype"] == "fp8_e4m3"
    assert said["--max-running-requests"] == "1"
    assert said["--chunked-prefill-size"] == "8192"
    assert json.loads(said["--json-model-override-args"])["rope_parameters"]["factor"] == 4.0


def test_sglangs_share_leaves_room_for_what_it_does_not_count() -> None:
    found = planned(open_card("Qwen3-235B-A22B", "FP8"), "sglang", context=131_072)
    memory = EIGHT.accelerators[0].memory_bytes
    assert memory is not None
    static = float(options(found.flags)["--mem-fraction-static"]) * memory
    counted = sum(
        row.bytes for row in found.ledger.rows if row.device == "cuda0" and row.component.startswith(("weights", "KV"))
    )
    assert counted <= static < found.ledger.total("cuda0") + GIB


def test_several_nodes_are_named_to_both() -> None:
    card = open_card("DeepSeek-V3", "FP8")
    vllm = options(planned(card, "vllm", nodes=2).flags)
    assert vllm["--distributed-executor-backend"] == "ray"
    assert int(vllm["--pipeline-parallel-size"]) % 2 == 0
    sglang = options(planned(card, "sglang", nodes=2).flags)
    assert sglang["--nnodes"] == "2"
    assert "--pp-size" in sglang


def test_a_pool_of_windows_is_as_large_as_they_need() -> None:
    said = options(planned(open_card("gemma-3-27b", "BF16"), "sglang", context=131_072).flags)
    assert float(said["--swa-full-tokens-ratio"]) == pytest.approx((1024 + 2 * 8192) / 131_072, abs=0.01)


def test_a_checkpoint_is_named_by_its_folder() -> None:
    card = replace(open_card("Qwen3-0.6B", "BF16"), path=Path("/models/qwen/model.safetensors"), exact=True)
    assert planned(card, "vllm").flags[0] == "/models/qwen"
    assert options(planned(card, "sglang").flags)["--model-path"] == "/models/qwen"
    assert planned(card, "transformers").flags[0] == "model=/models/qwen"


def test_a_part_of_a_head_that_turns_is_kept_with_yarn() -> None:
    card = open_card("Qwen3-30B-A3B", "BF16")
    assert card.rope is not None
    half = replace(card, rope=replace(card.rope, dimensions=card.key_length // 2))
    said = options(planned(half, "vllm", context=131_072).flags)
    assert json.loads(said["--hf-overrides"])["rope_parameters"]["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize("model", ["gpt-oss-20b", "DeepSeek-V3", "gemma-3-12b", "Llama-3.1-8B"])
def test_a_scaling_of_the_models_own_is_not_overridden(model: str) -> None:
    card = open_card(model, "BF16")
    with pytest.raises(UsageError, match="an override would lose"):
        planned(card, "vllm", context=2 * card.native_context)
    assert planned(card, "vllm", context=8192).flags  # within the native context it runs as it is


def words_of(found: Plan) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in found.flags)}


def machine_with(memory: int, ram: int) -> Machine:
    gpu = Device("cuda", "GPU", memory * GIB, memory * GIB, 1e12, 1e14, "cuda0")
    return Machine("m", (Device("cpu", "CPU", ram * GIB, ram * GIB, 8e10), gpu), (), Host("Linux", "CPU", 8, 16, 8))


def test_transformers_gets_a_place_for_every_module() -> None:
    found = planned(open_card("Qwen3-8B", "BF16"), "transformers", machine_with(12, 64), context=4096, kv_type="f16")
    said = words_of(found)
    assert said["context"] == "4096"
    assert said["batch"] == "512"
    places = json.loads(said["device_map"])
    assert places["model.embed_tokens"] == places["lm_head"] == 0
    layers = [places[f"model.layers.{layer}"] for layer in range(36)]
    assert set(layers) == {0, "cpu"}
    assert layers == sorted(layers, key=str)  # whole stretches, the GPU's first
    assert json.loads(said["max_memory"]) == {"cpu": 64 * GIB, "0": 12 * GIB}
    assert found.placement is not None
    assert [home == "cuda0" for home in found.placement.dense] == [place == 0 for place in layers]


def test_transformers_alone_on_a_device_needs_no_map() -> None:
    card = open_card("Qwen3-0.6B", "BF16")
    assert words_of(planned(card, "transformers", load_machine("laptop-32")))["device_map"] == "cpu"
    assert words_of(planned(card, "transformers", machine_with(24, 64)))["device_map"] == '{"":0}'
    assert (
        words_of(planned(card, "transformers", load_machine("mac-studio-m2-ultra-192")))["device_map"] == '{"":"mps"}'
    )


def test_transformers_reaches_past_the_native_context_with_yarn() -> None:
    said = words_of(planned(open_card("Qwen3-8B", "BF16"), "transformers", context=131_072))
    assert json.loads(said["config"])["rope_parameters"]["factor"] == 4.0
