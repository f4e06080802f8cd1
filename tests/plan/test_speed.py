"""What must hold of every prediction of speed, whatever its constants are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.machine.machine import Device, Disk, Host, Link, Machine
from quietmind.model.card import LayerKind, ModelCard, Recurrent, Tensor
from quietmind.plan import roofline
from quietmind.plan.interval import Interval
from quietmind.plan.placement import DISK, Placement, everything_on
from quietmind.plan.speed import Speed, predict
from quietmind.plan.traffic import traffic

Card = Callable[..., ModelCard]
LAYERS = 4
GPU = ("cuda0",) * LAYERS
SPLIT = Placement(dense=GPU, experts=("cpu",) * LAYERS, kv=GPU, embedding="cpu", output="cuda0")


def mixture(card_of: Card) -> ModelCard:
    """A mixture of 64 experts, 8 of them used."""
    tensors = [Tensor("token_embd.weight", (1024, 1000), "q8_0", 1_088_000)]
    for layer in range(LAYERS):
        tensors.append(Tensor(f"blk.{layer}.attn_q.weight", (1024, 2048), "q8_0", 2_228_224))
        for part in ("gate", "up", "down"):
            tensors.append(Tensor(f"blk.{layer}.ffn_{part}_exps.weight", (1024, 1024, 64), "q4_k", 37_748_736))
    return card_of(tensors=tuple(tensors), layers=LAYERS, experts=64, experts_used=8)


def server(host: float | None = 200e9, gpu: float | None = 1000e9, cores: int | None = 32) -> Machine:
    return Machine(
        "server",
        (
            Device("cpu", "Some CPU", bandwidth_bytes_per_s=host),
            Device("cuda", "Some GPU", bandwidth_bytes_per_s=gpu, flops=100e12, key="cuda0"),
        ),
        (Link("cpu", "cuda0", 30e9),),
        Host("Linux", "Some CPU", physical_cores=cores, instructions=("avx2", "avx512f")),
        Disk("/", read_bytes_per_s=5e9),
    )


def told(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def speed(card: ModelCard, machine: Machine, placement: Placement = SPLIT, **changes: object) -> Speed:
    settings = {"kv_type": "f16", "micro_batch": 512, "depth": 1000} | changes
    found = predict(machine, card, placement, **settings)  # type: ignore[arg-type]
    assert found is not None
    return found


bandwidths = st.floats(1e9, 4e12)


@given(bandwidths, st.floats(1.0, 10.0), st.sampled_from(["host", "gpu"]))
def test_more_bandwidth_is_never_slower(card_of: Card, least: float, factor: float, which: str) -> None:
    card = mixture(card_of)
    slow, fast = (
        speed(card, server(host=rate) if which == "host" else server(gpu=rate)) for rate in (least, least * factor)
    )
    assert told(fast.decode).mid >= told(slow.decode).mid * (1 - 1e-9)
    assert told(fast.prefill).mid >= told(slow.prefill).mid * (1 - 1e-9)


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_depth_is_never_faster(card_of: Card, depth: int, more: int) -> None:
    card = mixture(card_of)
    near, far = speed(card, server(), depth=depth), speed(card, server(), depth=depth + more)
    assert told(far.decode).mid <= told(near.decode).mid * (1 + 1e-9)
    assert told(far.prefill).mid <= told(near.prefill).mid * (1 + 1e-9)


@given(st.integers(1, 63))
def test_more_experts_are_never_faster(card_of: Card, used: int) -> None:
    card = mixture(card_of)
    few, many = speed(card, server(), experts_used=used), speed(card, server(), experts_used=used + 1)
    assert told(many.decode).mid < told(few.decode).mid
    assert told(many.prefill).mid <= told(few.prefill).mid


@given(
    bandwidths, bandwidths, st.integers(0, 200_000), st.sampled_from([32, 512, 4096]), st.sampled_from([None, 1, 64])
)
def test_intervals_are_ordered_and_finite(
    card_of: Card, host: float, gpu: float, depth: int, micro_batch: int, cores: int | None
) -> None:
    found = speed(mixture(card_of), server(host, gpu, cores), depth=depth, micro_batch=micro_batch)
    for interval in (told(found.prefill), told(found.decode)):
        assert 0 < interval.low < interval.mid < interval.high < float("inf")


def test_no_prediction_without_the_bandwidth_of_a_device_that_is_used(card_of: Card) -> None:
    settings = {"kv_type": "f16", "micro_batch": 512, "depth": 0}
    card = mixture(card_of)
    assert predict(server(host=None), card, SPLIT, **settings) is None  # type: ignore[arg-type]
    assert predict(server(gpu=None), card, SPLIT, **settings) is None  # type: ignore[arg-type]
    on_host = everything_on("cpu", LAYERS, frozenset(range(LAYERS)))
    assert predict(server(gpu=None), card, on_host, **settings) is not None  # type: ignore[arg-type]
    row_by_row = replace(everything_on("cuda0", LAYERS, frozenset(range(LAYERS))), embedding="cpu")
    assert predict(server(host=None), card, row_by_row, **settings) is not None  # type: ignore[arg-type]
    on_disk = replace(SPLIT, experts=(DISK,) * LAYERS)
    assert predict(replace(server(), disk=None), card, on_disk, **settings) is None  # type: ignore[arg-type]


def test_what_is_assumed_is_said_and_widens_the_interval(card_of: Card) -> None:
    card = mixture(card_of)
    known = speed(card, server())
    unknown = speed(card, replace(server(cores=None), links=()))
    assert known.basis == ()
    assert sorted(note.split(":")[1] for note in unknown.basis) == [" the host's cores", " the link to cuda0"]
    assert width(told(unknown.decode)) > width(told(known.decode))
    assert width(told(unknown.prefill)) > width(told(known.prefill))


def width(interval: Interval) -> float:
    return interval.high / interval.low


def test_decode_comes_near_the_bandwidth_where_nothing_else_costs(card_of: Card) -> None:
    card = mixture(card_of)
    on_host = everything_on("cpu", LAYERS, frozenset(range(LAYERS)))
    machine = server(host=5e9)  # slow memory under 32 cores
    read = traffic(card, on_host, kv_type="f16", depth=0)["cpu"].bytes
    found = speed(card, machine, on_host, depth=0)
    assert told(found.decode).mid == pytest.approx(5e9 * roofline.HOST_READING.mid / read, rel=0.05)
    assert found.limit == "host memory: 54.0 MiB of experts a token"


def test_a_larger_micro_batch_prefills_faster_when_experts_come_over_the_link(card_of: Card) -> None:
    card = mixture(card_of)
    rates = [told(speed(card, server(), micro_batch=size).prefill).mid for size in (512, 1024, 2048)]
    assert rates == sorted(rates)
    assert rates[-1] > 1.5 * rates[0]


def test_the_disk_is_what_decoding_waits_for_when_experts_are_there(card_of: Card) -> None:
    found = speed(mixture(card_of), server(), replace(SPLIT, experts=(DISK,) * LAYERS))
    assert found.limit.startswith("disk: ")


def test_fewer_threads_are_never_faster(card_of: Card) -> None:
    card = mixture(card_of)
    on_host = everything_on("cpu", LAYERS, frozenset(range(LAYERS)))
    rates = [told(speed(card, server(), on_host, threads=count).prefill).mid for count in (1, 8, 32)]
    assert rates == sorted(rates)


EVERYTHING = everything_on("cuda0", LAYERS, frozenset(range(LAYERS)))


def test_a_short_prompt_prefills_a_mixture_slower_a_token(card_of: Card) -> None:
    card = mixture(card_of)
    rates = [told(speed(card, server(), EVERYTHING, micro_batch=size).prefill).mid for size in (64, 512, 2048)]
    assert rates == sorted(rates)  # every expert that any token visits costs a whole tile
    assert rates[-1] > 2 * rates[0]


def test_experts_on_the_host_cut_the_graph_of_the_gpu(card_of: Card) -> None:
    card, machine = mixture(card_of), server(host=1e15, cores=1)  # a host that answers at once
    free = replace(machine, host=replace(machine.host, physical_cores=100_000))
    whole = 1 / told(speed(card, free, EVERYTHING).decode).mid
    split = 1 / told(speed(card, free, threads=1).decode).mid
    assert split - whole > LAYERS * (roofline.SPLIT_LAYER_S.mid - roofline.GPU_LAYER_S.mid)


def test_memory_over_several_numa_nodes_is_not_read_at_the_sum(card_of: Card) -> None:
    card = mixture(card_of)
    on_host = everything_on("cpu", LAYERS, frozenset(range(LAYERS)))
    one = server(host=5e9)
    two = replace(one, host=replace(one.host, numa_nodes=2))
    assert told(speed(card, two, on_host).decode).mid < 0.6 * told(speed(card, one, on_host).decode).mid
    seen = replace(two, devices=(replace(two.cpu, measured=True), *two.accelerators))
    assert told(speed(card, seen, on_host).decode).mid > told(speed(card, one, on_host).decode).mid


def test_a_recurrent_layer_costs_more_than_its_bytes(card_of: Card) -> None:
    plain = card_of(layer_kinds=(LayerKind.FULL,) * LAYERS)
    recurrent = card_of(layer_kinds=(LayerKind.LINEAR,) * LAYERS, recurrent=Recurrent(1, 1))
    for place in ("cpu", "cuda0"):
        placement = everything_on(place, LAYERS)
        slow, fast = (speed(card, server(), placement, depth=0) for card in (recurrent, plain))
        assert told(slow.decode).mid < told(fast.decode).mid
        assert told(slow.prefill).mid < told(fast.prefill).mid
    assert "recurrent states of 4 layers" in speed(recurrent, server(host=1e12), everything_on("cpu", LAYERS)).limit


def test_short_heads_attend_slower(card_of: Card) -> None:
    short, long = (card_of(heads=2048 // head, key_length=head, value_length=head) for head in (64, 128))
    placement = everything_on("cuda0", LAYERS)
    rates = [told(speed(card, server(), placement, depth=100_000).prefill).mid for card in (short, long)]
    assert rates[0] < 0.6 * rates[1]


def test_apples_gpus_of_unknown_flops_are_not_taken_for_nvidias(card_of: Card) -> None:
    machine, placement = server(), everything_on("metal", LAYERS)
    gpu = Device("metal", "Apple M2 Ultra", bandwidth_bytes_per_s=800e9, key="metal", unified=True)
    apple = replace(machine, devices=(machine.cpu, gpu), links=())
    stated = replace(apple, devices=(machine.cpu, replace(gpu, flops=27.2e12)))
    guessed, known = (told(speed(card_of(), mac, placement).prefill) for mac in (apple, stated))
    assert guessed.mid == pytest.approx(known.mid, rel=0.15)
    assert width(guessed) > width(known)


def test_stacked_memory_is_read_at_a_smaller_share() -> None:
    hbm, gddr = (roofline.gpu_reading("cuda", name, "dense") for name in ("NVIDIA A100 80GB PCIe", "RTX A6000"))
    assert hbm.mid < gddr.mid


@given(st.integers(1, 4096), st.integers(0, 200_000), st.sampled_from(["cpu", "cuda0"]))
def test_any_batch_at_any_depth_has_an_interval(card_of: Card, tokens: int, depth: int, place: str) -> None:
    placement = everything_on(place, LAYERS, frozenset(range(LAYERS)))
    found = speed(mixture(card_of), server(), placement, micro_batch=tokens, depth=depth)
    assert 0 < told(found.prefill).low <= told(found.prefill).mid <= told(found.prefill).high


def test_twice_the_cores_prefill_less_than_twice_as_fast(card_of: Card) -> None:
    card, on_host = mixture(card_of), everything_on("cpu", LAYERS, frozenset(range(LAYERS)))
    one, two = (told(speed(card, server(host=1e13, cores=cores), on_host).prefill).mid for cores in (48, 96))
    assert 1.2 * one < two < 1.8 * one


def dense(card_of: Card, kind: str) -> ModelCard:
    """A model of the same shape in any type: as many bytes, so that only what is done with them differs."""
    tensors = [Tensor("token_embd.weight", (1024, 1000), "q8_0", 1_088_000)]
    tensors += [Tensor(f"blk.{layer}.ffn_up.weight", (4096, 4096), kind, 16_777_216) for layer in range(LAYERS)]
    return card_of(tensors=tuple(tensors), layers=LAYERS)


def graphics(name: str) -> Machine:
    machine = server()
    return replace(machine, devices=(machine.cpu, replace(machine.devices[1], name=name)))


ON_GPU = everything_on("cuda0", LAYERS)


def prefill(card: ModelCard, machine: Machine, **changes: object) -> float:
    return told(speed(card, machine, ON_GPU, depth=0, **changes).prefill).mid


def test_a_quantized_matrix_is_read_and_then_multiplied_one_in_half_precision_meanwhile(card_of: Card) -> None:
    few, many = (
        prefill(dense(card_of, "q4_0"), graphics("Some GPU"), micro_batch=size)
        / prefill(dense(card_of, "f16"), graphics("Some GPU"), micro_batch=size)
        for size in (64, 4096)
    )
    assert few < many < 1  # what reading adds is shared by many tokens


def test_a_large_cache_multiplies_quantized_matrices_quicker_but_experts_alike(card_of: Card) -> None:
    small, large = graphics("NVIDIA GeForce RTX 3090"), graphics("NVIDIA GeForce RTX 4090")
    assert prefill(dense(card_of, "q4_0"), large) > 1.2 * prefill(dense(card_of, "q4_0"), small)
    assert prefill(dense(card_of, "f16"), large) == prefill(dense(card_of, "f16"), small)
    share = [roofline.gpu_share(machine.devices[1].name, "experts", weights="q4_0") for machine in (small, large)]
    assert share[0] == share[1]


def test_only_blackwell_multiplies_four_bits_as_they_are(card_of: Card) -> None:
    rates = [
        prefill(dense(card_of, kind), graphics(name))
        for name in ("RTX PRO 6000 Blackwell Max-Q", "RTX 6000 Ada")
        for kind in ("q4_0", "mxfp4")
    ]
    assert rates[1] > rates[0] == rates[2] == rates[3]


def test_builds_that_unpacked_whole_matrices_did_not_gain_from_a_large_cache(card_of: Card) -> None:
    card, machine = dense(card_of, "q4_0"), graphics("NVIDIA GeForce RTX 4090")
    assert prefill(card, machine, engine="llama.cpp b3000") < prefill(card, machine)


def hosted(processor: str, kind: str, component: str = "dense", **changes: object) -> float:
    settings: dict[str, object] = {"prefill": True, "rows": 512.0, "instructions": ("avx2", "avx512f", "avx512_vnni")}
    found = roofline.host_rate(kind, component, processor=processor, **settings | changes)  # type: ignore[arg-type]
    return found.mid


@pytest.mark.parametrize(("kind", "kept"), [("q4_k", 0.6), ("q8_0", 1.0)])
def test_on_a_host_experts_of_repacked_types_lose_most(kind: str, kept: float) -> None:
    assert hosted("Xeon", kind, "experts", rows=32.0) == pytest.approx(kept * hosted("Xeon", kind), rel=0.08)


def test_a_desktop_gains_more_with_kernels_of_256_bits() -> None:
    narrow, wide = (hosted("Ryzen 9 7950X", kind) / hosted("Xeon", kind) for kind in ("q8_0", "q4_k"))
    assert narrow > wide > 1


def test_unpacking_costs_ik_llama_most_where_an_expert_has_few_rows() -> None:
    few, many = (hosted("Xeon", "q4_k", engine="ik_llama.cpp", rows=rows) for rows in (32.0, 512.0))
    assert few == pytest.approx(many * 0.53, rel=0.05)
    new, old = (hosted(name, "q4_k", engine="ik_llama.cpp") for name in ("EPYC 9355", "EPYC 9554"))
    assert new > old > hosted("EPYC 9554", "q4_k", engine="ik_llama.cpp 2025-05")


def test_a_ryzen_reads_less_of_what_its_memory_states(card_of: Card) -> None:
    on_host = everything_on("cpu", LAYERS)
    machine = server(host=80e9)
    ryzen = replace(machine, host=replace(machine.host, cpu="AMD Ryzen 9 7950X"))
    workstation = replace(machine, host=replace(machine.host, cpu="AMD Ryzen Threadripper PRO 7985WX"))
    slow, fast, same = (
        told(speed(dense(card_of, "q8_0"), found, on_host).decode).mid for found in (ryzen, workstation, machine)
    )
    assert slow < fast == same
