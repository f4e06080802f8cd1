"""Plans of engines that shard: what they choose, what each GPU holds, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.machine.load import load_machine
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan import Ask, Plan, plan, render, to_json
from quietmind.plan.ladder import next_rung

GIB = 1 << 30
EIGHT = load_machine("8x-rtx-pro-6000")
MILLION = 1 << 20


def gpus(count: int, memory: int, **more: object) -> Machine:
    cards = tuple(
        Device("cuda", "GPU", memory * GIB, memory * GIB, 2e12, 3e14, f"cuda{number}") for number in range(count)
    )
    host = Device("cpu", "CPU", 512 * GIB, 500 * GIB, 3e11)
    return replace(Machine("m", (host, *cards), (), Host("Linux", "CPU", 32, 64, 32)), **more)  # type: ignore[arg-type]


def planned(card: ModelCard, machine: Machine = EIGHT, **ask: object) -> Plan:
    settled: dict[str, object] = {"engine": "vllm", "kv_type": "auto", "context": 32_768} | ask
    return plan(machine, card, Ask(**settled))  # type: ignore[arg-type]


def test_the_ledger_of_each_gpu_is_the_same_and_adds_up() -> None:
    found = planned(open_card("Qwen3-235B-A22B", "FP8"), context=MILLION)
    assert found.split is not None
    each = [use for use in found.devices if use.device != "cpu"]
    assert len(each) == found.split.gpus == 8
    assert len({use.needed_bytes for use in each}) == 1
    for use in each:
        assert use.needed_bytes == found.ledger.total(use.device)


def test_a_million_tokens_of_the_235b_take_eight_gpus_and_an_eight_bit_cache() -> None:
    found = planned(open_card("Qwen3-235B-A22B-2507", "FP8"), context=MILLION)
    assert found.verdict == "fits"
    assert found.kv_type == "fp8"
    assert found.split is not None
    assert (found.split.tensor, found.split.experts, found.split.context) == (8, 8, 2)
    cache = next(row for row in found.ledger.rows if row.component == "KV cache")
    assert cache.bytes == 94 * (32_768 + 1) * 16 * 256  # half of the tokens, one head, keys and values of 128
    assert any("dual chunk attention" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("model", "quantization", "context"),
    [
        ("Qwen3-30B-A3B-2507", "BF16", 300_000),
        ("Qwen3-30B-A3B-2507", "FP8", MILLION),
        ("Qwen3-235B-A22B-2507", "GPTQ-INT4", 300_000),
        ("Qwen3-235B-A22B-2507", "AWQ-INT4", MILLION),
        ("Qwen3-Coder-480B-A35B", "FP8", 300_000),
        ("Qwen3-Coder-480B-A35B", "AWQ-INT4", MILLION),
    ],
)
@pytest.mark.parametrize("machine", ["8x-rtx-pro-6000", "8x-h100-80gb", "8x-a100-80gb"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_long_contexts_fit_on_eight_gpus(
    model: str, quantization: str, context: int, machine: str, engine: str
) -> None:
    found = planned(open_card(model, quantization), load_machine(machine), context=context, engine=engine)
    assert found.verdict == "fits"
    assert found.context == context
    assert found.speed is not None
    assert found.speed.decode is not None
    assert any("no run of" in line for line in found.speed.basis)


def test_what_does_not_fit_in_sixteen_bits_is_still_planned_and_says_so() -> None:
    found = planned(open_card("Qwen3-Coder-480B-A35B", "BF16"), load_machine("8x-a100-80gb"), context=300_000)
    assert found.verdict != "fits" or any("host's memory" in warning for warning in found.warnings)


def test_the_fewest_gpus_are_taken_unless_more_are_clearly_faster() -> None:
    small = planned(open_card("Qwen3-0.6B", "BF16"), context=2048)
    assert small.split is not None
    assert small.split.gpus == 1
    assert any("unused" in warning for warning in small.warnings)
    large = planned(open_card("Qwen3-235B-A22B", "BF16"))  # 438 GiB
    assert large.split is not None
    assert large.split.gpus == 8


def test_sixteen_bits_are_kept_where_eight_gain_little() -> None:
    assert planned(open_card("Qwen3-32B", "BF16"), context=4096).kv_type == "bf16"
    assert planned(open_card("Qwen3-32B", "BF16"), context=4096, kv_type="fp8").kv_type == "fp8"
    assert planned(open_card("Qwen3-32B", "BF16"), context=131_072, kv_type="bf16").kv_type == "bf16"


def test_sequences_without_room_wait_in_the_hosts_memory() -> None:
    card = open_card("Qwen3-32B", "AWQ-INT4")
    found = planned(card, gpus(1, 48), context=32_768, sequences=8, kv_type="bf16")
    assert found.sequences == 8
    offload = found.ledger.component("KV offload")
    one = 64 * 8 * 256 * 2 * 32_768  # layers, heads, keys and values, bytes, tokens
    on_gpu = found.ledger.component("KV cache") // one
    assert 1 <= on_gpu < 8
    assert (8 - on_gpu) * one <= offload < (8 - on_gpu) * one + 2 * GIB
    assert "--kv-offloading-size" in found.flags
    assert any("sequences with the context full" in warning for warning in found.warnings)


def test_weights_without_room_stay_in_the_hosts_memory_and_cost_speed() -> None:
    card = open_card("Qwen3-30B-A3B", "BF16")
    roomy, cramped = planned(card, gpus(1, 96)), planned(card, gpus(1, 48))
    assert "--cpu-offload-gb" not in roomy.flags
    assert "--cpu-offload-gb" in cramped.flags
    assert cramped.verdict == "fits"
    assert roomy.speed
    assert roomy.speed.decode
    assert cramped.speed
    assert cramped.speed.decode
    assert cramped.speed.decode.mid < roomy.speed.decode.mid


def test_experts_without_room_are_multiplied_with_on_the_host_by_sglang() -> None:
    card, machine = open_card("Qwen3-235B-A22B", "FP8"), load_machine("h100-80gb")
    found = planned(card, machine, engine="sglang", context=131_072)
    assert found.verdict == "fits"
    words = dict(zip(found.flags[::2], found.flags[1::2], strict=True))
    kept = int(words["--kt-num-gpu-experts"])
    assert 0 < kept < 128
    assert words["--kt-method"] == "FP8"
    assert words["--kt-cpuinfer"] == "112"
    experts = {row.device: row.bytes for row in found.ledger.rows if row.component.startswith("weights: experts")}
    assert experts["cuda0"] + experts["cpu"] == sum(t.bytes for t in card.tensors if "_exps" in t.name)
    assert experts["cuda0"] == pytest.approx((experts["cuda0"] + experts["cpu"]) * kept / 128, abs=128)
    read = {row.device: row.read_per_token for row in found.ledger.rows if row.component.startswith("weights: experts")}
    assert read["cuda0"] + read["cpu"] == pytest.approx((experts["cuda0"] + experts["cpu"]) / 16, rel=1e-3)
    assert float(words["--mem-fraction-static"]) < 0.95
    # Without the instructions it cannot.
    plain = replace(machine, host=replace(machine.host, instructions=("avx2",)))
    assert planned(card, plain, engine="sglang", context=131_072).verdict == "does not fit"


def test_a_model_far_too_large_is_planned_and_does_not_fit() -> None:
    found = planned(open_card("DeepSeek-V3", "FP8"), gpus(2, 24))
    assert found.verdict == "does not fit"
    assert found.speed is None


def test_nodes_multiply_the_gpus_and_the_traffic_is_named() -> None:
    found = planned(open_card("DeepSeek-V3", "FP8"), nodes=2, context=131_072)
    assert found.split is not None
    assert found.split.nodes == 2
    assert found.split.pipeline % 2 == 0
    assert found.verdict == "fits"
    assert any("not encrypted" in warning for warning in found.warnings)


def test_gpus_are_no_more_than_asked_and_than_there_are() -> None:
    found = planned(open_card("Qwen3-235B-A22B", "FP8"), gpus=4)
    assert found.split is not None
    assert found.split.gpus <= 4
    with pytest.raises(UsageError, match="has 8 equal GPUs, not 16"):
        planned(open_card("Qwen3-235B-A22B", "FP8"), gpus=16)


def test_a_machine_without_gpus_is_refused_in_one_line() -> None:
    for machine in ("laptop-32", "mac-studio-m2-ultra-192"):
        with pytest.raises(UsageError, match=r"has none; plan with --engine llama\.cpp"):
            planned(open_card("Qwen3-0.6B", "BF16"), load_machine(machine))


def test_different_gpus_are_not_mixed() -> None:
    machine = gpus(2, 24)
    other = Device("cuda", "Another", 96 * GIB, 96 * GIB, 2e12, 3e14, "cuda2")
    found = planned(open_card("Qwen3-4B", "BF16"), replace(machine, devices=(*machine.devices, other)))
    assert {use.device for use in found.devices} == {"cpu", "cuda2"}


def test_no_context_asked_is_the_largest_that_fits_up_to_the_usual() -> None:
    assert planned(open_card("Qwen3-4B", "BF16"), gpus(1, 24), context=None).context == 32_768
    tight = planned(open_card("Qwen3-8B", "BF16"), gpus(1, 22), context=None, kv_type="bf16")
    assert 1024 < tight.context < 32_768
    assert tight.verdict == "fits"
    longer = planned(open_card("Qwen3-8B", "BF16"), gpus(1, 22), context=tight.context + 512, kv_type="bf16")
    assert longer.verdict != "fits" or any("host's memory" in warning for warning in longer.warnings)


def test_more_experts_change_what_is_read_and_not_what_is_held() -> None:
    card = open_card("Qwen3-30B-A3B", "BF16")
    eight, sixteen = planned(card, gpus=1), planned(card, gpus=1, experts_used=16)
    held = [found.ledger.component("weights: experts") for found in (eight, sixteen)]
    read = [
        sum(row.read_per_token for row in found.ledger.rows if "experts" in row.component) for found in (eight, sixteen)
    ]
    assert held[0] == held[1]
    assert read[1] == pytest.approx(2 * read[0], rel=0.001)


def test_unknown_memory_is_never_enough_and_no_share_of_it_is_named() -> None:
    machine = gpus(2, 96)
    silent = tuple(replace(device, memory_bytes=None, free_bytes=None) for device in machine.accelerators)
    found = planned(open_card("Qwen3-4B", "BF16"), replace(machine, devices=(machine.cpu, *silent)))
    assert found.verdict == "tight"
    assert "--gpu-memory-utilization" not in found.flags
    assert any("could not be found out" in warning for warning in found.warnings)


def test_unknown_bandwidth_gives_no_speed_and_the_fewest_gpus() -> None:
    machine = gpus(4, 96)
    silent = replace(machine, devices=tuple(replace(device, bandwidth_bytes_per_s=None) for device in machine.devices))
    found = planned(open_card("Qwen3-32B", "BF16"), silent)
    assert found.speed is None
    assert found.split is not None
    assert found.split.gpus == 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"engine": "foo"}, "unknown engine 'foo'"),
        ({"engine": "endpoint"}, "nothing to plan"),
        ({"kv_type": "q8_0"}, r"vllm has no KV cache type 'q8_0' \(8 bits are fp8 there\)"),
        ({"kv_type": "q9"}, "'q9' is not a KV cache type"),
        ({"engine": "llama.cpp", "kv_type": "fp8"}, "only vllm has"),
        ({"engine": "llama.cpp", "kv_type": "f16", "nodes": 2}, "vllm and sglang do"),
        ({"cpu_experts": 4}, "cpu_experts go with --engine llama.cpp alone"),
        ({"nodes": 0}, "makes no sense"),
    ],
)
def test_what_an_engine_has_not_is_refused_in_one_line(ask: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        planned(open_card("Qwen3-0.6B", "BF16"), **ask)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_weights_of_a_gguf_are_refused_with_advice() -> None:
    for engine in ("vllm", "sglang", "transformers"):
        with pytest.raises(ModelNotUnderstood, match=r"folder of its safetensors, or of a known model --quant BF16"):
            planned(open_card("Qwen3-0.6B", "Q4_K_M"), engine=engine)


def test_llama_server_plans_as_llama_cpp_does() -> None:
    card = open_card("Qwen3-30B-A3B", "Q4_K_M")
    ours, theirs = (plan(EIGHT, card, Ask(context=8192, engine=engine)) for engine in ("llama.cpp", "llama-server"))
    assert theirs.engine_key == "llama-server"
    assert replace(theirs, engine=ours.engine, engine_key=ours.engine_key) == ours


def test_equal_gpus_are_shown_once_and_listed_in_json() -> None:
    found = planned(open_card("Qwen3-235B-A22B", "FP8"), context=MILLION)
    shown = render(found)
    assert "cuda*" in shown
    assert "on cuda0 to cuda7" in shown
    assert "flags: vllm serve Qwen3-235B-A22B-FP8 --max-model-len 1048576" in shown
    document = to_json(found)
    assert len(document["devices"]) == 9
    assert document["split"]["tensor"] == 8
    assert document["engine_key"] == "vllm"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_after_running_out_of_memory_a_sharded_plan_has_smaller_ones(engine: str) -> None:
    card, machine = open_card("Qwen3-32B", "BF16"), gpus(2, 48)
    ask = Ask(engine=engine, kv_type="bf16", context=32_768, gpus=2)
    found, changes = planned(card, machine, engine=engine, kv_type="bf16", gpus=2), list[str]()
    while (rung := next_rung(machine, card, ask, found, "accelerator")) and len(changes) < 20:
        ask, found = rung.ask, plan(machine, card, rung.ask)
        changes.append(rung.change)
    assert any(change.startswith("KV type fp8 in place of bf16") for change in changes)
    assert any(change.startswith("context") for change in changes)
    assert len(changes) < 20
