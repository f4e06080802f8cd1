"""The process that gradients are computed in: ``python -m quietmind.engine.gradients_child TASK.json FOUND.npz``.

The K and V of a context are computed once and are then what the gradients are taken of; of the model only the tokens
that follow go through it forwards and backwards, so that a context of thousands of tokens takes little memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PREFILL = 512  # tokens of a pass
_FOLLOWING = 300  # tokens that follow the context in a pass: what is kept for the way back grows with them
_DRAWS = 2  # of tokens from what is predicted at a place

_Run = Mapping[str, Any]
_Squares = NDArray[np.float64]


class _Model:
    """A model in 32-bit floats, read from a GGUF."""

    def __init__(self, file: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch: Any = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        self._model.requires_grad_(False)

    def read(self, tokens: Sequence[int]) -> list[tuple[Any, Any]]:
        """Prefill ``tokens``; return the K and V of each layer, [1, heads, tokens, head_length]."""
        from transformers import DynamicCache

        cache = DynamicCache()
        with self._torch.no_grad():
            for start in range(0, len(tokens), _PREFILL):
                piece = self._torch.tensor([list(tokens[start : start + _PREFILL])])
                self._model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def squares(
        self, held: Sequence[tuple[Any, Any]], batch: Sequence[_Run], between: tuple[int, int], seed: int
    ) -> dict[str, _Squares]:
        """Return the squared gradients of what ``batch`` predicts, summed over the predictions.

        The signs of those of two places are independent. ``keys`` and ``values``, float64 [layers, heads, head_length],
        are summed over the tokens; ``tokens``, float64 [2, layers, heads, tokens], those of K and V over the channels.
        """
        from transformers import DynamicCache

        torch = self._torch
        leaves = [tuple(part.clone().requires_grad_() for part in layer) for layer in held]
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(leaves):
            cache.update(keys, values, layer)
        length = held[0][0].shape[2]
        sizes = [len(run["tokens"]) for run in batch]
        starts = np.cumsum([0, *sizes[:-1]])
        kept = [
            int(start) + at
            for start, run in zip(starts, batch, strict=True)
            for at in range(run["first"], len(run["tokens"]))
        ]
        logits = self._model(
            torch.tensor([[token for run in batch for token in run["tokens"]]]),
            past_key_values=cache,
            attention_mask=torch.from_numpy(each_alone(length, sizes))[None, None],
            position_ids=torch.tensor([[length + number for size in sizes for number in range(size)]]),
            use_cache=True,
            logits_to_keep=torch.tensor(kept),
        ).logits[0]
        told = torch.log_softmax(logits.float(), -1)
        drawn = torch.multinomial(told.detach().exp(), 1, generator=torch.Generator().manual_seed(seed))
        told.gather(1, drawn).sum().backward()
        first, newest = between

        def summed(part: int, over: int) -> _Squares:
            squares = (leaf[part].grad[0, :, first : length - newest].double().square() for leaf in leaves)
            return np.stack([each.sum(over).numpy() for each in squares])

        tokens = np.stack([summed(part, over=2) for part in range(2)])
        return {"keys": summed(0, over=1), "values": summed(1, over=1), "tokens": tokens}


def each_alone(context: int, sizes: Sequence[int]) -> NDArray[np.float32]:
    """Return what is added to attention, so that each run sees the context and itself up to each token.

    float32 [tokens, context + tokens].
    """
    run = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(run))
    seen = (run[:, None] == run) & (place[:, None] >= place)
    lowest = np.finfo(np.float32).min
    return np.concatenate(
        [np.zeros((len(run), context), np.float32), np.where(seen, 0, lowest).astype(np.float32)], axis=1
    )


def _batches(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    batch: list[_Run] = []
    for run in runs:
        if batch and sum(len(each["tokens"]) for each in batch) + len(run["tokens"]) > _FOLLOWING:
            yield batch
            batch = []
        batch.append(run)
    if batch:
        yield batch


def _of_context(
    model: _Model, held: Sequence[tuple[Any, Any]], runs: Sequence[_Run], between: tuple[int, int]
) -> dict[str, _Squares]:
    """Return the squares of one kind of what follows a context, summed over all that is predicted."""
    sums: dict[str, _Squares] = {}
    for seed in range(_DRAWS):
        for batch in _batches(runs):
            for name, found in model.squares(held, batch, between, seed).items():
                sums[name] = sums.get(name, 0.0) + found
    return sums


def main(task_file: Path, found_file: Path) -> None:
    """Do the task; what is found appears whole."""
    import torch

    task = json.loads(task_file.read_bytes())
    if task["threads"] is not None:
        torch.set_num_threads(task["threads"])
    torch.set_flush_denormal(True)  # else values near 0 make some products ten times slower
    model = _Model(Path(task["model"]))
    layers = slice(*task["layers"])
    sums: dict[str, _Squares] = {}
    places: dict[str, int] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for number, context in enumerate(task["contexts"]):
        held = model.read(context["tokens"])
        for part, name in enumerate(("keys", "values")):
            if not number:
                arrays[f"last_{name}"] = held[-1][part][0].transpose(0, 1).numpy()
            arrays[f"seen {name} {number}"] = np.stack([each[part][0].transpose(0, 1).numpy() for each in held[layers]])
        for kind, runs in context["runs"].items():
            if not runs:
                continue
            found = _of_context(model, held, runs, task["between"])
            arrays[f"tokens {kind} {number}"] = found.pop("tokens").astype(np.float32)
            for name, total in found.items():
                sums[f"{name} {kind}"] = sums.get(f"{name} {kind}", 0.0) + total
            places[kind] = places.get(kind, 0) + _DRAWS * sum(len(run["tokens"]) - run["first"] for run in runs)
    arrays |= {name: total / places[name.partition(" ")[2]] for name, total in sums.items()}
    half = found_file.with_suffix(".half.npz")
    np.savez(half, **arrays)  # type: ignore[arg-type]  # arrays by name
    half.replace(found_file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
