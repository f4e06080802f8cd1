"""The compute buffer: the allocator's decisions one by one, and sizes that the engine printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import ModelNotUnderstood, UsageError
from quietmind.model.card import Latent, LayerKind, ModelCard, Recurrent, Router, Tensor
from quietmind.plan.allocator import ALIGNMENT, Graph
from quietmind.plan.compute import compute_bytes, device_compute_bytes, graph_replay
from quietmind.plan.graph_build import Build
from quietmind.plan.graph_shape import GraphShape, LayerShape, graph_shape, shortened
from quietmind.plan.kv import kv_type

MakeCard = Callable[..., ModelCard]


def test_results_that_live_together_lie_side_by_side() -> None:
    graph = Graph()
    first = graph.input(100)
    second = graph.result(200, first)
    graph.result(300, first, second)
    assert graph.peak() == 128 + 224 + 320  # each rounded up to 32


def test_a_place_is_used_again_after_the_last_use() -> None:
    graph = Graph()
    number = graph.input(320)
    for _ in range(10):
        number = graph.result(320, number)
    assert graph.peak() == 640


def test_the_smallest_hole_that_fits_is_taken() -> None:
    graph = Graph()
    big, wall, small, roof = graph.input(640), graph.input(32), graph.input(320), graph.input(32)
    graph.consume(big)
    graph.consume(small)
    graph.result(320, wall, roof)
    assert graph.peak() == 640 + 32 + 320 + 32
    graph.result(640, wall, roof)
    assert graph.peak() == 640 + 32 + 320 + 32  # the big hole was left whole


def test_of_equal_holes_the_last_is_taken() -> None:
    graph = Graph()
    parts = [graph.input(320), graph.input(32), graph.input(320), graph.input(32)]
    graph.consume(parts[0])
    graph.consume(parts[2])
    graph.result(320, parts[3])  # into the second hole; the wall behind it falls
    graph.result(992, parts[1])  # behind that result, where nothing lies any more
    assert graph.peak() == 320 + 32 + 320 + 992


def test_an_operand_is_overwritten_in_its_last_use_only() -> None:
    graph = Graph()
    number = graph.input(320)
    graph.result(320, number, overwrites=(number,))
    assert graph.peak() == 320
    graph.consume(number)
    assert graph.peak() == 640


def test_a_pinned_result_is_never_given_up() -> None:
    graph = Graph()
    number = graph.input(320)
    graph.pin(number)
    graph.result(320, number, overwrites=(number,))
    assert graph.peak() == 640


def test_a_state_says_what_is_free_and_where_a_result_lies() -> None:
    graph = Graph()
    number = graph.input(320)
    for _ in range(4):
        graph.mark(number)
        number = graph.result(320, number)
    first, second, third, fourth = graph.replay().states
    assert first == third != second == fourth  # the two places in turn


@given(st.lists(st.tuples(st.integers(1, 4000), st.sets(st.integers(0, 30), max_size=3)), min_size=1, max_size=30))
def test_the_peak_is_between_what_lives_at_once_and_everything(steps: list[tuple[int, set[int]]]) -> None:
    graph = Graph()
    sizes, sources_of = [], []
    for number, (size, wanted) in enumerate(steps):
        sources = sorted(source for source in wanted if source < number)
        graph.result(size, *sources)
        sizes.append(-(-size // ALIGNMENT) * ALIGNMENT)
        sources_of.append(sources)
    last_use = {source: step for step, sources in enumerate(sources_of) for source in sources}
    alive = [
        sum(sizes[n] for n in range(step + 1) if n == step or last_use.get(n, len(steps)) >= step)
        for step in range(len(steps))
    ]
    assert max(alive) <= graph.peak() <= sum(sizes)


def matrices(layers: int, **shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(f"blk.{n}.{name}.weight", shape, "q8_0", 0) for n in range(layers) for name, shape in shapes.items()
    )


DENSE = {"ffn_gate": (1,), "ffn_up": (1,)}

# Public shapes, and the compute buffers in MiB that llama.cpp (xllamacpp 2026.10) printed for them.
PRINTED: dict[str, tuple[dict[str, Any], dict[tuple[int, int, str], float]]] = {
    "Llama-3.1-8B": (
        {"arch": "llama", "layers": 32, "hidden": 4096, "heads": 32, "kv": 8, "ff": 14_336, "vocabulary": 128_256},
        {(4096, 512, "f16"): 128.02, (4352, 64, "f16"): 16.03, (131_072, 512, "q8_0"): 252.10},
    ),
    "Qwen3-32B": (
        {"arch": "qwen3", "layers": 64, "hidden": 5120, "heads": 64, "kv": 8, "ff": 25_600, "vocabulary": 151_936},
        {(4096, 512, "f16"): 204.02, (16_384, 2048, "q4_0"): 864.15, (512, 300, "f32"): 117.49},
    ),
    "Qwen3-235B-A22B": (
        {"arch": "qwen3moe", "layers": 94, "hidden": 4096, "heads": 64, "kv": 4, "moe": (128, 8, 1536)},
        {(4096, 512, "f16"): 180.02, (131_072, 512, "q8_0"): 304.10, (4352, 64, "f16"): 22.53},
    ),
    "Gemma-2-9B": (
        {
            "arch": "gemma2",
            "layers": 42,
            "hidden": 3584,
            "heads": 16,
            "kv": 8,
            "head": 256,
            "ff": 14_336,
            "window": 4096,
        },
        {(4096, 512, "f16"): 127.03, (131_072, 512, "q8_0"): 252.06},
    ),
    "Phi-3-mini": (
        {"arch": "phi3", "layers": 32, "hidden": 3072, "heads": 32, "kv": 32, "head": 96, "ff": 8192, "fused": True},
        {(4096, 512, "f16"): 82.02, (131_072, 512, "q8_0"): 206.02},
    ),
    "SmolLM2-135M": (
        {
            "arch": "llama",
            "layers": 30,
            "hidden": 576,
            "heads": 9,
            "kv": 3,
            "head": 64,
            "ff": 1536,
            "vocabulary": 49_152,
        },
        {(4096, 512, "f16"): 18.64, (32_768, 2048, "f16"): 186.57, (4096, 512, "q8_0"): 18.67, (256, 256, "f16"): 7.45},
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_engine_printed_the_same(card_of: MakeCard, name: str) -> None:
    shape, printed = PRINTED[name]
    layers, head = shape["layers"], shape.get("head", 128)
    experts, used, width = shape.get("moe", (0, 0, 0))
    tensors = matrices(layers, **({"attn_qkv": (1,), "ffn_up": (1,)} if "fused" in shape else DENSE))
    sliding = [LayerKind.SLIDING, LayerKind.FULL] * (layers // 2) if "window" in shape else [LayerKind.FULL] * layers
    card = card_of(
        **{key: shape[key] for key in ("arch", "layers", "hidden", "heads")},
        kv_heads=(shape["kv"],) * layers,
        key_length=head,
        value_length=head,
        feed_forward=shape.get("ff", 0),
        vocabulary=shape.get("vocabulary", 151_936),
        experts=experts,
        experts_used=used,
        expert_feed_forward=width,
        layer_kinds=tuple(sliding),
        sliding_window=shape.get("window"),
        tensors=tensors,
    )
    found = {
        (context, micro_batch, kv): compute_bytes(card, context, micro_batch, kv_type(kv)) / (1 << 20)
        for context, micro_batch, kv in printed
    }
    assert found == pytest.approx(printed, abs=0.011)


def tensors(layer: int, **shapes: tuple[int, ...]) -> list[Tensor]:
    return [Tensor(f"blk.{layer}.{name}", shape, "q8_0", 0) for name, shape in shapes.items()]


def deepseek_v3(card_of: MakeCard) -> ModelCard:
    dense = {"ffn_gate.weight": (7168, 18_432), "ffn_up.weight": (7168, 18_432)}
    experts = {
        "ffn_up_exps.weight": (7168, 2048, 256),
        "ffn_up_shexp.weight": (7168, 2048),
        "exp_probs_b.bias": (256,),
    }
    return card_of(
        arch="deepseek2",
        layers=61,
        hidden=7168,
        heads=128,
        kv_heads=(1,) * 61,
        key_length=192,
        value_length=128,
        feed_forward=18_432,
        vocabulary=129_280,
        experts=256,
        experts_used=8,
        expert_feed_forward=2048,
        shared_feed_forward=2048,
        layer_kinds=(LayerKind.LATENT,) * 61,
        latent=Latent(kv_rank=512, rope_length=64, query_rank=1536),
        router=Router(normalized=True, scale=2.5, groups=8, groups_used=4),
        tensors=tuple(t for layer in range(61) for t in tensors(layer, **(dense if layer < 3 else experts))),
    )


def qwen3_next(card_of: MakeCard) -> ModelCard:
    kinds = tuple(LayerKind.LINEAR if (layer + 1) % 4 else LayerKind.FULL for layer in range(48))
    experts = {
        "ffn_up_exps.weight": (2048, 512, 512),
        "ffn_up_shexp.weight": (2048, 512),
        "ffn_gate_inp_shexp.weight": (2048,),
    }
    linear = {
        "ssm_conv1d.weight": (4, 8192),
        "ssm_a": (32,),
        "ssm_ba.weight": (2048, 64),
        "ssm_out.weight": (4096, 2048),
    }
    full = {"attn_q.weight": (2048, 8192)}
    return card_of(
        arch="qwen3next",
        layers=48,
        hidden=2048,
        heads=16,
        kv_heads=(2,) * 48,
        key_length=256,
        value_length=256,
        feed_forward=0,
        vocabulary=151_936,
        experts=512,
        experts_used=10,
        expert_feed_forward=512,
        shared_feed_forward=512,
        layer_kinds=kinds,
        recurrent=Recurrent(state_elements=128 * 4096, convolution_elements=3 * 8192),
        tensors=tuple(
            t
            for layer, kind in enumerate(kinds)
            for t in tensors(layer, **experts, **(linear if kind is LayerKind.LINEAR else full))
        ),
    )


def test_latent_attention_takes_what_the_engine_said(card_of: MakeCard) -> None:
    card = deepseek_v3(card_of)
    assert compute_bytes(card, 4096, 512, kv_type("f16")) == 429_930_528
    assert compute_bytes(card, 4096, 512, kv_type("f16"), flash_attention=False) == 1_507_866_656
    assert compute_bytes(card, 1_048_576, 4096, kv_type("f16")) == 11_995_824_160


def test_linear_attention_takes_what_the_engine_said(card_of: MakeCard) -> None:
    card = qwen3_next(card_of)
    assert compute_bytes(card, 4096, 512, kv_type("f16")) == 98_584_640
    assert compute_bytes(card, 131_072, 512, kv_type("q8_0")) == 228_886_592
    assert compute_bytes(card, 512, 300, kv_type("f16"), flash_attention=False) == 59_605_312
    with pytest.raises(ModelNotUnderstood, match="linear"):
        compute_bytes(replace(card, tensors=()), 4096, 512, kv_type("f16"))


# The experts that a Qwen3-30B-A3B uses, and the compute buffer that the engine then takes at a context of 4,096.
BY_EXPERTS_USED = {1: 41_961_504, 2: 41_961_504, 3: 51_922_976, 4: 60_835_872, 5: 69_748_768, 16: 167_790_624}


@pytest.mark.parametrize("used", BY_EXPERTS_USED)
def test_a_mixture_takes_what_the_engine_said_with_any_number_of_experts(card_of: MakeCard, used: int) -> None:
    card = card_of(
        arch="qwen3moe",
        layers=48,
        hidden=2048,
        heads=32,
        kv_heads=(4,) * 48,
        vocabulary=151_936,
        experts=128,
        experts_used=used,
        expert_feed_forward=768,
        tensors=matrices(48, ffn_up_exps=(2048, 768, 128)),
    )
    assert compute_bytes(card, 4096, 512, kv_type("f16")) == BY_EXPERTS_USED[used]


def test_a_full_precision_cache_is_copied_for_flash_attention(card_of: MakeCard) -> None:
    assert compute_bytes(deepseek_v3(card_of), 32_768, 512, kv_type("f32")) == 593_508_384


def test_every_sequence_has_a_state_and_an_equal_share_of_the_micro_batch(card_of: MakeCard) -> None:
    card = qwen3_next(card_of)
    assert compute_bytes(card, 4096, 512, kv_type("f16"), sequences=3) == 98_777_344
    assert compute_bytes(card, 4096, 513, kv_type("f16"), sequences=3) == 98_777_344  # 171 tokens each


def test_old_conversions_unpack_latent_attention_before_the_cache(card_of: MakeCard) -> None:
    card = deepseek_v3(card_of)
    unpacking = {"attn_q_a": (7168, 1536), "attn_kv_a_mqa": (7168, 576), "attn_kv_b": (512, 128 * 256)}
    old = replace(
        card,
        latent=None,
        kv_heads=(128,) * 61,
        layer_kinds=(LayerKind.FULL,) * 61,
        tensors=(*card.tensors, *matrices(61, **unpacking)),
    )
    assert compute_bytes(old, 4096, 512, kv_type("q8_0")) == 312_526_880


def test_heads_narrower_than_the_stream_leave_other_holes(card_of: MakeCard) -> None:
    card = card_of(  # Mistral Small 24B: 4,096 of queries in a stream of 5,120
        arch="mistral3",
        layers=40,
        hidden=5120,
        heads=32,
        feed_forward=32_768,
        vocabulary=131_072,
        tensors=matrices(40, **DENSE),
    )
    assert compute_bytes(card, 4096, 512, kv_type("f16")) == 257_968_160
    assert compute_bytes(card, 4096, 512, kv_type("q8_0")) == 258_050_080
    assert compute_bytes(card, 131_072, 2048, kv_type("q8_0")) == 1_552_048_160


def test_scores_are_numbers_in_memory_without_flash_attention(card_of: MakeCard) -> None:
    card = card_of(tensors=matrices(4, **DENSE))
    saved = compute_bytes(card, 8192, 512, kv_type("f16"), flash_attention=False) - compute_bytes(
        card, 4096, 512, kv_type("f16"), flash_attention=False
    )
    assert saved == 4096 * 512 * 4 * (16 + 1)  # sixteen heads and the mask, in f32


def test_a_quantized_cache_without_flash_attention_is_refused_as_the_engine_does(card_of: MakeCard) -> None:
    with pytest.raises(UsageError, match="flash attention"):
        compute_bytes(card_of(), 4096, 512, kv_type("q8_0"), flash_attention=False)


def whole(shape: GraphShape, context: int, micro_batch: int, kv: str, flash: bool) -> int:
    return graph_replay(Build(shape, context, micro_batch, kv_type(kv), flash), shape.layers).peak


@pytest.mark.parametrize("make", [deepseek_v3, qwen3_next], ids=["leading dense layers", "every fourth layer"])
@pytest.mark.parametrize(("context", "micro_batch"), [(4096, 512), (262_144, 300)])
def test_repeated_layers_add_nothing_to_the_peak(
    card_of: MakeCard, make: Callable[[MakeCard], ModelCard], context: int, micro_batch: int
) -> None:
    card = make(card_of)
    for flash in (True, False):
        found = compute_bytes(card, context, micro_batch, kv_type("f16"), flash_attention=flash)
        assert found == whole(graph_shape(card), context, micro_batch, "f16", flash)


@given(st.lists(st.sampled_from(list(LayerKind)), max_size=40), st.integers(3, 6))
def test_shortening_keeps_the_kinds_and_both_ends(kinds: list[LayerKind], repeats: int) -> None:
    layers = tuple(LayerShape(kind, 1, False, False, False, False) for kind in kinds)
    short = shortened(layers, repeats)
    assert len(short.layers) <= len(layers)
    assert set(short.layers) == set(layers)
    assert short.layers[:1] == layers[:1]
    assert short.layers[-1:] == layers[-1:]
    assert bool(short.alike) == (len(short.layers) < len(layers))
    for first, second in short.alike:
        assert short.layers[first:second] == short.layers[second : 2 * second - first]


def test_layers_are_left_out_only_where_that_changes_nothing(card_of: MakeCard) -> None:
    dense = {"ffn_gate.weight": (7424, 10_240), "ffn_up.weight": (7424, 10_240)}
    experts = {"ffn_up_exps.weight": (7424, 512, 96), "ffn_up_shexp.weight": (7424, 512), "exp_probs_b.bias": (96,)}
    card = card_of(  # four dense layers, of which leaving out one moves all that follows
        arch="glm4moe",
        layers=8,
        hidden=7424,
        heads=2,
        kv_heads=(1,) * 8,
        key_length=64,
        value_length=64,
        feed_forward=10_240,
        vocabulary=144_110,
        experts=96,
        experts_used=4,
        expert_feed_forward=512,
        shared_feed_forward=512,
        tensors=tuple(t for layer in range(8) for t in tensors(layer, **(dense if layer < 4 else experts))),
    )
    assert compute_bytes(card, 135_680, 512, kv_type("f16"), flash_attention=False) == 925_120_544


def test_a_search_may_ask_hundreds_of_times(card_of: MakeCard) -> None:
    cards = [deepseek_v3(card_of), qwen3_next(card_of)]
    began = time.process_time()
    for context in range(4096, 4096 + 256 * 20, 256):
        for card in cards:
            compute_bytes(card, context, 512, kv_type("f16"))
    assert (time.process_time() - began) / 40 < 0.03  # 2 ms where nothing else runs


def test_a_gpu_is_an_estimate_around_the_host(card_of: MakeCard) -> None:
    card = card_of()
    plain, quantized = (device_compute_bytes(card, 32_768, 512, kv_type(kv)) for kv in ("f16", "q8_0"))
    assert plain.low < plain.mid == compute_bytes(card, 32_768, 512, kv_type("f16")) < plain.high
    assert quantized.high - quantized.mid > plain.high - plain.mid
