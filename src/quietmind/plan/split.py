"""How a model can be divided over equal GPUs: the sizes that vLLM and SGLang accept for it.

Tensor parallel cuts every matrix; pipeline parallel deals out layers; expert parallel deals out whole experts where
tensor parallel would cut each; decode context parallel deals out the tokens of a KV cache whose heads are fewer than
the GPUs, and would otherwise be copied. Sources: config/model.py (verify_with_parallel_config), config/parallel.py and
distributed/utils.py (get_pp_indices) of vLLM 0.33; arg_groups/parallel_hook.py of SGLang 0.5.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quietmind.model.card import LayerKind, ModelCard

# Matrix kernels of quantized weights multiply tiles of so many columns (Marlin: GPTQ_MARLIN_MIN_THREAD_N).
_TILE = 64
_FP8_BLOCK = re.compile(r"fp8_(\d+)x(\d+)")
_GROUP = re.compile(r"(?:gptq|awq)_int\d+(?:_g(\d+))?$")

_UNSHARDED = frozenset({LayerKind.SLIDING, LayerKind.LINEAR})  # caches whose tokens are not dealt out over GPUs


@dataclass(frozen=True)
class Split:
    """``tensor`` GPUs share every layer, ``pipeline`` such groups follow one another, over ``nodes`` equal machines.

    ``experts`` GPUs deal out whole experts (1: every expert is cut as other matrices are); ``context`` GPUs deal out
    the tokens of the cache (1: every GPU keeps all tokens of its heads).
    """

    tensor: int = 1
    pipeline: int = 1
    experts: int = 1
    context: int = 1
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """All GPUs, of all nodes."""
        return self.tensor * self.pipeline

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node."""
        return self.gpus // self.nodes

    def __str__(self) -> str:
        said = [f"tensor parallel {self.tensor}"]
        said += [f"expert parallel {self.experts}"] if self.experts > 1 else []
        said += [f"the cache's tokens over {self.context}"] if self.context > 1 else []
        said += [f"pipeline parallel {self.pipeline}"] if self.pipeline > 1 else []
        said += [f"{self.nodes} nodes of {self.gpus_per_node} GPUs"] if self.nodes > 1 else []
        return ", ".join(said)


def splits(card: ModelCard, gpus: int, nodes: int = 1, *, sharded_context: bool = True) -> Iterator[Split]:
    """Yield the divisions of ``card`` over up to ``gpus`` GPUs of each of ``nodes``, the fewest GPUs first.

    Every node is used. ``sharded_context``: whether the engine deals out the tokens of a cache of few heads.
    """
    found = []
    for tensor in _powers(gpus):
        if not _divides_attention(card, tensor):
            continue
        experts = _expert_ranks(card, tensor)
        if experts is None:
            continue
        for pipeline in _powers(gpus * nodes // tensor):
            if pipeline % nodes or pipeline > card.layers or tensor * pipeline // nodes > gpus:
                continue
            found.append(Split(tensor, pipeline, experts, 1, nodes))
            shards = _context_shards(card, tensor) if sharded_context else 1
            if shards > 1:
                found.append(Split(tensor, pipeline, experts, shards, nodes))
    yield from sorted(found, key=lambda split: (split.gpus, split.pipeline, split.context))


def stages(layers: int, pipeline: int) -> tuple[range, ...]:
    """Return the layers of each stage of a pipeline, as both engines deal them out.

    Layers beyond an even division go to the stages before the last, which holds the output.
    """
    counts = [layers // pipeline] * pipeline
    for behind in range(2, layers % pipeline + 2):
        counts[-behind] += 1
    ends = [sum(counts[: number + 1]) for number in range(pipeline)]
    return tuple(range(end - count, end) for end, count in zip(ends, counts, strict=True))


def local_heads(kv_heads: int, tensor: int) -> int:
    """Return the KV heads that each of ``tensor`` GPUs keeps: a share of them, and at least one, a copy."""
    return max(1, kv_heads // tensor) if kv_heads else 0


def experts_each(card: ModelCard, split: Split) -> int:
    """Return how many whole experts the fullest GPU holds under expert parallel; all of them (each cut) without."""
    return -(-card.experts // split.experts)


def _powers(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2


def _divides_attention(card: ModelCard, tensor: int) -> bool:
    """Whether heads, and the widths of quantized matrices, can be cut into ``tensor`` parts."""
    if tensor == 1:
        return True
    if card.heads % tensor or (card.recurrent is not None and card.recurrent.state_elements % tensor):
        return False
    heads = {heads for heads in card.kv_heads if heads and card.latent is None}
    if any(count % tensor and tensor % count for count in heads):
        return False
    inputs = {card.heads * card.value_length // tensor}
    outputs = {
        card.heads * card.key_length // tensor,
        *(local_heads(count, tensor) * card.key_length for count in heads),
    }
    for width in (card.feed_forward, card.shared_feed_forward):
        if width:
            if width % tensor:
                return False
            inputs.add(width // tensor)
            outputs.add(width // tensor)
    dense = {tensor.type for tensor in card.tensors if "_exps" not in tensor.name}
    return all(_whole(kind, inputs, outputs) for kind in dense)


def _expert_ranks(card: ModelCard, tensor: int) -> int | None:
    """Return 1 where experts can be cut, ``tensor`` where they must be dealt out whole, None where neither goes."""
    if not card.experts or tensor == 1:
        return 1
    width = card.expert_feed_forward
    kinds = {each.type for each in card.tensors if "_exps" in each.name}
    if width and width % tensor == 0 and all(_whole(kind, {width // tensor}, {width // tensor}) for kind in kinds):
        return 1
    return tensor if card.experts % tensor == 0 else None


def _whole(kind: str, inputs: set[int], outputs: set[int]) -> bool:
    """Whether matrices of a quantized type, cut to these inputs and outputs, keep whole blocks of their scales."""
    block = _FP8_BLOCK.match(kind)
    if block:
        rows, columns = int(block[1]), int(block[2])
        return not any(width % columns for width in inputs) and not any(width % rows for width in outputs)
    group = _GROUP.match(kind)
    if group:
        size = int(group[1] or 1)
        return not any(width % size for width in inputs) and not any(width % _TILE for width in outputs)
    return True


def _context_shards(card: ModelCard, tensor: int) -> int:
    """Return over how many GPUs the tokens of the cache can be dealt out: as many as would keep copies of its heads."""
    if _UNSHARDED.intersection(card.layer_kinds) or not any(card.kv_heads):
        return 1
    heads = max(card.kv_heads)
    shards = tensor // heads if tensor > heads else 1
    return shards if (card.heads // heads) % shards == 0 else 1
