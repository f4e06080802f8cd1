"""The weights of a model by what they are for: which part, in which layer, how many bytes.

Parts follow the tensor names of GGUF (gguf-py/gguf/constants.py of llama.cpp, autumn 2026), because engines place
weights by those names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from quietmind.model.card import ModelCard, Tensor

# In the order in which they are shown. "shared" is what every token passes of the feed-forward: dense layers, experts
# that all tokens visit, and the router.
PARTS = ("embeddings", "attention", "shared", "experts", "norms", "output", "other")

# llama.cpp begins every tensor of a host buffer at a multiple of this (TENSOR_ALIGNMENT in ggml/src/ggml-impl.h), and
# its account of the buffer counts the gaps.
ENGINE_ALIGNMENT = 32

_IN_LAYER = re.compile(r"blk\.(\d+)\.")
_MARKS = (
    ("_embd", "embeddings"),
    ("exps", "experts"),  # ffn_up_exps, and ffn_up_chexps of grouped experts; shared ones are _shexp
    (".attn_", "attention"),
    (".ssm_", "attention"),  # linear attention and state-space layers attend with these
    (".indexer", "attention"),
    (".ffn_", "shared"),
    (".exp_probs_b", "shared"),  # the router's bias
)


def part_of(name: str) -> str:
    """Return which of PARTS a tensor belongs to, by GGUF's names."""
    if name.startswith("output."):
        return "output"
    if "norm" in name:
        return "norms"
    return next((part for mark, part in _MARKS if mark in name), "other")


@dataclass(frozen=True)
class Group:
    """The tensors of one part in one layer; ``layer`` is None outside the layers. ``largest`` is its largest tensor.

    ``bytes`` counts the gaps before the next tensor.
    """

    part: str
    layer: int | None
    bytes: int
    largest: int
    types: tuple[tuple[str, int], ...]  # a type's name and how many tensors are of it


@dataclass(frozen=True)
class Weights:
    """Every tensor of a model, grouped. Bytes per layer, tuples with one entry a layer.

    ``dense`` is all of a layer but its routed experts; ``experts`` is 0 where a layer has none. ``embedding`` and
    ``output`` (its norm included) stand outside the layers; of a tied model the output is the embedding itself, and
    ``output`` counts the norm alone. ``common`` is what every device with layers keeps a copy of (RoPE factors).
    """

    groups: tuple[Group, ...]
    dense: tuple[int, ...]
    experts: tuple[int, ...]
    embedding: int
    embedding_rows: int
    output: int
    common: int
    tied: bool

    @property
    def total(self) -> int:
        """Bytes of all tensors and the gaps between them, each counted once."""
        return sum(group.bytes for group in self.groups)

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """The layers that have routed experts."""
        return tuple(layer for layer, size in enumerate(self.experts) if size)


def weights_of(card: ModelCard, alignment: int = 1) -> Weights:
    """Return the weights of ``card`` by part and layer, every tensor at a multiple of ``alignment`` bytes.

    A layer past the last one (a draft head) counts to the last.
    """
    found: dict[tuple[str, int | None], list[Tensor]] = {}
    for tensor in card.tensors:
        inside = _IN_LAYER.match(tensor.name)
        layer = min(int(inside[1]), card.layers - 1) if inside else None
        found.setdefault((part_of(tensor.name), layer), []).append(tensor)
    groups = tuple(_group(part, layer, tensors, alignment) for (part, layer), tensors in found.items())
    dense, experts = [0] * card.layers, [0] * card.layers
    outside = dict.fromkeys(PARTS, 0)
    for group in groups:
        if group.layer is None:
            outside[group.part] += group.bytes
        elif group.part == "experts":
            experts[group.layer] += group.bytes
        else:
            dense[group.layer] += group.bytes
    return Weights(
        groups=groups,
        dense=tuple(dense),
        experts=tuple(experts),
        embedding=outside["embeddings"],
        embedding_rows=card.vocabulary,
        output=outside["output"] + outside["norms"],
        common=sum(outside[part] for part in ("attention", "shared", "experts", "other")),
        tied=card.tied_output,
    )


def _group(part: str, layer: int | None, tensors: list[Tensor], alignment: int) -> Group:
    return Group(
        part=part,
        layer=layer,
        bytes=sum(-(-tensor.bytes // alignment) * alignment for tensor in tensors),
        largest=max(tensor.bytes for tensor in tensors),
        types=tuple(Counter(tensor.type for tensor in tensors).items()),
    )


def counted(groups: Iterable[Group]) -> str:
    """Return how many tensors there are of which type, for people: "90 tensors: 80 of q4_k, 10 of q6_k"."""
    types: Counter[str] = Counter()
    for group in groups:
        types.update(dict(group.types))
    listed = types.most_common()
    said = ", ".join(f"{count} of {name}" for name, count in listed) if len(listed) > 1 else listed[0][0]
    return f"{types.total()} tensors: {said}" if types.total() > 1 else f"1 tensor: {said}"
