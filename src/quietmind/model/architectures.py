"""Which architectures are understood, and how their metadata becomes a ModelCard. Everything else is refused by name.

The keys and their defaults follow the GGUF specification (ggml/docs/gguf.md) and, for attention kinds, what llama.cpp
does with each architecture (src/models/*.cpp, autumn 2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import ModelNotUnderstood
from quietmind.base.paths import shown_path
from quietmind.model.card import Latent, LayerKind, ModelCard, Recurrent, Rope, Router, Tensor
from quietmind.model.facts import Facts
from quietmind.model.ggml_types import FILE_TYPES


@dataclass(frozen=True)
class Architecture:
    """What the metadata of an architecture leaves unsaid.

    ``head_size_from_hidden``: a missing key length means hidden size / heads. The specification defines that default,
    but the families that chose their own head size always write it, and there a missing key is damage.
    ``window_period``: every n-th layer attends in full and the others through the sliding window; None when all
    layers attend in full, even if the file names a window (llama.cpp ignores it for these).
    ``latent``: a file may keep one compressed row for all heads. ``recurrent``: layers may carry a fixed state instead
    of a cache, all but every n-th where the file does not say which. ``gated``: queries come with a gate as wide as
    they are. ``predicts``: the file may end in blocks that predict further tokens; the engine does not load them.
    """

    head_size_from_hidden: bool = True
    window_period: int | None = None
    window: int | None = None  # the window where the file names none
    latent: bool = False
    recurrent: bool = False
    gated: bool = False
    predicts: bool = False


_HYBRID = Architecture(head_size_from_hidden=False, recurrent=True, gated=True, predicts=True)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),  # and Mistral, Mixtral, Yi, SmolLM: their conversions carry this name
    "mistral3": Architecture(head_size_from_hidden=False),
    "qwen2": Architecture(),
    "qwen2moe": Architecture(),
    "qwen3": Architecture(head_size_from_hidden=False),
    "qwen3moe": Architecture(head_size_from_hidden=False),
    "qwen3next": _HYBRID,
    "qwen35": _HYBRID,
    "qwen35moe": _HYBRID,
    "gemma": Architecture(head_size_from_hidden=False),
    "gemma2": Architecture(head_size_from_hidden=False, window_period=2, window=4096),
    "gemma3": Architecture(head_size_from_hidden=False, window_period=6),
    "gpt-oss": Architecture(head_size_from_hidden=False, window_period=2),
    "phi3": Architecture(),  # its window is switched off in llama.cpp
    "deepseek2": Architecture(head_size_from_hidden=False, latent=True, predicts=True),  # V2, V2.5, V3, R1, Kimi K2
    "glm4": Architecture(predicts=True),
    "glm4moe": Architecture(head_size_from_hidden=False, predicts=True),
}

FULL_ATTENTION_INTERVAL = 4  # of hybrid models whose file does not say it

_BLOCK = re.compile(r"blk\.(\d+)\.")


def card_from(
    metadata: Mapping[str, object], tensors: tuple[Tensor, ...], files: tuple[Path, ...], file_bytes: int
) -> ModelCard:
    """Return the card of a model with this metadata and these tensors.

    Blocks that predict further tokens (``nextn_predict_layers``) are left out of the card's layers and tensors: the
    engine does not load them. ``file_bytes`` counts them.

    Raises ModelNotUnderstood for an architecture that is not in ARCHITECTURES, ModelFileDamaged where a key is
    missing, makes no sense, or contradicts the tensors.
    """
    facts = Facts(metadata, files[0])
    arch, traits = _architecture(facts, files[0])
    blocks, layers = _blocks(facts, arch, traits, len(tensors))
    tensors = tuple(tensor for tensor in tensors if _layer_of(tensor.name) < layers)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    hidden = facts.count(f"{arch}.embedding_length")
    heads = facts.per_layer(f"{arch}.attention.head_count", blocks)[:layers]
    if len(set(heads)) != 1 or heads[0] == 0:
        raise ModelNotUnderstood(f"{shown_path(files[0])}: its layers have different numbers of query heads")
    latent = _latent(facts, arch, shapes) if traits.latent else None
    key_length, value_length = _head_sizes(facts, arch, traits, hidden, heads[0], latent)
    window, kinds = _kinds(facts, arch, traits, blocks, latent)
    kv_heads = facts.per_layer(f"{arch}.attention.head_count_kv", blocks, default=heads[0])
    experts = facts.count(f"{arch}.expert_count", default=0)
    card = ModelCard(
        name=facts.text("general.name") or files[0].stem,
        path=files[0],
        arch=arch,
        layers=layers,
        hidden=hidden,
        heads=heads[0],
        kv_heads=_kept_heads(kinds[:layers], kv_heads),
        key_length=key_length,
        value_length=value_length,
        feed_forward=max(facts.per_layer(f"{arch}.feed_forward_length", blocks, default=0 if experts else None)),
        vocabulary=_vocabulary(facts, shapes, hidden),
        native_context=facts.count(f"{arch}.context_length"),
        layer_kinds=kinds[:layers],
        sliding_window=window,
        experts=experts,
        experts_used=facts.count(f"{arch}.expert_used_count", default=None if experts else 0),
        tensors=tensors,
        file_bytes=file_bytes,
        # The down projection: newer conversions may join gate and up into one tensor.
        expert_feed_forward=_width(shapes, "ffn_down_exps", 0),
        shared_feed_forward=_width(shapes, "ffn_down_shexp", 0),
        rope=_rope(facts, arch, key_length),
        quantization=_quantization(facts, tensors),
        tokenizer=facts.text("tokenizer.ggml.model"),
        chat_template=facts.text("tokenizer.chat_template"),
        files=files,
        latent=latent,
        recurrent=_recurrent(facts, arch) if LayerKind.LINEAR in kinds else None,
        router=_router(facts, arch) if experts else None,
        scaled_queries=facts.number(f"{arch}.attention.temperature_scale", 0.0) != 0.0,
    )
    _refuse_contradictions(card, shapes, facts)
    return card


def _architecture(facts: Facts, file: Path) -> tuple[str, Architecture]:
    arch = facts.text("general.architecture")
    if arch is None:
        raise facts.damaged("names no architecture (general.architecture); it is not a language model's file")
    traits = ARCHITECTURES.get(arch)
    if traits is None:
        shown = arch if arch.isprintable() and len(arch) <= 64 else ascii(arch[:64])
        raise ModelNotUnderstood(
            f"{shown_path(file)}: the architecture {shown} is not understood yet; "
            f"understood are {', '.join(sorted(ARCHITECTURES))}"
        )
    return arch, traits


def _blocks(facts: Facts, arch: str, traits: Architecture, tensors: int) -> tuple[int, int]:
    """Return the number of blocks in the file, and of those that are layers of the model."""
    blocks = facts.count(f"{arch}.block_count")
    if blocks > tensors:  # before anything is made that has one entry a layer
        raise facts.damaged(f"promises {blocks:,} layers but holds {tensors:,} tensors; fetch it again")
    layers = blocks - (facts.count(f"{arch}.nextn_predict_layers", default=0) if traits.predicts else 0)
    if layers < 1:
        raise facts.damaged(f"promises {blocks:,} layers, all of them for predicting further tokens; fetch it again")
    return blocks, layers


def _vocabulary(facts: Facts, shapes: Mapping[str, tuple[int, ...]], hidden: int) -> int:
    """Return how many tokens the embedding has rows for."""
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2 or embedding[0] != hidden:
        raise facts.damaged(f"holds no token_embd.weight of width {hidden:,}; fetch it again")
    return embedding[1]


def _layer_of(name: str) -> int:
    """Return the number of the block that a tensor belongs to, -1 where it belongs to none."""
    match = _BLOCK.match(name)
    return -1 if match is None else int(match[1])


def _kept_heads(kinds: tuple[LayerKind, ...], kv_heads: Sequence[int]) -> tuple[int, ...]:
    """Return the KV heads of each layer: one that keeps a state instead of K and V has none to keep."""
    return tuple(0 if kind is LayerKind.LINEAR else count for kind, count in zip(kinds, kv_heads, strict=False))


def _head_sizes(
    facts: Facts, arch: str, traits: Architecture, hidden: int, heads: int, latent: Latent | None
) -> tuple[int, int]:
    """Return the lengths of a head's K and V; with latent attention, of what a head unpacks from the shared row."""
    if latent is not None:
        return facts.count(f"{arch}.attention.key_length_mla"), facts.count(f"{arch}.attention.value_length_mla")
    default = None
    if traits.head_size_from_hidden and hidden % heads == 0:
        default = hidden // heads
    return (
        facts.count(f"{arch}.attention.key_length", default=default),
        facts.count(f"{arch}.attention.value_length", default=default),
    )


