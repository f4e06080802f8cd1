"""Reads a Hugging Face ``config.json``: which family it is of, and the Shape it describes.

Keys, and the defaults of keys that a family's files leave out, follow that family's configuration class
(``transformers/models/*/configuration_*.py``, autumn 2026). What no class defines a default for is asked for by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quietmind.base.errors import ModelError, ModelFileDamaged, ModelNotFound, ModelNotUnderstood
from quietmind.base.paths import shown_path
from quietmind.model.card import Latent, LayerKind, Rope
from quietmind.model.facts import Facts
from quietmind.model.shape import DeltaNet, Shape, Stored

LARGEST_CONFIG = 1 << 22  # bytes; real ones have some thousands, with quantized modules listed some hundred thousand
MOST_LAYERS = 1 << 12


@dataclass(frozen=True)
class Family:
    """What a class of ``architectures`` means. ``arch`` is GGUF's name.

    ``head_from_hidden``: the class defines head_dim as hidden size / heads where it is missing. ``experts``: the key
    that counts routed experts. ``query_key_norm`` and ``bias``: as Shape's; None where the configuration says.
    ``defaults``: the class's own, for keys that published files of the family leave out.
    """

    arch: str
    head_from_hidden: bool = False
    experts: str | None = None
    bias: bool | None = False
    query_key_norm: bool = False
    tied: bool = False
    defaults: Mapping[str, object] = field(default_factory=dict)


_GEMMA = {"head_dim": 256}
_GEMMA3 = {
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
}
_DEEPSEEK_V3 = {"first_k_dense_replace": 3, "n_shared_experts": 1}
_QWEN35 = Family("qwen35", query_key_norm=True)
_QWEN35_MOE = Family("qwen35moe", experts="num_experts", query_key_norm=True)

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", head_from_hidden=True, bias=None),
    "MistralForCausalLM": Family("llama", head_from_hidden=True),
    "MixtralForCausalLM": Family("llama", head_from_hidden=True, experts="num_local_experts"),
    "Qwen2ForCausalLM": Family("qwen2", head_from_hidden=True, bias=True),
    "Qwen2MoeForCausalLM": Family("qwen2moe", head_from_hidden=True, experts="num_experts", bias=True),
    "Qwen3ForCausalLM": Family("qwen3", query_key_norm=True),
    "Qwen3MoeForCausalLM": Family("qwen3moe", experts="num_experts", query_key_norm=True),
    "Qwen3NextForCausalLM": Family("qwen3next", experts="num_experts", query_key_norm=True),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5ForConditionalGeneration": _QWEN35,
    "Qwen3_5MoeForCausalLM": _QWEN35_MOE,
    "Qwen3_5MoeForConditionalGeneration": _QWEN35_MOE,
    "GptOssForCausalLM": Family("gpt-oss", experts="num_local_experts", bias=True),
    "DeepseekV2ForCausalLM": Family("deepseek2", experts="n_routed_experts", defaults={"first_k_dense_replace": 0}),
    "DeepseekV3ForCausalLM": Family("deepseek2", experts="n_routed_experts", defaults=_DEEPSEEK_V3),
    "Glm4ForCausalLM": Family("glm4", bias=None, defaults={"head_dim": 128, "attention_bias": True}),
    "Glm4MoeForCausalLM": Family("glm4moe", experts="n_routed_experts", bias=None),
    "GemmaForCausalLM": Family("gemma", tied=True, defaults=_GEMMA),
    "Gemma2ForCausalLM": Family("gemma2", tied=True, defaults=_GEMMA | {"sliding_window": 4096}),
    "Gemma3ForCausalLM": Family("gemma3", query_key_norm=True, tied=True, defaults=_GEMMA3),
    "Gemma3ForConditionalGeneration": Family("gemma3", query_key_norm=True, tied=True, defaults=_GEMMA3),
    "Phi3ForCausalLM": Family("phi3", head_from_hidden=True),
}

_WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}  # every n-th layer attends in full
_LAYER_TYPES = {
    "full_attention": LayerKind.FULL,
    "sliding_attention": LayerKind.SLIDING,
    "linear_attention": LayerKind.LINEAR,
}


def read_config(path: Path) -> Shape:
    """Return the shape that the ``config.json`` at ``path`` describes, named after its folder.

    Raises ModelNotFound, ModelError, ModelFileDamaged, ModelNotUnderstood.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_CONFIG + 1)
    except FileNotFoundError:
        raise ModelNotFound(f"{shown_path(path)}: no such file; the model's config.json is needed") from None
    except OSError as error:
        raise ModelError(f"{shown_path(path)}: cannot be read ({error.strerror or error})") from error
    return shape_of(parse_config(raw, path), path.absolute().parent.name or "model", path)


