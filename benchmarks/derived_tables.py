"""Gives derived tensor tables to the engine, which knows the names and extents that it wants, and wants no others.

    python benchmarks/derived_tables.py [NAME...]

For each public model of the catalogue a GGUF file is written that is all header (the metadata of its configuration,
the derived table, a hole for the weights), and the engine (llama.cpp in xllamacpp) loads it dry in a child process.
It refuses a file that lacks a tensor, has one too many, or one of other extents. Then our own reader must make the
same card of the file as was derived. Prints one line a model, and one JSON line at the end.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.catalogue import Entry, entries, entry
from quietmind.model.derive import tensor_bytes
from quietmind.model.ggml_types import FILE_TYPES, GGML_TYPES
from quietmind.model.gguf import read_card
from quietmind.model.layout import tensor_extents
from quietmind.model.open import open_card
from quietmind.model.recipes import tensor_types
from quietmind.model.shape import Shape

ALIGNMENT = 32
MIB = 1 << 20
CONTEXT = 4096
SECONDS = 120
_TYPE_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}
_FILE_TYPE_IDS = {name: number for number, name in FILE_TYPES.items()}
_CHILD = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx = sys.argv[1], int(sys.argv[2])
params.cache_ram_mib, params.verbosity, params.fit_params, params.no_alloc = 0, 5, True, True
xllamacpp.Server(params)
"""

Fact = int | float | str | bool | list[int]


def write_derived(shape: Shape, quantization: str, path: Path) -> None:
    """Write the file of ``shape`` in a recipe of llama.cpp, its blocks for further tokens included."""
    rows = tensor_extents(shape)
    tensors = [
        Tensor(name, extents, kind, tensor_bytes(extents, kind))
        for (name, extents), kind in zip(rows, tensor_types(shape, rows, quantization), strict=True)
    ]
    facts: dict[str, Fact] = {
        "general.architecture": shape.arch,
        "general.name": shape.name,
        "general.file_type": _FILE_TYPE_IDS[quantization],
        "tokenizer.ggml.model": "none",
    }
    facts |= {f"{shape.arch}.{key}": value for key, value in metadata(shape).items()}
    table, at = b"", 0
    for tensor in tensors:
        count = len(tensor.shape)
        table += _text(tensor.name) + struct.pack(f"<I{count}Q", count, *tensor.shape)
        table += struct.pack("<IQ", _TYPE_IDS[tensor.type], at)
        at += -(-tensor.bytes // ALIGNMENT) * ALIGNMENT
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    header += b"".join(_text(key) + _value(value) for key, value in facts.items()) + table
    header += bytes(-len(header) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + at)


def metadata(shape: Shape) -> dict[str, Fact]:
    """Return what a conversion of ``shape`` writes below its architecture's name, as far as sizes depend on it."""
    facts: dict[str, Fact] = {
        "block_count": shape.layers + shape.prediction_layers,
        "context_length": shape.native_context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.feed_forward,
        "vocab_size": shape.vocabulary,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.key_length,
        "attention.value_length": shape.value_length,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    if shape.rope:
        facts |= {"rope.dimension_count": shape.rope.dimensions, "rope.freq_base": shape.rope.base}
    if shape.experts:
        facts |= {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
        facts["expert_feed_forward_length"] = shape.expert_feed_forward
    if shape.shared_feed_forward:
        facts["expert_shared_feed_forward_length"] = shape.shared_feed_forward
        facts["expert_shared_count"] = shape.shared_feed_forward // shape.expert_feed_forward
    if shape.dense_layers or shape.router_bias:
        facts |= {"leading_dense_block_count": shape.dense_layers, "expert_gating_func": 2}
        facts |= {"expert_weights_norm": True, "expert_weights_scale": 1.0}
    if shape.prediction_layers:
        facts["nextn_predict_layers"] = shape.prediction_layers
    if shape.sliding_window:
        facts["attention.sliding_window"] = shape.sliding_window
    if latent := shape.latent:
        facts |= {"attention.kv_lora_rank": latent.kv_rank, "attention.head_count_kv": 1}
        facts |= {"attention.key_length_mla": shape.key_length, "attention.value_length_mla": shape.value_length}
        facts |= {"attention.key_length": latent.kv_rank + latent.rope_length, "attention.value_length": latent.kv_rank}
        facts |= {"attention.q_lora_rank": latent.query_rank} if latent.query_rank else {}
    if delta := shape.delta:
        facts |= {"ssm.conv_kernel": delta.kernel, "ssm.state_size": delta.head_length}
        facts |= {"ssm.group_count": delta.key_heads, "ssm.time_step_rank": delta.value_heads}
        facts |= {"ssm.inner_size": delta.values, "rope.dimension_sections": [11, 11, 10, 0]}
        facts["full_attention_interval"] = shape.layer_kinds.index(LayerKind.FULL) + 1
    return facts


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Fact) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, list):
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)


def engine_says(path: Path) -> tuple[bool, str]:
    """Return whether the engine takes the file, and its own words where it does not."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path), str(CONTEXT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            lines.append(line.decode("utf-8", "replace").strip())
            if "common_memory_breakdown_print" in lines[-1]:
                break
        child.kill()
    said = [line for line in lines if re.search(r"error loading model|missing tensor|wrong (number|shape)", line)]
    # It accounts for what it has loaded, then stops where it would need the weights; either line may be the last heard.
    whole = any("common_memory_breakdown_print" in line or "no_alloc) failed" in line for line in lines)
    return whole and not said, said[0] if said else ("" if whole else (lines or ["nothing"])[-1])


def same_card(derived: ModelCard, read: ModelCard) -> list[str]:
    """Return the fields in which two cards differ, where they should not."""
    fields = [
        *("arch", "layers", "hidden", "heads", "kv_heads", "key_length", "value_length", "vocabulary", "tensors"),
        *("layer_kinds", "sliding_window", "experts", "experts_used", "latent", "recurrent", "native_context"),
        *("expert_feed_forward", "shared_feed_forward", "quantization", "weight_bytes", "rope"),
    ]
    plain = {"rope": replace(derived.rope, scaling=None, factor=None, original_context=None) if derived.rope else None}
    return [field for field in fields if plain.get(field, getattr(derived, field)) != getattr(read, field)]


def check(model: Entry) -> bool:
    """Check one model, and print how it went."""
    derived = open_card_derived(model)
    assert derived.quantization is not None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.gguf")
        write_derived(model.shape, derived.quantization, path)
        differs = same_card(derived, read_card(path))
        taken, words = engine_says(path)
    verdict = "taken" if taken and not differs else f"REFUSED {words}" if not taken else f"DIFFERS in {differs}"
    print(
        f"{model.name:<26} {derived.quantization:<10} {derived.weight_bytes / MIB:>12,.2f} MiB  {verdict}", flush=True
    )
    return taken and not differs


def open_card_derived(model: Entry) -> ModelCard:
    """Return the derived card in the usual quantization, whatever files are here."""
    return open_card(model.name, "Q4_K_M" if "Q4_K_M" in model.quantizations else model.quantizations[0])


def main() -> None:
    """Check the named models, or all."""
    chosen = [found for name in sys.argv[1:] if (found := entry(name))] or list(entries())
    passed = [check(model) for model in chosen]
    print(json.dumps({"models": len(passed), "taken": sum(passed) / len(passed)}))


if __name__ == "__main__":
    main()
