"""What one GPU holds of a model's weights when engines shard it: which tensors are cut, dealt out or copied.

Sources: the layers of vLLM 0.33 (model_executor/layers/linear.py, vocab_parallel_embedding.py, fused_moe, and
models/qwen3_moe.py, deepseek_v2.py); SGLang's are of the same descent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from quietmind.model.card import ModelCard, Tensor
from quietmind.plan.split import Split, experts_each, local_heads
from quietmind.plan.weights import part_of

VOCABULARY_STEP = 64  # rows that a vocabulary is padded to (DEFAULT_VOCAB_PADDING_SIZE)
SIXTEEN_BITS = 2  # bytes; what is not quantized is loaded in the model's own type

_LAYER = re.compile(r"blk\.(\d+)\.")
# Copied to every GPU: what all of them need whole. Norms are, by their names, a part of their own.
_COPIED = ("ffn_gate_inp", "exp_probs_b", "attn_q_a.", "attn_kv_a_mqa", "rope_f", ".indexer")
_OF_KV_HEADS = ("attn_k.", "attn_v.")


@dataclass(frozen=True)
class Piece:
    """A part of the weights as one GPU holds it. ``how`` says for people which share, of how many tensors.

    ``read`` bytes of it are read for a token: all, of an embedding a row, of experts those at work on the fullest GPU.
    """

    part: str
    how: str
    bytes: int
    read: int
    tensors: int


def pieces(card: ModelCard, split: Split, layers: range, busiest: float) -> tuple[Piece, ...]:
    """Return what a GPU of the stage with ``layers`` holds, by part and by how it is shared.

    ``busiest`` is how many of a layer's whole experts one GPU reads for a token under expert parallel; cut experts are
    all read in part, whatever it is.
    """
    return _pieces(_Table(card), card.experts_used, split, layers, busiest)


class _Table:
    """A model as a cache key: compared by the identity of its tensors, of which there are a thousand and more."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def __hash__(self) -> int:
        return id(self.card.tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self.card.tensors is other.card.tensors


@lru_cache(maxsize=256)  # a plan asks for the same division at many contexts
def _pieces(table: _Table, used: int, split: Split, layers: range, busiest: float) -> tuple[Piece, ...]:
    card = table.card if table.card.experts_used == used else replace(table.card, experts_used=used)
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for tensor in card.tensors:
        if _is_here(tensor.name, card, layers):
            part, how, held, read = _share(tensor, card, split, busiest)
            found.setdefault((part, how), []).append((held, read))
    return tuple(
        Piece(part, how, sum(held for held, _ in rows), sum(read for _, read in rows), len(rows))
        for (part, how), rows in found.items()
    )


def _is_here(name: str, card: ModelCard, layers: range) -> bool:
    """Whether the stage with ``layers`` holds a tensor; the first and the last hold what stands outside the layers."""
    inside = _LAYER.match(name)
    if inside:
        return min(int(inside[1]), card.layers - 1) in layers
    first, last = layers.start == 0, layers.stop == card.layers
    if name.startswith("token_embd."):
        return first or (last and card.tied_output)
    return last if name.startswith("output") else True  # RoPE factors go everywhere


def loaded_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor in the engine's memory: norms that a file keeps in f32 are loaded in 16 bits."""
    if tensor.type == "f32" and "exp_probs_b" not in tensor.name:
        return prod(tensor.shape) * SIXTEEN_BITS
    return tensor.bytes


def _share(tensor: Tensor, card: ModelCard, split: Split, busiest: float) -> tuple[str, str, int, int]:
    """Return a tensor's part, how it is shared, and the bytes that one GPU holds and reads for a token."""
    part, size, cut = part_of(tensor.name), loaded_bytes(tensor), split.tensor
    if part in ("embeddings", "output"):
        rows = -(-card.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP
        held = size // max(1, card.vocabulary) * -(-rows // cut)
        looked_up = part == "embeddings" and not card.tied_output
        return part, _cut("rows of the vocabulary", cut), held, size // max(1, card.vocabulary) if looked_up else held
    if part == "experts":
        used = card.experts_used / max(1, card.experts)
        if split.experts == 1:
            held = -(-size // cut)
            return part, _cut("every expert", cut), held, round(held * used)
        each = experts_each(card, split)
        one = size / card.experts
        return part, f"{each} of {card.experts} experts", round(one * each), round(one * busiest)
    if part == "norms" or any(mark in tensor.name for mark in _COPIED):
        return "router" if part == "shared" else part, "a copy" if cut > 1 else "", size, size
    if any(mark in tensor.name for mark in _OF_KV_HEADS) and card.latent is None:
        heads = max(card.kv_heads)
        held = size * local_heads(heads, cut) // heads
        return part, _cut("heads", cut), held, held
    held = -(-size // cut)
    return part, _cut("heads" if part == "attention" else "columns", cut), held, held


def _cut(what: str, parts: int) -> str:
    return f"{what} cut in {parts}" if parts > 1 else ""


def expected_busiest(used: int, gpus: int) -> float:
    """Return how many of ``used`` experts of a token are expected on the GPU that gets the most, of ``gpus``.

    As balls thrown into bins: P(no bin has more than m) = used! [x^used] (sum over i up to m of x^i / i!)^gpus /
    gpus^used. Experts of one layer are distinct, which makes it a little less.
    """
    if gpus == 1:
        return float(used)
    return sum(1.0 - _at_most(most, used, gpus) for most in range(used))


def _at_most(most: int, used: int, gpus: int) -> float:
    ways = [1.0] + [0.0] * used  # after no bin: no ball is placed
    for _ in range(gpus):
        ways = list(_one_more_bin(ways, most))
    return ways[used] / float(gpus**used)


def _one_more_bin(ways: list[float], most: int) -> Iterator[float]:
    """Yield in how many ways balls can be placed with one more bin of up to ``most``: choose which come into it."""
    for placed in range(len(ways)):
        total, choices = 0.0, 1.0
        for into in range(min(most, placed) + 1):
            total += ways[placed - into] * choices
            choices = choices * (placed - into) / (into + 1)
        yield total
