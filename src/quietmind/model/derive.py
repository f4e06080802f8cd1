"""The card of a model that is not here: from its Shape and the name of a quantization, the whole table of tensors."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

from quietmind.base.errors import UsageError
from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.ggml_types import BY_NAME
from quietmind.model.gguf import DEFAULT_ALIGNMENT
from quietmind.model.hf_quant import SCHEMES, scheme_of, stored_tensors
from quietmind.model.layout import tensor_extents
from quietmind.model.recipes import RECIPES, tensor_types
from quietmind.model.shape import Shape

DEFAULT_QUANTIZATION = "Q4_K_M"
QUANTIZATIONS = (*RECIPES, *SCHEMES)


def quantization(name: str) -> str:
    """Return the name of a quantization as its makers spell it. Raises UsageError, which lists the known ones."""
    known = name.upper()
    if known not in QUANTIZATIONS:
        raise UsageError(f"{name!r} is not a quantization; known are {', '.join(QUANTIZATIONS)}")
    return known


def derive_card(shape: Shape, name: str = DEFAULT_QUANTIZATION) -> ModelCard:
    """Return the card of ``shape`` in the quantization ``name``: a recipe of llama.cpp, or GPTQ, AWQ or FP8.

    Tensors go by their GGUF names in either case. ``file_bytes`` counts all tensors, padded, and no header. ``path``
    names no file. Raises UsageError for an unknown quantization.
    """
    known = quantization(name)
    return card_of(shape, _typed(shape, tensor_extents(shape), known), known)


def requantize_card(card: ModelCard, name: str) -> ModelCard:
    """Return the card of the same model in the quantization ``name``, from the extents of the tensors that it has.

    It is derived, not exact, and no file is it. Raises UsageError for an unknown quantization.
    """
    known = quantization(name)
    rows = [(tensor.name, tensor.shape) for tensor in card.tensors]
    in_order = sorted(rows, key=lambda row: (_block_of(row[0]), row[0]))
    tensors = _typed(card, in_order, known)
    return replace(card, tensors=tensors, file_bytes=_padded(tensors), quantization=known, files=(), exact=False)


def _block_of(tensor: str) -> int:
    """Return the number of a tensor's block, by which llama.cpp orders them; -1 for those of none."""
    head, _, rest = tensor.partition(".")
    return int(rest.partition(".")[0]) if head == "blk" and rest.partition(".")[0].isdecimal() else -1


def _typed(model: Shape | ModelCard, rows: list[tuple[str, tuple[int, ...]]], known: str) -> tuple[Tensor, ...]:
    if known not in RECIPES:
        return tuple(stored_tensors(rows, SCHEMES[known]))
    return tuple(
        Tensor(tensor, extents, kind, tensor_bytes(extents, kind))
        for (tensor, extents), kind in zip(rows, tensor_types(model, rows, known), strict=True)
    )


def _padded(tensors: tuple[Tensor, ...]) -> int:
    """Return the bytes of the data of a GGUF file that holds ``tensors``."""
    return sum(-(-tensor.bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT for tensor in tensors)


def derive_stored_card(shape: Shape) -> ModelCard:
    """Return the card of ``shape`` as its configuration says that it is stored; in Q4_K_M where it does not say."""
    if shape.stored is None:
        return derive_card(shape)
    scheme = scheme_of(shape.stored)
    if scheme is None:
        return derive_card(shape, "MXFP4_MOE")
    return card_of(shape, tuple(stored_tensors(tensor_extents(shape), scheme)), scheme.type.upper())


def card_of(shape: Shape, tensors: tuple[Tensor, ...], quantization: str | None, path: Path | None = None) -> ModelCard:
    """Return the card of ``shape`` with ``tensors``; of these, blocks that only predict further tokens are left out."""
    beyond = tuple(f"blk.{shape.layers + block}." for block in range(shape.prediction_layers))
    return ModelCard(
        name=shape.name,
        path=path or Path(f"{shape.name}-{quantization}"),
        arch=shape.arch,
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=tuple(_kv_heads(shape, kind) for kind in shape.layer_kinds),
        key_length=shape.key_length,
        value_length=shape.value_length,
        feed_forward=shape.feed_forward,
        vocabulary=shape.vocabulary,
        native_context=shape.native_context,
        layer_kinds=shape.layer_kinds,
        sliding_window=shape.sliding_window,
        experts=shape.experts,
        experts_used=shape.experts_used,
        tensors=tuple(tensor for tensor in tensors if not tensor.name.startswith(beyond)) if beyond else tensors,
        file_bytes=_padded(tensors),
        expert_feed_forward=shape.expert_feed_forward,
        shared_feed_forward=shape.shared_feed_forward,
        rope=shape.rope,
        quantization=quantization,
        latent=shape.latent,
        recurrent=shape.delta.state if shape.delta else None,
        exact=False,
    )


def _kv_heads(shape: Shape, kind: LayerKind) -> int:
    """Return the heads of a layer's cache: a latent row stands for all of them, a state has none."""
    return {LayerKind.LATENT: 1, LayerKind.LINEAR: 0}.get(kind, shape.kv_heads)


def tensor_bytes(extents: tuple[int, ...], kind: str) -> int:
    """Return the bytes of a tensor of the ggml type ``kind``, whose rows are whole blocks."""
    return (
        BY_NAME[kind].row_bytes(extents[0])  # a row
        * prod(extents[1:])  # and how many there are
    )