def parse_config(raw: bytes, source: Path) -> dict[str, object]:
    """Return the JSON object in ``raw``. ``source`` is what messages call it. Raises ModelFileDamaged."""
    if len(raw) > LARGEST_CONFIG:
        raise ModelFileDamaged(f"{shown_path(source)}: is larger than any configuration ({LARGEST_CONFIG:,} bytes)")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelFileDamaged(f"{shown_path(source)}: is not JSON ({error}); fetch it again") from None
    if not isinstance(document, dict):
        raise ModelFileDamaged(f"{shown_path(source)}: is not a model's configuration; fetch it again")
    return document


def shape_of(config: Mapping[str, object], name: str, source: Path) -> Shape:
    """Return the shape that ``config`` describes. ``source`` is what messages call it.

    Raises ModelNotUnderstood for a class that is not in FAMILIES, ModelFileDamaged naming the key that is missing or
    makes no sense.
    """
    family = _family(config, source)
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    # What the language model of a multimodal one says goes before what the whole says; null means missing.
    said = {key: value for key, value in (*config.items(), *inner.items()) if value is not None}
    facts = Facts({**family.defaults, **said}, source, "key", "give a config.json that has it")
    layers = facts.count("num_hidden_layers")
    if layers > MOST_LAYERS:
        raise facts.damaged(f"promises {layers:,} layers, more than any model has; fetch it again")
    hidden, heads = facts.count("hidden_size"), facts.count("num_attention_heads")
    latent = _latent(facts) if family.arch == "deepseek2" else None
    key_length, value_length = _head_lengths(facts, family, hidden, heads, latent)
    experts = facts.count(family.experts, default=0) if family.experts else 0
    if family.experts and not experts:
        raise facts.damaged(f"lacks the key {family.experts}; give a config.json that has it")
    kv_heads = heads if latent else facts.count("num_key_value_heads", default=heads)
    if not 0 < kv_heads <= heads:
        raise facts.damaged(f"has {kv_heads:,} KV heads for {heads:,} heads; fetch it again")
    _refuse_exceptions(facts, layers)
    kinds, window = _kinds(facts, family, layers, latent)
    bias = _flag(facts, "attention_bias", False) if family.bias is None else family.bias
    return Shape(
        name=name,
        arch=family.arch,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        feed_forward=facts.count("intermediate_size", default=0 if experts else None),
        vocabulary=facts.count("vocab_size"),
        native_context=facts.count("max_position_embeddings"),
        layer_kinds=kinds,
        sliding_window=window,
        experts=experts,
        experts_used=facts.count("num_experts_per_tok") if experts else 0,
        expert_feed_forward=_expert_width(facts) if experts else 0,
        shared_feed_forward=_shared_width(facts) if experts else 0,
        dense_layers=min(layers, facts.count("first_k_dense_replace", default=0)) if experts else 0,
        # DeepSeek's conversion leaves these blocks out, that of GLM keeps them.
        prediction_layers=facts.count("num_nextn_predict_layers", default=0) if family.arch == "glm4moe" else 0,
        tied=_flag(facts, "tie_word_embeddings", family.tied),
        bias=bias,
        output_bias=bias and family.arch in ("llama", "gpt-oss"),
        query_key_norm=_flag(facts, "use_qk_norm", family.query_key_norm),
        router_bias=family.arch == "glm4moe" or facts.get("topk_method") == "noaux_tc",
        rope_tensors=_rope_tensors(facts),
        rope=_rope(facts, latent.rope_length if latent else key_length),
        latent=latent,
        delta=_delta(facts) if LayerKind.LINEAR in kinds else None,
        stored=_stored(config.get("quantization_config") or inner.get("quantization_config"), facts),
    )


