"""What devices read and multiply, checked against counts done by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.model.card import Latent, LayerKind, ModelCard, Recurrent, Tensor
from quietmind.model.ggml_types import BY_NAME
from quietmind.plan.placement import DISK, Placement, everything_on
from quietmind.plan.traffic import UPLOAD_FROM_TOKENS, Traffic, distinct_experts, prefill_traffic, traffic

Card = Callable[..., ModelCard]
EXPERTS = 64


def tensor(name: str, kind: str, *shape: int) -> Tensor:
    rows = 1
    for extent in shape[1:]:
        rows *= extent
    return Tensor(name, shape, kind, BY_NAME[kind].row_bytes(shape[0]) * rows)


def mixture(card_of: Card, layers: int = 4, used: int = 8, kind: str = "q8_0") -> ModelCard:
    """A mixture of 64 experts of 512; every matrix in ``kind``, so that one element takes the same everywhere."""
    tensors = [tensor("token_embd.weight", kind, 1024, 1000), tensor("output.weight", kind, 1024, 1000)]
    for layer in range(layers):
        tensors += [
            tensor(f"blk.{layer}.attn_q.weight", kind, 1024, 2048),
            tensor(f"blk.{layer}.ffn_gate_exps.weight", kind, 1024, 512, EXPERTS),
            tensor(f"blk.{layer}.ffn_up_exps.weight", kind, 1024, 512, EXPERTS),
            tensor(f"blk.{layer}.ffn_down_exps.weight", kind, 512, 1024, EXPERTS),
        ]
    return card_of(tensors=tuple(tensors), layers=layers, experts=EXPERTS, experts_used=used, expert_feed_forward=512)


def split(layers: int = 4, experts: str = "cpu") -> Placement:
    """Everything on the GPU but the experts and the embedding."""
    gpu = ("cuda0",) * layers
    return Placement(dense=gpu, experts=(experts,) * layers, kv=gpu, embedding="cpu", output="cuda0")


def test_decoding_reads_every_weight_of_a_dense_model_once(card_of: Card) -> None:
    card = card_of()
    (done,) = traffic(card, everything_on("cpu", 4), kv_type="f16", depth=0).values()
    row = BY_NAME["q8_0"].row_bytes(1024)
    assert done.component("dense") + done.component("output") == card.weight_bytes  # the tied output is the embedding
    assert done.component("embedding") == row
    assert done.component("kv") == 4 * 8 * (128 + 128) * 2  # the token itself: layers, heads, K and V, f16


def test_the_cache_is_read_whole_for_every_token(card_of: Card) -> None:
    (done,) = traffic(card_of(), everything_on("cpu", 4), kv_type="q8_0", depth=9_999).values()
    assert done.component("kv") == pytest.approx(
        4  # layers
        * 10_000  # tokens, the new one too
        * 8  # heads
        * (128 + 128)  # K and V
        * 34
        / 32  # bytes of q8_0
    )


def test_flops_are_two_for_each_weight_and_for_each_value_of_the_cache(card_of: Card) -> None:
    (done,) = traffic(card_of(), everything_on("cpu", 4), kv_type="f16", depth=999).values()
    layer = 1024 * 2048 + 2 * 1024 * 3072
    attention = 1000 * 16 * (128 + 128)  # every query head, though K and V are shared
    assert done.flops == 2 * (4 * (layer + attention) + 1024 * 1000 + 1024)


def test_of_the_experts_a_token_reads_its_share(card_of: Card) -> None:
    card = mixture(card_of)
    held = sum(each.bytes for each in card.tensors if "_exps" in each.name)
    for used in (1, 8, 16, EXPERTS):
        done = traffic(card, split(), kv_type="f16", depth=0, experts_used=used)
        assert done["cpu"].component("experts") == pytest.approx(held * used / EXPERTS)
        assert done["cuda0"].component("experts") == 0


@given(st.integers(1, 512), st.data())
def test_distinct_experts_lie_between_those_of_one_token_and_all(experts: int, data: st.DataObject) -> None:
    used = data.draw(st.integers(1, experts))
    tokens = data.draw(st.integers(1, 5000))
    touched = distinct_experts(experts, used, tokens)
    assert used - 1e-6 <= touched <= experts
    assert touched <= distinct_experts(experts, used, tokens + 1) + 1e-9
    assert distinct_experts(experts, used, 1) == pytest.approx(used)


def test_a_prefill_brings_the_touched_experts_to_the_gpu_and_multiplies_there(card_of: Card) -> None:
    card = mixture(card_of)
    held = sum(each.bytes for each in card.tensors if "_exps" in each.name)
    done = prefill_traffic(card, split(), kv_type="f16", depth=0, micro_batch=64)
    assert done["cuda0"].uploaded_bytes == pytest.approx(held * distinct_experts(EXPERTS, 8, 64) / EXPERTS)
    assert products(done["cuda0"], "experts") == pytest.approx(64 * 4 * 3 * 1024 * 512 * 8)
    assert products(done["cpu"], "experts") == 0
    assert done["cpu"].handovers == 0


def test_a_small_batch_and_an_engine_that_is_told_so_leave_the_experts_where_they_are(card_of: Card) -> None:
    card = mixture(card_of)
    small = prefill_traffic(card, split(), kv_type="f16", depth=0, micro_batch=UPLOAD_FROM_TOKENS - 1)
    told = prefill_traffic(card, split(), kv_type="f16", depth=0, micro_batch=512, uploads=False)
    for done in (small, told):
        assert done["cuda0"].uploaded_bytes == 0
        assert products(done["cpu"], "experts") > 0
        assert done["cpu"].handovers == 4


def test_experts_on_the_disk_are_read_from_it_and_multiplied_elsewhere(card_of: Card) -> None:
    done = prefill_traffic(mixture(card_of), split(experts=DISK), kv_type="f16", depth=0, micro_batch=64)
    assert done[DISK].component("experts") == done["cuda0"].uploaded_bytes
    assert products(done[DISK], "experts") == 0


def test_a_sliding_window_bounds_what_is_read(card_of: Card) -> None:
    card = card_of(layer_kinds=(LayerKind.SLIDING, LayerKind.FULL) * 2, sliding_window=1024)
    near, far = (
        traffic(card, everything_on("cpu", 4), kv_type="f16", depth=depth)["cpu"].component("kv")
        for depth in (10_000, 20_000)
    )
    assert far - near == 2 * 10_000 * 8 * 256 * 2  # only the two layers that attend in full grow


def test_a_prefill_multiplies_the_whole_of_a_window_and_its_batch(card_of: Card) -> None:
    card = card_of(layer_kinds=(LayerKind.SLIDING,) * 4, sliding_window=1024)
    done = prefill_traffic(card, everything_on("cpu", 4), kv_type="f16", depth=10_000, micro_batch=512)["cpu"]
    cells = 1024 + 511  # what lies outside a token's own window is masked, not left out
    assert products(done, "kv") == 4 * 512 * cells * 16 * (128 + 128)
    assert {part.head for part in done.parts if part.component == "kv"} == {128}


def test_an_expert_multiplies_the_tokens_that_chose_it(card_of: Card) -> None:
    on_gpu = everything_on("cuda0", 4, frozenset(range(4)))
    done = prefill_traffic(mixture(card_of), on_gpu, kv_type="f16", depth=0, micro_batch=512)["cuda0"]
    rows = {part.component: part.rows for part in done.parts}
    assert rows["dense"] == 512
    assert rows["experts"] == pytest.approx(512 * 8 / distinct_experts(EXPERTS, 8, 512))
    one = traffic(mixture(card_of), on_gpu, kv_type="f16", depth=0)["cuda0"]
    assert {part.rows for part in one.parts if part.component == "experts"} == {1.0}


def test_layers_are_counted_where_their_parts_are_computed(card_of: Card) -> None:
    card = mixture(card_of)
    decoding = traffic(card, split(), kv_type="f16", depth=0)
    assert (decoding["cuda0"].layers, decoding["cuda0"].mixtures) == (4, 0)
    assert (decoding["cpu"].layers, decoding["cpu"].mixtures, decoding["cpu"].handovers) == (0, 4, 4)
    prefilling = prefill_traffic(card, split(), kv_type="f16", depth=0, micro_batch=512)
    assert (prefilling["cuda0"].mixtures, prefilling["cpu"].handovers) == (4, 0)  # brought there
    recurrent = card_of(layer_kinds=(LayerKind.LINEAR, LayerKind.FULL) * 2, recurrent=Recurrent(8, 8))
    assert traffic(recurrent, everything_on("cpu", 4), kv_type="f16", depth=0)["cpu"].recurrent == 2


def test_a_recurrent_state_costs_the_same_at_any_depth(card_of: Card) -> None:
    card = card_of(layer_kinds=(LayerKind.LINEAR,) * 4, recurrent=Recurrent(1 << 19, 1 << 13))
    reads = {
        traffic(card, everything_on("cpu", 4), kv_type="f16", depth=depth)["cpu"].component("kv")
        for depth in (0, 100_000)
    }
    assert reads == {4 * ((1 << 19) + (1 << 13)) * 4 * 2}  # layers, elements, f32, read and written


def test_latent_attention_reads_one_row_for_all_heads(card_of: Card) -> None:
    card = card_of(layer_kinds=(LayerKind.LATENT,) * 4, latent=Latent(512, 64))
    done = traffic(card, everything_on("cpu", 4), kv_type="f16", depth=999)["cpu"]
    assert done.component("kv") == 4 * 1000 * (512 + 64) * 2
    assert products(done, "kv") == 4 * 1000 * 16 * (512 + 64 + 512)


def test_more_experts_than_there_are_and_unknown_kv_types_are_refused(card_of: Card) -> None:
    with pytest.raises(UsageError, match="64 experts"):
        traffic(mixture(card_of), split(), kv_type="f16", depth=0, experts_used=65)
    with pytest.raises(UsageError, match="q9_9"):
        traffic(card_of(path=Path("x")), everything_on("cpu", 4), kv_type="q9_9", depth=0)


def products(done: Traffic, component: str) -> float:
    return sum(part.products for part in done.parts if part.component == component)
