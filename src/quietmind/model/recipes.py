"""Which type llama.cpp's quantizer gives each tensor: a recipe's name says what most get, rules say who gets more.

Source: llama_tensor_get_type_impl, tensor_type_fallback and tensor_allows_quantization of llama.cpp
(src/llama-quant.cpp, autumn 2026). IQ recipes are taken as published, made with an importance matrix, the others
without; of those it changes only some layers of Q4_0 and Q5_0. Some rules count tensors as they pass: in the file's
order, which is by layer for files of 2025 and later, and before that the order of the checkpoint ("blk.10" before
"blk.2", it may be): other layers get more bits then, and the bytes are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quietmind.model.card import ModelCard
from quietmind.model.ggml_types import BY_NAME
from quietmind.model.shape import Shape

# What most tensors of a recipe are of (llama_ftype_get_default_type).
RECIPES: dict[str, str] = {
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "Q8_0": "q8_0",
    "Q6_K": "q6_k",
    "Q5_K_M": "q5_k",
    "Q5_K_S": "q5_k",
    "Q5_1": "q5_1",
    "Q5_0": "q5_0",
    "Q4_K_M": "q4_k",
    "Q4_K_S": "q4_k",
    "Q4_1": "q4_1",
    "Q4_0": "q4_0",
    "IQ4_NL": "iq4_nl",
    "IQ4_XS": "iq4_xs",
    "MXFP4_MOE": "mxfp4",
    "Q3_K_L": "q3_k",
    "Q3_K_M": "q3_k",
    "Q3_K_S": "q3_k",
    "IQ3_M": "iq3_s",
    "IQ3_S": "iq3_s",
    "IQ3_XS": "iq3_s",
    "IQ3_XXS": "iq3_xxs",
    "Q2_K": "q2_k",
}

# Rows of these pack 256 elements; where a row is no multiple of that, a type of 32 takes their place.
_FALLBACKS = {
    "iq2_s": "iq4_nl",
    "iq3_xxs": "iq4_nl",
    "iq3_s": "iq4_nl",
    "iq4_xs": "iq4_nl",
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}

# Of attn_v: the type where at least four query heads share it, and else (None: what most get).
_VALUES = {
    "Q2_K": ("q4_k", "q3_k"),
    "IQ3_XXS": ("q4_k", None),
    "IQ3_XS": ("q4_k", None),
    "IQ3_S": ("q4_k", None),
    "IQ3_M": ("q4_k", "q4_k"),
    "Q3_K_L": ("q5_k", "q5_k"),
    "IQ4_NL": ("q5_k", None),
    "IQ4_XS": ("q5_k", None),
}
_OUTPUTS = {"Q2_K": "q3_k", "IQ3_XXS": "iq3_s", "Q3_K_M": "q4_k", "Q3_K_L": "q5_k", "IQ3_M": "q4_k"}
_OUTPUTS_OF_EIGHT = dict.fromkeys(
    ("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"), "q5_k"
)
_QUERIES_AND_KEYS = {"IQ3_XS": "iq3_xxs", "IQ3_XXS": "iq2_s"}

_KEPT = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d")  # never quantized, written as f32


@dataclass(frozen=True)
class Traits:
    """What the rules ask of a model. ``blocks`` counts those for further tokens too, ``sharing`` query heads a KV head.

    With latent attention the file says that all heads share one.
    """

    arch: str
    blocks: int
    sharing: int
    experts: int
    tied: bool

    @property
    def seventy(self) -> bool:
        """Whether llama.cpp takes it for a 70B model, which it knows by the number of layers alone."""
        return self.blocks == 80 and (self.arch == "qwen2" or (self.arch == "llama" and self.sharing > 1))


def traits_of(model: Shape | ModelCard) -> Traits:
    """Return what the rules ask of ``model``. Of a card, blocks that were left out when it was read are not counted."""
    if isinstance(model, ModelCard):
        kv_heads, tied, blocks = max(model.kv_heads), model.tied_output, model.layers
    else:
        kv_heads, tied, blocks = model.kv_heads, model.tied, model.layers + model.prediction_layers
    sharing = model.heads if model.latent else model.heads // kv_heads
    return Traits(model.arch, blocks, sharing, model.experts, tied)


def tensor_types(model: Shape | ModelCard, tensors: Iterable[tuple[str, Sequence[int]]], name: str) -> list[str]:
    """Return the type of each of ``tensors`` (names and extents, in the file's order) by the recipe ``name``."""
    rows = list(tensors)
    chooser = _Chooser(traits_of(model), name, sum(1 for tensor, _ in rows if _shares_values(tensor)))
    return [chooser.type_of(tensor, extents) for tensor, extents in rows]


def _shares_values(tensor: str) -> bool:
    """Whether a tensor is treated as attn_v."""
    return any(f"{part}.weight" in tensor for part in ("attn_v", "attn_qkv", "attn_kv_b"))


def _more_bits(index: int, count: int) -> bool:
    """Whether one of ``count`` is in the first or last eighth, or every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _part(tensor: str) -> str:
    """Return what the rules call a tensor (tensor_get_category); empty for those without a rule."""
    if tensor in ("output.weight", "token_embd.weight"):
        return tensor
    if _shares_values(tensor):
        return "value"
    part = tensor.split(".", 2)[-1]
    if part in ("attn_q.weight", "attn_k.weight", "attn_output.weight"):
        return part
    return next((mark for mark in ("ffn_up", "ffn_gate", "ffn_down") if part.startswith(mark)), "")


class _Chooser:
    """Goes through the tensors in order: of some kinds, the rules count how many have gone before."""

    def __init__(self, traits: Traits, name: str, values: int) -> None:
        self._traits = traits
        self._recipe = name
        self._most = RECIPES[name]
        self._values = values
        self._seen: Counter[str] = Counter()
        self._eight = traits.experts == 8

    def type_of(self, tensor: str, extents: Sequence[int]) -> str:
        if len(extents) < 2 or not tensor.endswith("weight") or any(part in tensor for part in _KEPT):
            return "f32"
        if BY_NAME[self._most].block == 1:
            return self._most
        return self._fitting(self._chosen(tensor, extents), extents[0])

    def _fitting(self, kind: str, row: int) -> str:
        if row % BY_NAME[kind].block:
            kind = _FALLBACKS.get(kind, kind)
        return "f16" if row % BY_NAME[kind].block else kind

    def _chosen(self, tensor: str, extents: Sequence[int]) -> str:
        part = _part(tensor)
        index = self._seen[part]
        self._seen[part] += 1
        if part == "output.weight" or (self._traits.tied and part == "token_embd.weight"):
            return self._output(extents[0])
        if self._recipe == "MXFP4_MOE":
            return "mxfp4" if len(extents) > 2 and extents[2] > 1 else "q8_0"
        if part == "value":
            return self._value(index)
        if part.startswith("ffn"):
            # In a mixture the layer is read from the name, elsewhere counted.
            return self._feed_forward(part, int(tensor.split(".")[1]) if self._traits.experts > 1 else index)
        return self._attention(part)

    def _output(self, row: int) -> str:
        if self._recipe == "MXFP4_MOE" or row % BY_NAME[self._most].block:
            return "q8_0"
        if self._recipe == "IQ3_XXS":
            return "q5_k"
        return "q8_0" if self._most == "q8_0" else "q6_k"

    def _value(self, index: int) -> str:
        kind = self._most
        if self._recipe in _VALUES:
            kind = _VALUES[self._recipe][0 if self._traits.sharing >= 4 else 1] or self._most
        elif self._recipe == "Q3_K_M":
            kind = "q5_k" if index < 2 else "q4_k"
        elif self._recipe in ("Q4_K_M", "Q5_K_M") and _more_bits(index, self._values):
            kind = "q6_k"
        elif self._recipe == "Q4_K_S" and index < 4:
            kind = "q5_k"
        if self._traits.seventy and kind in ("q3_k", "q4_k"):
            kind = "q5_k"
        return "q8_0" if self._eight else kind

    def _feed_forward(self, part: str, layer: int) -> str:
        if part == "ffn_down":
            return self._down(layer)
        blocks = self._traits.blocks
        middle = blocks // 8 <= layer < 7 * blocks // 8
        return "iq3_xxs" if self._recipe == "IQ3_XS" and middle else self._most

    def _down(self, layer: int) -> str:
        count = self._traits.blocks
        first, more = layer < count // 8, _more_bits(layer, count)
        kind = self._most
        match self._recipe:
            case "Q2_K":
                kind = "q3_k"
            case "Q3_K_M":
                kind = "q5_k" if layer < count // 16 else "q4_k"
            case "Q3_K_L":
                kind = "q5_k"
            case "IQ3_M" if first or (self._eight and more):
                kind = "q4_k"
            case "Q4_K_M" | "Q5_K_M" if more:
                kind = "q6_k"
            case "Q4_K_S" if first:
                kind = "q5_k"
        return kind

    def _attention(self, part: str) -> str:
        """Return the type of queries, keys, attention's output, an embedding of its own, and all without a rule."""
        rules: Mapping[str, str] = {}
        match part:
            case "token_embd.weight":
                rules = {"IQ3_XXS": "iq3_s"}
            case "attn_k.weight" if self._eight:
                return "q8_0"
            case "attn_q.weight" | "attn_k.weight":
                rules = _QUERIES_AND_KEYS
            case "attn_output.weight":
                rules = _OUTPUTS_OF_EIGHT if self._eight else _OUTPUTS
        return rules.get(self._recipe, self._most)