def _family(config: Mapping[str, object], source: Path) -> Family:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        kind = config.get("model_type")
        named = f" beside its model_type {kind[:64]!a}" if isinstance(kind, str) else ""
        raise ModelFileDamaged(
            f"{shown_path(source)}: lacks the key architectures, one class{named}; it is not a model's config.json"
        )
    family = FAMILIES.get(names[0])
    if family is None:
        shown = names[0] if names[0].isprintable() and len(names[0]) <= 64 else ascii(names[0][:64])
        raise ModelNotUnderstood(
            f"{shown_path(source)}: the architecture {shown} is not understood yet; "
            f"understood are {', '.join(sorted(FAMILIES))}"
        )
    return family


def _head_lengths(facts: Facts, family: Family, hidden: int, heads: int, latent: Latent | None) -> tuple[int, int]:
    """Return the elements of a key and of a value, for each head."""
    if latent is not None:
        return facts.count("qk_nope_head_dim") + latent.rope_length, facts.count("v_head_dim")
    length = _head_length(facts, family, hidden, heads)
    return length, length


def _head_length(facts: Facts, family: Family, hidden: int, heads: int) -> int:
    """Return head_dim. Hidden size / heads is wrong for families that chose their own, so there it must be given."""
    default = hidden // heads if family.head_from_hidden and hidden % heads == 0 else None
    if default is None and "head_dim" not in facts:
        raise facts.damaged(
            f"lacks the key head_dim, which does not follow from hidden_size {hidden:,} and num_attention_heads "
            f"{heads:,} here; give a config.json that has it"
        )
    return facts.count("head_dim") if default is None else facts.count("head_dim", default=default) or default


def _latent(facts: Facts) -> Latent:
    return Latent(
        kv_rank=facts.count("kv_lora_rank"),
        rope_length=facts.count("qk_rope_head_dim"),
        query_rank=facts.count("q_lora_rank", default=0),
    )


def _refuse_exceptions(facts: Facts, layers: int) -> None:
    """Refuse mixtures whose dense layers are sprinkled in: no published model uses it, and no table here holds it."""
    if facts.get("mlp_only_layers") or facts.count("decoder_sparse_step", default=1) != 1:
        raise ModelNotUnderstood(
            f"{facts.source}: some of its {layers} layers are dense by mlp_only_layers or decoder_sparse_step, "
            "which is not understood yet"
        )


def _expert_width(facts: Facts) -> int:
    return facts.count("moe_intermediate_size" if "moe_intermediate_size" in facts else "intermediate_size")


def _shared_width(facts: Facts) -> int:
    """Return the width of the expert that every token visits: its own, or a number of routed ones."""
    if "shared_expert_intermediate_size" in facts:
        return facts.count("shared_expert_intermediate_size", default=0)
    return facts.count("n_shared_experts", default=0) * _expert_width(facts)


