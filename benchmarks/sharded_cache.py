"""Compares the plan's arithmetic for sharded models with vLLM's own, taken from its wheel.

    pip download --no-deps --dest wheels vllm==0.33.0
    python benchmarks/sharded_cache.py wheels/vllm-0.33.0-*.whl

Three modules of the wheel are imported without vLLM, PyTorch or a GPU: everything else that they import is a stand-in
that does nothing. Compared are the bytes that vLLM demands on a GPU before it serves one request of the full context
(the layers' specs, their groups, and the block that it holds back), and how it deals out layers to pipeline stages.
Prints one line a model, and one JSON line at the end.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from quietmind.model.card import LayerKind, ModelCard
from quietmind.model.open import open_card
from quietmind.plan.parallel_kv import BLOCK, LATENT_BLOCK, cached
from quietmind.plan.split import Split, local_heads, splits, stages

MODELS = (
    "Qwen3-0.6B",
    "Qwen3-30B-A3B",
    "Qwen3-235B-A22B-2507",
    "Qwen3-Coder-480B-A35B",
    "Qwen3-32B",
    "Llama-3.1-70B",
    "gpt-oss-120b",
    "gemma-3-27b",
    "DeepSeek-V3",
    "GLM-4.5",
)
CONTEXTS = (4096, 32_768, 300_000, 1 << 20)
BATCHED = 8192
_REAL = (
    "vllm.v1.kv_cache_interface",
    "vllm.v1.kv_cache_layout",
    "vllm.v1.kv_cache_spec_registry",
    "vllm.v1.core.kv_cache_planning",
    "vllm.utils.math_utils",
    "vllm.distributed.utils",
)
_STOOD_IN = ("torch", "vllm", "pydantic", "regex")


class _StandIn(types.ModuleType):
    """A module of which every name is something that does nothing."""

    __path__: list[str] = []  # noqa: RUF012 - what makes a module a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


class _Finder:
    """Finds vLLM's own modules in a folder, and stand-ins for all that they import."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".", 1)[0] not in _STOOD_IN:
            return None
        if name in _REAL:
            return importlib.util.spec_from_file_location(name, self._folder / f"{name.replace('.', '/')}.py")
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: there is nothing in it."""


def main(arguments: Sequence[str]) -> int:
    """Compare with the wheel named in ``arguments``. Returns 0 if all agree."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(arguments[0]) as wheel:
            for name in _REAL:
                wheel.extract(f"{name.replace('.', '/')}.py", folder)
        sys.meta_path.insert(0, _Finder(Path(folder)))
        interface: Any = importlib.import_module("vllm.v1.kv_cache_interface")
        planning: Any = importlib.import_module("vllm.v1.core.kv_cache_planning")
        utils: Any = importlib.import_module("vllm.distributed.utils")
    interface.get_dtype_size = lambda element: element  # here a type is its size
    utils.envs.VLLM_PP_LAYER_PARTITION = None
    compared = wrong = 0
    for model in MODELS:
        card = open_card(model, "BF16")
        found = [_caches(card, split, interface, planning) for split in splits(card, 8) if split.pipeline == 1]
        pairs = [pair for each in found for pair in each]
        pairs += [_stages(card, pipeline, utils) for pipeline in (2, 3, 4, 5, 7, 8)]
        off = sum(ours != theirs for ours, theirs in pairs)
        compared, wrong = compared + len(pairs), wrong + off
        print(f"{card.name:24} {len(pairs):3} compared, {off} differ")
    print(json.dumps({"benchmark": "sharded_cache", "compared": compared, "differ": wrong}))
    return 1 if wrong else 0


def _caches(card: ModelCard, split: Split, interface: Any, planning: Any) -> list[tuple[int, int]]:
    """Return our bytes and vLLM's, for every context and for caches of one and two bytes a value."""
    pairs = []
    for context in CONTEXTS:
        for element in (1, 2):
            ours = cached(
                card,
                split,
                range(card.layers),
                context=context,
                sequences=1,
                element=element,
                in_flight=2 * BATCHED,
            )
            theirs = _demanded(card, split, context, element, interface, planning)
            pairs.append((sum(part.bytes for part in ours), theirs))
    return pairs


def _demanded(card: ModelCard, split: Split, context: int, element: int, interface: Any, planning: Any) -> int:
    """Return the bytes of one request's blocks and of the one that is held back."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=context),
        parallel_config=SimpleNamespace(decode_context_parallel_size=split.context, prefill_context_parallel_size=1),
        max_in_flight_tokens=2 * BATCHED,
    )
    specs = {
        f"layer {layer}": _spec(card, split, layer, element, interface)
        for layer in range(card.layers)
        if card.layer_kinds[layer] is LayerKind.LATENT or card.kv_heads[layer]
    }
    kinds = {type(spec) for spec in specs.values()}
    if len(kinds) == 1:
        groups = [SimpleNamespace(layer_names=list(specs), kv_cache_spec=next(iter(specs.values())))]
    else:
        groups = planning._get_kv_cache_groups_uniform_page_size(specs)
    page: int = groups[0].kv_cache_spec.page_size_bytes
    layers = max(len(group.layer_names) for group in groups)
    blocks: int = sum(-(-group.kv_cache_spec.max_memory_usage_bytes(config) // page) for group in groups)
    return (blocks + 1) * layers * page


def _spec(card: ModelCard, split: Split, layer: int, element: int, interface: Any) -> Any:
    sharded = split.context > 1
    if card.layer_kinds[layer] is LayerKind.LATENT:
        assert card.latent is not None
        return interface.MLAAttentionSpec(
            block_size=LATENT_BLOCK,
            num_kv_heads=1,
            head_size=card.latent.kv_rank + card.latent.rope_length,
            dtype=element,
        )
    facts = {
        "block_size": BLOCK,
        "num_kv_heads": local_heads(card.kv_heads[layer], split.tensor),
        "head_size": card.key_length,
        "head_size_v": card.value_length,
        "dtype": element,
        "dcp_sharded": sharded,
    }
    if card.layer_kinds[layer] is LayerKind.SLIDING:
        return interface.SlidingWindowSpec(**facts, sliding_window=card.sliding_window)
    return interface.FullAttentionSpec(**facts)


def _stages(card: ModelCard, pipeline: int, utils: Any) -> tuple[int, int]:
    """Return how the stages end, ours and theirs, as one number that differs if any of them does."""
    ours = [stage.stop for stage in stages(card.layers, pipeline)]
    theirs = [utils.get_pp_indices(card.layers, rank, pipeline)[1] for rank in range(pipeline)]
    return hash(tuple(ours)), hash(tuple(theirs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