def _latent(facts: Facts, arch: str, shapes: Mapping[str, tuple[int, ...]]) -> Latent | None:
    """Return the compressed row, None for old conversions (before spring 2025), whose cache holds every head."""
    if f"{arch}.attention.key_length_mla" not in facts:
        return None
    compressed = "blk.0.attn_q_a.weight" in shapes  # llama.cpp ignores the rank where the tensor is missing (V2 Lite)
    return Latent(
        kv_rank=facts.count(f"{arch}.attention.kv_lora_rank"),
        rope_length=facts.count(f"{arch}.rope.dimension_count"),
        query_rank=facts.count(f"{arch}.attention.q_lora_rank") if compressed else 0,
    )


def _router(facts: Facts, arch: str) -> Router:
    """Return how experts are chosen, with the engine's defaults for keys that files leave out."""
    return Router(
        normalized=facts.get(f"{arch}.expert_weights_norm") is True,
        scale=facts.number(f"{arch}.expert_weights_scale", 0.0),
        groups=facts.count(f"{arch}.expert_group_count", default=0),
        groups_used=facts.count(f"{arch}.expert_group_used_count", default=0),
    )


def _recurrent(facts: Facts, arch: str) -> Recurrent:
    """Return the state of a gated delta net layer (llama_hparams::n_embd_s and n_embd_r of llama.cpp)."""
    inner = facts.count(f"{arch}.ssm.inner_size")
    state = facts.count(f"{arch}.ssm.state_size")
    channels = (
        inner  # values
        + 2  # queries and keys
        * facts.count(f"{arch}.ssm.group_count")  # heads of them
        * state  # each as long as the state is wide
    )
    return Recurrent(
        state_elements=state * inner,
        convolution_elements=(facts.count(f"{arch}.ssm.conv_kernel") - 1) * channels,
    )