def _kinds(
    facts: Facts, family: Family, layers: int, latent: Latent | None
) -> tuple[tuple[LayerKind, ...], int | None]:
    if latent is not None:
        return (LayerKind.LATENT,) * layers, None
    linear = family.arch in ("qwen3next", "qwen35", "qwen35moe")
    period = _WINDOW_PERIODS.get(family.arch)
    if not linear and period is None:
        return (LayerKind.FULL,) * layers, None  # llama.cpp ignores the windows of the others
    listed = facts.get("layer_types")
    if isinstance(listed, list):
        kinds = tuple(_LAYER_TYPES.get(str(kind)) for kind in listed)
        if len(kinds) != layers or None in kinds:
            raise facts.damaged(f"key layer_types does not say of each of {layers} layers how it attends")
        known = tuple(kind for kind in kinds if kind is not None)
    elif linear:
        interval = facts.count("full_attention_interval", default=4) or 4
        known = tuple(LayerKind.FULL if (layer + 1) % interval == 0 else LayerKind.LINEAR for layer in range(layers))
    else:
        turn = facts.count("sliding_window_pattern", default=period) or period or 1
        known = tuple(LayerKind.FULL if layer % turn == turn - 1 else LayerKind.SLIDING for layer in range(layers))
    window = facts.count("sliding_window") if LayerKind.SLIDING in known else None
    return known, window


def _delta(facts: Facts) -> DeltaNet:
    length = facts.count("linear_key_head_dim")
    if facts.count("linear_value_head_dim") != length:
        raise ModelNotUnderstood(f"{facts.source}: keys and values of its linear attention differ in length")
    return DeltaNet(
        key_heads=facts.count("linear_num_key_heads"),
        value_heads=facts.count("linear_num_value_heads"),
        head_length=length,
        kernel=facts.count("linear_conv_kernel_dim"),
    )


def _scaling(facts: Facts) -> Mapping[str, object]:
    for key in ("rope_parameters", "rope_scaling"):
        value = facts.get(key)
        if isinstance(value, Mapping):
            return value
    return {}


def _rope_tensors(facts: Facts) -> int:
    """Return how many tensors of factors a conversion writes: one for Llama 3's scaling, two for LongRoPE."""
    kind = _scaling(facts).get("rope_type", _scaling(facts).get("type"))
    return {"llama3": 1, "longrope": 2, "su": 2}.get(str(kind), 0)


def _rope(facts: Facts, head_length: int) -> Rope:
    scaling = _scaling(facts)
    inner = Facts({key: value for key, value in scaling.items() if value is not None}, facts.path, "key", "fetch it")
    kind = scaling.get("rope_type", scaling.get("type"))
    share = facts.number("partial_rotary_factor", inner.number("partial_rotary_factor", 1.0))
    return Rope(
        base=facts.number("rope_theta", inner.number("rope_theta", 10000.0)),
        dimensions=int(head_length * share),
        scaling=kind if isinstance(kind, str) and kind != "default" else None,
        factor=inner.number("factor", 0.0) or None,
        original_context=inner.count("original_max_position_embeddings", default=0) or None,
    )


def _flag(facts: Facts, key: str, default: bool) -> bool:
    value = facts.get(key)
    if value is not None and not isinstance(value, bool):
        raise facts.damaged(f"key {key} is neither true nor false; fetch it again")
    return default if value is None else bool(value)


def _stored(said: object, facts: Facts) -> Stored | None:
    """Return how the weights beside the configuration are quantized, None where it does not say that they are."""
    if not isinstance(said, Mapping):
        return None
    inner = Facts({key: value for key, value in said.items() if value is not None}, facts.path, "key", "fetch it again")
    method = inner.text("quant_method")
    if method in ("gptq", "awq"):
        group = inner.get("group_size")
        whole = group == -1  # one scale for a whole column
        return Stored(method, inner.count("bits"), 0 if whole else inner.count("group_size"))
    if method == "fp8":
        block = inner.get("weight_block_size")
        if block is None:
            return Stored(method, 8)
        if isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block):
            return Stored(method, 8, block=(block[0], block[1]))
        raise facts.damaged("key weight_block_size is not two numbers; fetch it again")
    if method == "mxfp4":
        return Stored(method, 4, 32)
    shown = ascii(str(method)[:64])
    raise ModelNotUnderstood(
        f"{facts.source}: its quantization {shown} is not understood yet; understood are gptq, awq, fp8 and mxfp4"
    )
