"""Plans of transformers with Accelerate: which layers go where, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quietmind.base.errors import ModelNotUnderstood
from quietmind.machine.machine import Device, Disk, Host, Link, Machine
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan import Ask, Plan, plan
from quietmind.plan.placement import DISK

GIB = 1 << 30


def machine(gpus: Sequence[int], ram: int) -> Machine:
    cards = tuple(
        Device("cuda", "GPU", size * GIB, size * GIB, 1e12, 1e14, f"cuda{number}") for number, size in enumerate(gpus)
    )
    host = Device("cpu", "CPU", ram * GIB, ram * GIB, 8e10)
    links = tuple(Link("cpu", card.key, 25e9) for card in cards)
    return Machine("m", (host, *cards), links, Host("Linux", "CPU", 16, 32, 16), Disk("/", None, 5e9))


def planned(card: ModelCard, on: Machine, context: int | None = 4096, **ask: object) -> Plan:
    return plan(on, card, Ask(engine="transformers", context=context, kv_type="auto", **ask))  # type: ignore[arg-type]


def homes(found: Plan) -> tuple[str, ...]:
    assert found.placement is not None
    return found.placement.dense


def test_layers_fill_gpus_in_order_then_memory_then_the_disk() -> None:
    card = open_card("Qwen3-32B", "BF16")  # 61 GiB
    assert set(homes(planned(card, machine([96], 64)))) == {"cuda0"}
    assert set(homes(planned(card, machine([48, 48], 64)))) == {"cuda0", "cuda1"}
    assert set(homes(planned(card, machine([24], 96)))) == {"cuda0", "cpu"}
    found = planned(card, machine([24], 16))
    assert set(homes(found)) == {"cuda0", "cpu", DISK}
    order = ["cuda0", "cpu", DISK]
    assert list(homes(found)) == sorted(homes(found), key=order.index)
    assert found.verdict == "tight"


def test_every_weight_and_row_of_the_cache_is_counted_once() -> None:
    card = open_card("Qwen3-30B-A3B", "BF16")
    sixteen_bits = sum(tensor.bytes // 2 if tensor.type == "f32" else tensor.bytes for tensor in card.tensors)
    for on in (machine([96], 64), machine([24], 96), machine([], 96), machine([24], 16)):
        found = planned(card, on)
        assert found.ledger.component("weights") == sixteen_bits
        assert found.ledger.component("KV cache") == 48 * 4 * 256 * 2 * 4096


def test_layers_off_the_gpu_keep_their_cache_there_and_come_whole() -> None:
    found = planned(open_card("Qwen3-30B-A3B", "BF16"), machine([24], 96))
    assert found.placement is not None
    assert set(found.placement.kv) == {"cuda0"}
    away = next(row for row in found.ledger.rows if (row.device, row.component) == ("cpu", "weights: experts"))
    assert away.read_per_token == away.bytes
    here = next(row for row in found.ledger.rows if (row.device, row.component) == ("cuda0", "weights: experts"))
    assert here.read_per_token == pytest.approx(here.bytes / 16, rel=0.001)  # 8 of 128
    assert any("brought to cuda0 whole" in warning for warning in found.warnings)


def test_without_a_gpu_the_host_computes() -> None:
    found = planned(open_card("Qwen3-4B", "BF16"), machine([], 32))
    assert set(homes(found)) == {"cpu"}
    assert found.verdict == "fits"
    assert not [row for row in found.ledger.rows if "in transit" in row.component]


def test_more_on_the_gpu_is_faster() -> None:
    card = open_card("Qwen3-32B", "BF16")
    speeds = [planned(card, machine([size], 96)).speed for size in (24, 48, 96)]
    rates = [speed.decode.mid for speed in speeds if speed is not None and speed.decode is not None]
    assert len(rates) == 3
    assert rates == sorted(rates)
    assert rates[2] > 5 * rates[0]


def test_no_context_asked_sends_hardly_more_to_the_disk() -> None:
    assert planned(open_card("Qwen3-4B", "BF16"), machine([24], 64), context=None).context == 32_768


def test_quantized_weights_are_refused_by_name() -> None:
    with pytest.raises(ModelNotUnderstood, match="transformers is planned with 16-bit weights alone"):
        planned(open_card("Qwen3-32B", "FP8"), machine([96], 64))


def test_no_device_is_promised_more_than_its_share() -> None:
    for name in ("Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-8B"):
        for on in (machine([24, 24], 64), machine([48], 64), machine([16], 128)):
            for use in planned(open_card(name, "BF16"), on, context=16_384).devices:
                if use.device.startswith("cuda"):
                    assert use.needed_bytes <= 0.9 * (use.capacity_bytes or 0)
