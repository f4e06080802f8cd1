"""Dividing a model over GPUs: which sizes an engine accepts, and what each GPU holds of it."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan.parallel_kv import cached
from quietmind.plan.parallel_weights import expected_busiest, pieces
from quietmind.plan.split import Split, local_heads, splits, stages


def sizes(card: ModelCard, gpus: int, nodes: int = 1) -> set[tuple[int, int, int, int]]:
    return {(split.tensor, split.pipeline, split.experts, split.context) for split in splits(card, gpus, nodes)}


def test_cut_experts_keep_whole_blocks_of_their_scales() -> None:
    # 1,536 cut in 4 is 384, three blocks of 128; cut in 8 it is 192, one and a half.
    found = sizes(open_card("Qwen3-235B-A22B", "FP8"), 8)
    assert (4, 1, 1, 1) in found
    assert (8, 1, 8, 1) in found
    assert (8, 1, 1, 1) not in found
    assert (8, 1, 1, 1) in sizes(open_card("Qwen3-235B-A22B", "BF16"), 8)


def test_groups_of_four_bits_are_whole_too() -> None:
    found = sizes(open_card("Qwen3-Coder-480B-A35B", "GPTQ-INT4"), 8)
    assert (4, 1, 1, 1) in found  # 2,560 cut in 4 is 640, five groups of 128
    assert not {split for split in found if split[0] == 8 and split[2] == 1}


def test_tokens_are_dealt_out_where_heads_would_be_copied() -> None:
    found = sizes(open_card("Qwen3-30B-A3B", "BF16"), 8)  # four KV heads
    assert {context for tensor, pipeline, _, context in found if (tensor, pipeline) == (8, 1)} == {1, 2}
    assert {context for tensor, pipeline, _, context in found if (tensor, pipeline) == (4, 1)} == {1}
    assert {context for *_, context in sizes(open_card("gpt-oss-120b", "BF16"), 8)} == {1}  # has sliding windows


def test_every_node_is_used_and_holds_whole_stages() -> None:
    for split in splits(open_card("Qwen3-235B-A22B", "FP8"), 8, nodes=2):
        assert split.pipeline % 2 == 0
        assert split.gpus_per_node <= 8


def test_heads_that_do_not_divide_are_not_cut() -> None:
    assert {tensor for tensor, *_ in sizes(open_card("SmolLM2-135M", "BF16"), 8)} == {1}  # 9 heads
    assert {tensor for tensor, *_ in sizes(open_card("Qwen2.5-Coder-0.5B", "BF16"), 8)} == {1, 2}  # 14 heads


@given(layers=st.integers(1, 130), pipeline=st.integers(1, 16))
def test_stages_hold_every_layer_once_and_differ_by_one(layers: int, pipeline: int) -> None:
    pipeline = min(pipeline, layers)
    found = stages(layers, pipeline)
    assert [layer for stage in found for layer in stage] == list(range(layers))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert len(found[-1]) == layers // pipeline  # the last has the output besides


@pytest.mark.parametrize("quantization", ["FP8", "BF16"])
def test_all_gpus_together_hold_the_model_once_and_the_copies(quantization: str) -> None:
    card = open_card("Qwen3-235B-A22B", quantization)
    split = next(split for split in splits(card, 4) if split.tensor == 4 and split.pipeline == 1)
    held = pieces(card, split, range(card.layers), busiest=0.0)
    copies = 3 * sum(piece.bytes for piece in held if piece.how == "a copy")
    in_sixteen_bits = sum(
        tensor.bytes // 2 if tensor.type == "f32" else tensor.bytes for tensor in card.tensors
    )  # a GGUF keeps norms and routers in f32, an engine does not
    assert 4 * sum(piece.bytes for piece in held) == pytest.approx(in_sixteen_bits + copies, rel=1e-6)


def test_stages_together_hold_what_one_does() -> None:
    card = open_card("Qwen3-30B-A3B", "FP8")
    whole = sum(piece.bytes for piece in pieces(card, Split(), range(card.layers), 0.0))
    parts = [pieces(card, Split(pipeline=4), layers, 0.0) for layers in stages(card.layers, 4)]
    assert sum(piece.bytes for stage in parts for piece in stage) == whole
    assert [any(piece.part == "embeddings" for piece in stage) for stage in parts] == [True, False, False, False]
    assert [any(piece.part == "output" for piece in stage) for stage in parts] == [False, False, False, True]


def test_one_gpu_of_eight_by_hand() -> None:
    card = open_card("Qwen3-235B-A22B", "FP8")
    held = {piece.part: piece for piece in pieces(card, Split(8, experts=8), range(94), expected_busiest(8, 8))}
    scales = 4  # bytes, one for a block of 128 x 128
    query = (4096 * 8192 + 32 * 64 * scales) // 8  # and the output's projection is as large
    key = (4096 * 512 + 32 * 4 * scales) // 4  # of four KV heads a GPU keeps one, which another has too
    assert held["attention"].bytes == 94 * (2 * query + 2 * key)
    expert = 3 * (4096 * 1536 + 32 * 12 * scales)
    assert held["experts"].bytes == 94 * 16 * expert
    assert held["router"].bytes == 94 * 4096 * 128 * 2
    assert held["norms"].bytes == 94 * (2 * 4096 + 2 * 128) * 2 + 4096 * 2
    assert held["embeddings"].bytes == held["output"].bytes == 151_936 // 8 * 4096 * 2
    assert held["embeddings"].read == 4096 * 2  # a row


def test_the_cache_of_a_million_tokens_by_hand() -> None:
    card = open_card("Qwen3-235B-A22B", "FP8")
    page = 16 * 1 * (128 + 128) * 1  # tokens, heads, keys and values, bytes
    whole = cached(card, Split(8), range(94), context=1 << 20, sequences=1, element=1, in_flight=0)
    assert [part.bytes for part in whole] == [94 * (65_536 + 1) * page]
    halved = cached(card, Split(8, context=2), range(94), context=1 << 20, sequences=1, element=1, in_flight=0)
    assert [part.bytes for part in halved] == [94 * (32_768 + 1) * page]


def test_latent_rows_are_on_every_gpu() -> None:
    card = open_card("DeepSeek-V3", "FP8")
    one, eight = (
        cached(card, Split(tensor), range(61), context=65_536, sequences=1, element=2, in_flight=0) for tensor in (1, 8)
    )
    assert one[0].bytes == eight[0].bytes == 61 * (1024 + 1) * 64 * 576 * 2


def test_windows_keep_their_own_blocks_and_share_the_pool() -> None:
    card = open_card("gemma-3-27b", "BF16")  # 10 full layers, 52 with windows of 1,024
    found = {
        str(part.kind): part
        for part in cached(card, Split(), range(62), context=131_072, sequences=1, element=2, in_flight=8192)
    }
    page = 16 * 16 * 256 * 2  # tokens, heads, keys and values, bytes
    assert found["full"].bytes == (8192 * 10 + 10) * page  # and a block that is held back
    window_blocks = (1024 - 1 + 8192 + 15) // 16 + 1
    assert found["sliding"].bytes == window_blocks * 60 * page  # 52 layers in groups of 10


@pytest.mark.parametrize(("kv_heads", "tensor", "kept"), [(4, 8, 1), (4, 4, 1), (8, 4, 2), (8, 1, 8), (0, 4, 0)])
def test_kv_heads_are_shared_out_and_never_fewer_than_one(kv_heads: int, tensor: int, kept: int) -> None:
    assert local_heads(kv_heads, tensor) == kept


def test_the_busiest_gpu_is_that_of_balls_in_bins() -> None:
    assert expected_busiest(8, 1) == 8
    assert expected_busiest(1, 8) == pytest.approx(1)
    # Two balls, two bins: together in one of four ways each.
    assert expected_busiest(2, 2) == pytest.approx(1.5)
    # Four balls in two bins: the fuller holds 2, 3 or 4 in 6, 8 and 2 of 16 ways.
    assert expected_busiest(4, 2) == pytest.approx((2 * comb(4, 2) + 3 * 8 + 4 * 2) / 16)