def _kinds(
    facts: Facts, arch: str, traits: Architecture, blocks: int, latent: Latent | None
) -> tuple[int | None, tuple[LayerKind, ...]]:
    """Return the sliding window in tokens (None: there is none) and how each block attends."""
    if latent is not None:
        return None, (LayerKind.LATENT,) * blocks
    if traits.recurrent:
        interval = facts.count(f"{arch}.full_attention_interval", default=FULL_ATTENTION_INTERVAL)
        linear = _flags(facts, f"{arch}.attention.recurrent_layers", blocks) or tuple(
            (block + 1) % (interval or 1) != 0 for block in range(blocks)
        )
        return None, tuple(LayerKind.LINEAR if flag else LayerKind.FULL for flag in linear)
    window = None
    if traits.window_period is not None:
        window = facts.count(f"{arch}.attention.sliding_window", default=traits.window or 0) or None
    if window is None or traits.window_period is None:
        return None, (LayerKind.FULL,) * blocks
    key = f"{arch}.attention.sliding_window_pattern"
    slides = _flags(facts, key, blocks)
    if slides is None:
        period = facts.count(key, default=traits.window_period) or traits.window_period
        slides = tuple(block % period < period - 1 for block in range(blocks))
    return window, tuple(LayerKind.SLIDING if flag else LayerKind.FULL for flag in slides)


def _flags(facts: Facts, key: str, blocks: int) -> tuple[bool, ...] | None:
    """Return one yes or no for each block, None where ``key`` holds no array."""
    pattern = facts.get(key)
    if not isinstance(pattern, tuple):
        return None
    if len(pattern) != blocks or not all(isinstance(flag, bool) for flag in pattern):
        raise facts.damaged(f"{key} does not say yes or no of each of {blocks} layers; fetch it again")
    return tuple(bool(flag) for flag in pattern)


