"""From the words that people write of a model and its quantization to a card."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

from header_only import SHAPES, Shape

from quietmind.base.errors import QuietmindError
from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.config import shape_of
from quietmind.model.derive import derive_card
from quietmind.model.ggml_types import BY_NAME
from quietmind.model.open import open_card

_CONFIGURATIONS = Path(__file__).parent / "published_models.toml"

# Types of ik_llama.cpp that GGUF proper lacks: bits a weight (ggml/include/ggml.h and the block structs of that fork).
IK_BITS = {
    "iq2_k": 2.375,
    "iq3_k": 3.4375,
    "iq4_k": 4.5,
    "iq5_k": 5.5,
    "iq6_k": 6.625,
    "iq4_ks": 4.25,
    "iq4_kss": 4.0,
}

# Recipes as published beside the runs: type of what every token reads, of the experts' gate and up, and of their down.
RECIPES = {
    "IQ3_K": ("q8_0", "iq3_k", "iq4_k"),
    "IQ2_K": ("q8_0", "iq2_k", "iq3_k"),
    "IQ4_K": ("q8_0", "iq4_k", "iq5_k"),
    "IQ6_K": ("q8_0", "iq6_k", "iq6_k"),
}

# Models that differ in their weights' values, or in the contexts trained, but not in shape.
SAME_SHAPE = {
    "llama-7b": "llama-2-7b",
    "llama-3-8b": "llama-3.1-8b",
    "llama-3-70b": "llama-3.1-70b",
    "llama-3.3-70b": "llama-3.1-70b",
    "mistral-7b": "mistral-7b-v0.3",
    "tinyllama": "tinyllama-1.1b",
    "qwen3-coder-next": "qwen3-next-80b-a3b",
    "qwen3-next": "qwen3-next-80b-a3b",
    "qwen3.6-35b-a3b": "qwen3.5-35b-a3b",
    "qwen3.6-27b": "qwen3.5-27b",
    "qwen3.8-27b": "qwen3.5-27b",
    "deepseek-coder-v2-lite": "deepseek-v2-lite",
}
_NO_PART_OF_THE_NAME = re.compile(r"-(?:instruct|thinking|chat|it|gguf|128k|hf|base)\b|-v?0?\d{4}(?=-|$)")


@cache
def card_named(model: str, quantization: str) -> ModelCard:
    """Return the card of a published model in a published quantization. Raises ValueError where one is not known."""
    if not quantization.strip():
        raise ValueError("it states no quantization")
    names = _names(model)
    if quantization.upper() in RECIPES or quantization.lower() in IK_BITS:
        return _by_ik_llama(names, quantization)
    wanted = _recipe(quantization)
    for name in names:
        try:
            return open_card(name, wanted)
        except QuietmindError as error:
            if "is not a quantization" in str(error):
                raise ValueError("no such quantization is known") from error
    configurations = _configurations()
    for name in names:
        if name in configurations:
            shape = shape_of(configurations[name], name, _CONFIGURATIONS)
            return derive_card(shape, wanted)
    raise ValueError("no such model is known")


def _names(model: str) -> list[str]:
    """Return under what names a model may be known, the exact one first."""
    name = re.sub(r"[\s_]+", "-", model.strip().casefold())
    plain = _NO_PART_OF_THE_NAME.sub("", name)
    found = [name, plain, plain.replace("-coder", ""), SAME_SHAPE.get(name, ""), SAME_SHAPE.get(plain, "")]
    return [each for each in dict.fromkeys(found) if each]


def _recipe(quantization: str) -> str:
    """Return the recipe of llama.cpp that a name means: dynamic ones are within some percent of the plain ones."""
    name = quantization.strip().upper().removeprefix("UD-")
    name = re.sub(r"^(Q\dK?_K)(?:_XL| - MEDIUM|)$", r"\1_M", name.replace("Q6_K_XL", "Q6_K").replace("Q8_K_XL", "Q8_0"))
    return {"MXFP4": "MXFP4_MOE", "FP16": "F16", "Q6_K_M": "Q6_K", "Q2_K_M": "Q2_K"}.get(name, name)


@cache
def _configurations() -> dict[str, dict[str, object]]:
    entries = tomllib.loads(_CONFIGURATIONS.read_text(encoding="utf-8"))
    return {name.casefold(): configuration for name, configuration in entries.items()}


def _by_ik_llama(names: list[str], quantization: str) -> ModelCard:
    shape = next((shape for shape in SHAPES if shape.name.casefold() in names), None)
    if shape is None:
        raise ValueError("no such model is known in a quantization of ik_llama.cpp")
    plain = quantization.lower()
    dense, gate, down = RECIPES.get(quantization.upper(), (plain, plain, plain))
    return card_of(shape, dense, gate, down)


def card_of(shape: Shape, dense: str, gate: str, down: str) -> ModelCard:
    """Return the card of a public shape (like Qwen3) with these types: dense parts, experts' gate and up, and down."""
    queries, keys, hidden = shape.heads * shape.head, shape.kv_heads * shape.head, shape.hidden
    layer = [
        _tensor("attn_q", dense, hidden, queries),
        _tensor("attn_k", dense, hidden, keys),
        _tensor("attn_v", dense, hidden, keys),
        _tensor("attn_output", dense, queries, hidden),
    ]
    if shape.experts:
        layer += [
            _tensor("ffn_gate_inp", "f32", hidden, shape.experts),
            _tensor("ffn_gate_exps", gate, hidden, shape.feed_forward, shape.experts),
            _tensor("ffn_up_exps", gate, hidden, shape.feed_forward, shape.experts),
            _tensor("ffn_down_exps", down, shape.feed_forward, hidden, shape.experts),
        ]
    else:
        layer += [
            _tensor("ffn_gate", gate, hidden, shape.feed_forward),
            _tensor("ffn_up", gate, hidden, shape.feed_forward),
            _tensor("ffn_down", down, shape.feed_forward, hidden),
        ]
    tensors = [_tensor("token_embd", dense, hidden, shape.vocabulary)]
    if not shape.tied:
        tensors.append(_tensor("output", dense, hidden, shape.vocabulary))
    for number in range(shape.layers):
        tensors += [replace(tensor, name=f"blk.{number}.{tensor.name}") for tensor in layer]
    return ModelCard(
        name=shape.name,
        path=Path(shape.name),
        arch=shape.arch,
        layers=shape.layers,
        hidden=hidden,
        heads=shape.heads,
        kv_heads=(shape.kv_heads,) * shape.layers,
        key_length=shape.head,
        value_length=shape.head,
        feed_forward=shape.feed_forward,
        vocabulary=shape.vocabulary,
        native_context=shape.context,
        layer_kinds=(LayerKind.FULL,) * shape.layers,
        sliding_window=None,
        experts=shape.experts,
        experts_used=shape.experts_used,
        tensors=tuple(tensors),
        file_bytes=0,
        exact=False,
    )


def _tensor(name: str, kind: str, *extents: int) -> Tensor:
    elements = prod(extents)
    size = elements * IK_BITS[kind] / 8 if kind in IK_BITS else elements * BY_NAME[kind].bytes_per_element
    return Tensor(f"{name}.weight", extents, kind, int(size))
