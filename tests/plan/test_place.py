"""Placement: every tensor has its place, memory is respected, and more of it never makes things worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.machine.machine import Device, Disk, Host, Machine
from quietmind.model.card import ModelCard, Tensor
from quietmind.plan import Ask, Plan, plan
from quietmind.plan.place import CONTEXT_BYTES, FITS_BELOW, MARGIN_BYTES, divided
from quietmind.plan.placement import DISK

MakeCard = Callable[..., ModelCard]
GIB = 1 << 30
MIB = 1 << 20


def gpu(number: int, memory: int, bandwidth: float = 1e12) -> Device:
    return Device("cuda", f"GPU {number}", memory, memory, bandwidth, 1e14, f"cuda{number}")


def machine_with(ram: int, *devices: Device) -> Machine:
    cpu = Device("cpu", "CPU", ram, ram, 1e11)
    return Machine("m", (cpu, *devices), (), Host("Linux", "CPU", 8, 16, 8), Disk("/", read_bytes_per_s=5e9))


def mixture(card_of: MakeCard, layers: int = 12, expert_bytes: int = 300 * MIB, tied: bool = False) -> ModelCard:
    """Return a mixture of 16 experts, 2 used: 3 tensors of ``expert_bytes`` in every layer but the first."""
    tensors = [
        Tensor("token_embd.weight", (1024, 1000), "f16", 200 * MIB),
        Tensor("output_norm.weight", (1024,), "f32", 4096),
    ]
    if not tied:
        tensors.append(Tensor("output.weight", (1024, 1000), "f16", 300 * MIB))
    for layer in range(layers):
        tensors += [
            Tensor(f"blk.{layer}.attn_q.weight", (1024, 2048), "f16", 20 * MIB),
            Tensor(f"blk.{layer}.ffn_gate_inp.weight", (1024, 16), "f32", MIB),
        ]
        if layer:
            tensors += [
                Tensor(f"blk.{layer}.ffn_{name}_exps.weight", (1024, 512, 16), "q8_0", expert_bytes)
                for name in ("gate", "up", "down")
            ]
    return card_of(
        arch="qwen3moe", layers=layers, experts=16, experts_used=2, expert_feed_forward=512, tensors=tuple(tensors)
    )


def dense(card_of: MakeCard, layers: int = 12) -> ModelCard:
    tensors = [
        Tensor("token_embd.weight", (1024, 1000), "f16", 200 * MIB),
        Tensor("output.weight", (1,), "f16", 300 * MIB),
    ]
    for layer in range(layers):
        tensors.append(Tensor(f"blk.{layer}.ffn_up.weight", (1024, 3072), "f16", 500 * MIB))
    return card_of(layers=layers, tensors=tuple(tensors))


def on_gpus(found: Plan) -> int:
    return sum(row.bytes for row in found.ledger.rows if row.device.startswith("cuda") and holds(row.component))


def holds(component: str) -> bool:
    return component.startswith(("weights", "KV cache"))


def test_without_accelerators_everything_is_on_the_host(card_of: MakeCard) -> None:
    found = plan(machine_with(64 * GIB), mixture(card_of), Ask(4096))
    assert found.placement is not None
    assert found.placement.devices == ("cpu",)
    assert found.placement.experts[:2] == ("", "cpu")


def test_a_gpu_that_holds_everything_gets_everything_but_the_look_up(card_of: MakeCard) -> None:
    found = plan(machine_with(64 * GIB, gpu(0, 80 * GIB)), mixture(card_of), Ask(4096))
    assert found.placement is not None
    assert {*found.placement.dense, *found.placement.kv, found.placement.output} == {"cuda0"}
    assert set(found.placement.experts) == {"", "cuda0"}
    assert found.placement.embedding == "cpu"
    components = [row.component for row in found.ledger.rows if row.device == "cuda0"]
    assert "compute buffer, weights in transit" not in components
    assert [row.bytes for row in found.ledger.rows if row.component == "engine context"] == [CONTEXT_BYTES]


def test_experts_that_do_not_fit_stay_on_the_host_first_layers_first(card_of: MakeCard) -> None:
    card = mixture(card_of)
    found = plan(machine_with(64 * GIB, gpu(0, 8 * GIB)), card, Ask(4096))
    assert found.placement is not None
    assert set(found.placement.dense) == {"cuda0"}
    kept = [layer for layer, key in enumerate(found.placement.experts) if key == "cuda0"]
    assert kept == list(range(kept[0], card.layers))
    assert kept[0] > 1
    room = min(FITS_BELOW * 8 * GIB, 8 * GIB - MARGIN_BYTES)
    used = found.devices[1].needed_bytes
    assert used <= room < used + 900 * MIB  # not one layer more would have fitted
    transit = [row.bytes for row in found.ledger.rows if row.component == "compute buffer, weights in transit"]
    assert transit == [300 * MIB]


def test_a_dense_model_too_large_keeps_its_last_layers_on_the_gpu(card_of: MakeCard) -> None:
    found = plan(machine_with(64 * GIB, gpu(0, 6 * GIB)), dense(card_of), Ask(4096))
    assert found.placement is not None
    first = found.placement.dense.index("cuda0")
    assert 0 < first < 12
    assert found.placement.dense == ("cpu",) * first + ("cuda0",) * (12 - first)
    assert found.placement.kv == found.placement.dense
    assert found.placement.output == "cuda0"


def test_a_tied_output_is_copied_to_the_gpu_and_read_there(card_of: MakeCard) -> None:
    card = mixture(card_of, tied=True)
    found = plan(machine_with(64 * GIB, gpu(0, 80 * GIB)), card, Ask(4096))
    rows = {(row.device, row.component): row for row in found.ledger.rows}
    assert rows["cpu", "weights: embeddings"].bytes == rows["cuda0", "weights: output"].bytes == 200 * MIB
    assert rows["cpu", "weights: embeddings"].read_per_token == round(200 * MIB / 1000)
    assert rows["cuda0", "weights: output"].read_per_token == 200 * MIB
    assert found.ledger.component("weights") == card.weight_bytes + 200 * MIB
    alone = plan(machine_with(64 * GIB), card, Ask(4096))
    assert alone.ledger.component("weights") == card.weight_bytes


def test_a_tied_output_that_the_processor_packs_is_a_copy_and_the_copy_is_read(card_of: MakeCard) -> None:
    plain = mixture(card_of, tied=True)
    embedding, *others = plain.tensors
    packable = replace(plain, tensors=(replace(embedding, type="q4_0"), *others))
    without_avx2 = machine_with(64 * GIB)
    machine = replace(without_avx2, host=replace(without_avx2.host, instructions=("avx2",)))
    found = plan(machine, packable, Ask(4096))
    rows = {row.component: row for row in found.ledger.rows}
    assert rows["weights: embeddings"].read_per_token == round(200 * MIB / 1000)
    assert rows["weights: output"].read_per_token == rows["weights: output"].bytes == 200 * MIB
    assert found.ledger.component("weights") == plain.weight_bytes + 200 * MIB
    for unpacked in (
        plan(machine, plain, Ask(4096)),
        plan(without_avx2, packable, Ask(4096)),
        plan(machine, replace(packable, vocabulary=1001), Ask(4096)),
    ):
        assert unpacked.ledger.component("weights") == plain.weight_bytes


def test_what_several_gpus_hold_together_goes_to_the_fewest_fast_ones(card_of: MakeCard) -> None:
    card = mixture(card_of)
    slow, fast = gpu(0, 24 * GIB, 5e11), gpu(1, 24 * GIB, 2e12)
    found = plan(machine_with(64 * GIB, slow, fast), card, Ask(4096))
    assert found.placement is not None
    assert found.placement.devices == ("cuda1", "cpu")
    assert any("GPU 0 (cuda0) stays unused: the model fits without" in warning for warning in found.warnings)
    both = plan(machine_with(64 * GIB, gpu(0, 8 * GIB), gpu(1, 8 * GIB)), card, Ask(4096))
    assert both.placement is not None
    assert set(both.placement.experts) == {"", "cuda0", "cuda1"}
    assert both.placement.dense == tuple(sorted(both.placement.dense))  # consecutive stretches
    assert any("input copies" in row.component for row in both.ledger.rows)


def test_experts_overflow_from_several_gpus_to_the_host(card_of: MakeCard) -> None:
    found = plan(machine_with(64 * GIB, gpu(0, 5 * GIB), gpu(1, 5 * GIB)), mixture(card_of), Ask(4096))
    assert found.placement is not None
    assert set(found.placement.experts) == {"", "cpu", "cuda0", "cuda1"}
    assert set(found.placement.dense) == {"cuda0", "cuda1"}
    assert found.verdict == "fits"


def test_copied_inputs_are_paid_for_when_the_last_experts_just_fit(card_of: MakeCard) -> None:
    for size in range(11_200, 12_000, 40):
        machine = machine_with(64 * GIB, gpu(0, size * MIB), gpu(1, size * MIB))
        found = plan(machine, mixture(card_of), Ask(262_144, "q8_0"))
        assert all(use.needed_bytes <= FITS_BELOW * size * MIB for use in found.devices[1:])


def test_unified_memory_is_counted_once(card_of: MakeCard) -> None:
    card = mixture(card_of, tied=True)
    metal = Device("metal", "M", 14 * GIB, 14 * GIB, 4e11, 1e13, "metal", unified=True)
    found = plan(machine_with(16 * GIB, metal), card, Ask(4096))
    assert found.ledger.component("weights") == card.weight_bytes  # the tied table is not copied
    assert found.verdict == "fits"
    assert found.devices[1].pool == "cpu"
    crowded = replace(machine_with(16 * GIB, metal), devices=(Device("cpu", "CPU", 16 * GIB, 9 * GIB), metal))
    assert plan(crowded, card, Ask(4096)).verdict == "tight"  # what metal holds is the host's memory too


def test_experts_that_exceed_all_memory_are_read_from_the_disk(card_of: MakeCard) -> None:
    found = plan(machine_with(8 * GIB), mixture(card_of), Ask(4096))
    assert found.placement is not None
    assert found.verdict == "tight"
    assert found.placement.experts.count(DISK) >= 3
    read = sum(row.read_per_token for row in found.ledger.rows if row.device == DISK)
    assert read == found.ledger.total(DISK) * 2 // 16
    assert any(f"at least {read / 5e9:.1f} s a token" in warning for warning in found.warnings)
    assert plan(machine_with(3 * GIB), mixture(card_of), Ask(4096)).verdict == "does not fit"
    assert plan(machine_with(3 * GIB), dense(card_of), Ask(4096)).verdict == "does not fit"


def test_what_is_asked_by_name_is_done(card_of: MakeCard) -> None:
    card, machine = mixture(card_of), machine_with(64 * GIB, gpu(0, 80 * GIB))
    none = plan(machine, card, Ask(4096, gpu_layers=0)).placement
    assert none is not None
    assert none.devices == ("cpu",)
    some = plan(machine, card, Ask(4096, gpu_layers=4)).placement
    assert some is not None
    assert some.dense == ("cpu",) * 9 + ("cuda0",) * 3  # the output is the fourth
    held = plan(machine, card, Ask(4096, cpu_experts=7)).placement
    assert held is not None
    assert held.experts == ("",) + ("cpu",) * 6 + ("cuda0",) * 5
    host = plan(machine, card, Ask(4096, kv_offload=False)).placement
    assert host is not None
    assert (set(host.kv), set(host.dense)) == ({"cpu"}, {"cuda0"})
    small = plan(machine_with(64 * GIB, gpu(0, 2 * GIB)), card, Ask(4096, gpu_layers=99, cpu_experts=0))
    assert small.placement is not None
    assert (small.verdict, set(small.placement.dense)) == ("does not fit", {"cuda0"})


def test_an_accelerator_of_unknown_memory_gets_nothing_unasked(card_of: MakeCard) -> None:
    unknown = Device("cuda", "Mystery", key="cuda0")
    found = plan(machine_with(64 * GIB, unknown), mixture(card_of), Ask(4096))
    assert found.placement is not None
    assert found.placement.devices == ("cpu",)
    assert any("Mystery" in warning for warning in found.warnings)
    asked = plan(machine_with(64 * GIB, unknown), mixture(card_of), Ask(4096, gpu_layers=99))
    assert asked.placement is not None
    assert asked.verdict == "tight"
    assert "cuda0" in asked.placement.devices


def test_one_plan_of_a_large_mixture_takes_less_than_50_ms(card_of: MakeCard) -> None:
    card, machine = mixture(card_of, layers=94), machine_with(512 * GIB, gpu(0, 24 * GIB), gpu(1, 24 * GIB))
    taken = []
    for context in (32_768, 32_000, 31_000):  # different ones, so that nothing is remembered
        began = process_time()
        plan(machine, card, Ask(context))
        taken.append(process_time() - began)
    assert min(taken) < 0.05


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=0, max_size=4),
    st.integers(1, 64),
    st.integers(0, 30),
    st.booleans(),
    st.sampled_from([256, 4096, 131_072]),
    st.integers(1, 3),
)
def test_every_tensor_has_one_place_or_the_engines_copies(
    card_of: MakeCard,
    cards: Sequence[int],
    ram: int,
    layers: int,
    tied: bool,
    context: int,
    sequences: int,
) -> None:
    machine = machine_with(ram * GIB, *(gpu(number, size * GIB) for number, size in enumerate(cards)))
    card = mixture(card_of, layers=layers + 1, tied=tied)
    found = plan(machine, card, Ask(context, sequences=sequences))  # proves its own sums
    assert found.placement is not None
    copied = 200 * MIB if tied and found.placement.output != "cpu" else 0
    assert found.ledger.component("weights") == card.weight_bytes + copied
    assert found.ledger.component("KV cache") == sequences * card.layers * 2 * 8 * 128 * 2 * found.context
    for use in found.devices[1:]:
        if use.device != DISK:
            assert use.needed_bytes <= FITS_BELOW * (use.free_bytes or 0)
    assert plan(machine, card, Ask(context, sequences=sequences)) == found


@settings(deadline=None, max_examples=25)
@given(st.booleans(), st.sampled_from([4096, 65_536]), st.integers(100, 900))
def test_more_gpu_memory_never_means_less_on_the_gpu(card_of: MakeCard, experts: bool, context: int, step: int) -> None:
    card = mixture(card_of) if experts else dense(card_of)
    sizes = range(GIB, 20 * GIB, step * MIB)
    held = [on_gpus(plan(machine_with(64 * GIB, gpu(0, size)), card, Ask(context))) for size in sizes]
    assert all(less <= more for less, more in pairwise(held))
    assert held[-1] > held[0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.lists(st.integers(-10, 300), min_size=1, max_size=5))
def test_a_division_keeps_the_order_and_the_room(costs: list[int], rooms: list[int]) -> None:
    counts = divided(costs, rooms)
    if counts is None:
        assert sum(costs) > sum(max(room, 0) for room in rooms) or len(rooms) > 1
        return
    assert sum(counts) == len(costs)
    slot = 0
    for count, room in zip(counts, rooms, strict=True):
        assert sum(costs[slot : slot + count]) <= max(room, 0)
        slot += count