def _rope(facts: Facts, arch: str, key_length: int) -> Rope:
    scaling = facts.text(f"{arch}.rope.scaling.type")
    return Rope(
        base=facts.number(f"{arch}.rope.freq_base", 10000.0),
        dimensions=facts.count(f"{arch}.rope.dimension_count", default=key_length),
        scaling=None if scaling == "none" else scaling,
        factor=facts.number(f"{arch}.rope.scaling.factor", 0.0) or None,
        original_context=facts.count(f"{arch}.rope.scaling.original_context_length", default=0) or None,
    )


def _quantization(facts: Facts, tensors: tuple[Tensor, ...]) -> str:
    """Return the recipe's name, or the type that most bytes are of where the file does not name a known recipe."""
    named = FILE_TYPES.get(facts.count("general.file_type", default=-1))
    if named is not None:
        return named
    totals: dict[str, int] = {}
    for tensor in tensors:
        totals[tensor.type] = totals.get(tensor.type, 0) + tensor.bytes
    return max(totals, key=lambda kind: totals[kind]).upper()


def _width(shapes: Mapping[str, tuple[int, ...]], part: str, dimension: int) -> int:
    """Return an extent of the first layer's tensor of that part, 0 where no layer has one."""
    for name, shape in shapes.items():
        if name.startswith("blk.") and name.endswith(f".{part}.weight") and len(shape) > dimension:
            return shape[dimension]
    return 0


def _refuse_contradictions(card: ModelCard, shapes: Mapping[str, tuple[int, ...]], facts: Facts) -> None:
    """Compare what the metadata says with what the tensors are, for every number that a plan multiplies by."""
    for layer, kv_heads in enumerate(card.kv_heads):
        if kv_heads > card.heads:
            raise facts.damaged(f"layer {layer} has more KV heads ({kv_heads:,}) than heads ({card.heads:,})")
        expected = _rows(card, layer, facts)
        found = [name for name in expected if f"blk.{layer}.{name}.weight" in shapes]
        if not found and (kv_heads or card.layer_kinds[layer] is LayerKind.LINEAR):
            raise facts.damaged(f"layer {layer} of {card.layers} has no attention tensors; fetch it again")
        for name in found:
            shape = shapes[f"blk.{layer}.{name}.weight"]
            if len(shape) != 2 or shape[1] != expected[name]:
                raise facts.damaged(
                    f"tensor blk.{layer}.{name}.weight has {shape[-1]:,} rows where the metadata asks for "
                    f"{expected[name]:,}; fetch it again"
                )
    if card.experts and not 0 < card.experts_used <= card.experts:
        raise facts.damaged(f"uses {card.experts_used:,} of {card.experts:,} experts; fetch it again")
    if card.experts and _width(shapes, "ffn_down_exps", 2) != card.experts:
        raise facts.damaged(f"promises {card.experts:,} experts that its tensors do not hold; fetch it again")


def _rows(card: ModelCard, layer: int, facts: Facts) -> dict[str, int]:
    """Return how many rows each attention tensor of a layer has, by the metadata; most names are in few files."""
    queries, kv_heads = card.heads * card.key_length, card.kv_heads[layer]
    if card.layer_kinds[layer] is LayerKind.LINEAR:
        inner = facts.count(f"{card.arch}.ssm.inner_size")
        keys = 2 * facts.count(f"{card.arch}.ssm.group_count") * facts.count(f"{card.arch}.ssm.state_size")
        return {"attn_qkv": keys + inner, "attn_gate": inner, "ssm_in": keys + 2 * inner}
    if card.latent is not None:
        return {
            "attn_q": queries,
            "attn_q_b": queries,
            "attn_kv_a_mqa": card.latent.kv_rank + card.latent.rope_length,
        }
    if ARCHITECTURES[card.arch].latent:
        rope = facts.count(f"{card.arch}.rope.dimension_count")  # not in this tensor: it is the same for every head
        return {
            "attn_q": queries,
            "attn_q_b": queries,
            "attn_kv_b": kv_heads * (card.key_length - rope + card.value_length),
        }
    return {
        "attn_q": queries * (2 if ARCHITECTURES[card.arch].gated else 1),
        "attn_k": kv_heads * card.key_length,
        "attn_v": kv_heads * card.value_length,
        "attn_qkv": queries + kv_heads * (card.key_length + card.value_length),
    }
