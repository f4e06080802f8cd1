"""What codecs do to the next token where nothing else rounds: for benchmarks/snapshot_codecs.py.

The weights of the GGUF, widened to 32-bit floats, run in transformers on the tokens that the engine has read. Its K and
V, rounded to 16-bit floats as a cache holds them, are the exact cache; each codec packs and unpacks that as plain
arrays, and the model is asked again. Everything that follows the context is computed in few passes: each question with
its answer, and each text that goes on, sees the context and itself alone (a block-diagonal mask).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from snapshot_codecs_table import Damage

from quietmind.engine.gradients_child import each_alone
from quietmind.kvstore.arrays import Shape, layout_of, write
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import rows

NEEDED = "pip install torch transformers gguf (and optimum-quanto and hqq for the peers)"
_PREFILL = 512  # tokens of a pass
_FOLLOWING = 768  # tokens that follow the context in a pass: their attention to 24k tokens takes 1 GB


class NotHere(Exception):
    """The leg cannot run, and why; the rest of the benchmark goes on without it."""


@dataclass(frozen=True)
class Cache:
    """K, rotated, and V of a context: float32 [layers, tokens, heads, head_length]."""

    keys: Floats
    values: Floats

    @property
    def numbers(self) -> int:
        """How many values of K and V there are."""
        return self.keys.size + self.values.size

    @property
    def tokens(self) -> int:
        """Tokens of the context."""
        return int(self.keys.shape[1])

    def halved(self) -> Cache:
        """Return the cache as 16-bit floats hold it."""
        return Cache(*(part.astype(np.float16).astype(np.float32) for part in (self.keys, self.values)))

    def save(self, file: Path, tokens: Sequence[int], neighbours: bool) -> None:
        """Write it as plain arrays of 16-bit floats; with ``neighbours``, K in the order of the engine."""
        keys = as_neighbours(self.keys) if neighbours else self.keys
        layers, count = self.keys.shape[:2]
        width, value_width = (part[0, 0].size for part in (self.keys, self.values))
        shape = Shape(count, count, "f16", ((width, value_width),) * layers)
        pairs = ((k.reshape(count, -1), v.reshape(count, -1)) for k, v in zip(keys, self.values, strict=True))
        with file.open("wb") as sink:
            write(sink, shape, tokens, range(count), pairs)

    def loaded(self, content: bytes | bytearray, neighbours: bool) -> Cache:
        """Return what such a file holds, in the shape of this cache."""
        layout = layout_of(io.BytesIO(content))
        view = memoryview(content)
        keys = np.stack([rows(view, plane) for plane in layout.keys]).reshape(self.keys.shape)
        values = np.stack([rows(view, plane) for plane in layout.values]).reshape(self.values.shape)
        return Cache(as_halves(keys) if neighbours else keys, values)


@dataclass(frozen=True)
class Coded:
    """What a peer's decoder gives back, and how many bytes it had stored."""

    cache: Cache
    size: int


def as_neighbours(keys: Floats) -> Floats:
    """Return K with pairs that stood half a head apart side by side, as the engine keeps those of some architectures.

    The converter to GGUF reorders the rows of their weights so (``permute`` in llama.cpp's convert_hf_to_gguf.py), and
    transformers orders them back.
    """
    *before, length = keys.shape
    return np.ascontiguousarray(keys.reshape(*before, 2, length // 2).swapaxes(-1, -2)).reshape(keys.shape)


def as_halves(keys: Floats) -> Floats:
    """Return K that ``as_neighbours`` was asked of."""
    *before, length = keys.shape
    return np.ascontiguousarray(keys.reshape(*before, length // 2, 2).swapaxes(-1, -2)).reshape(keys.shape)


@dataclass(frozen=True)
class Following:
    """Tokens that follow the context; what is predicted from the one at ``first`` on is looked at."""

    tokens: tuple[int, ...]
    first: int
    answer: bool

    @property
    def positions(self) -> range:
        """Which of its tokens are looked at."""
        return range(self.first, len(self.tokens))


class FloatModel:
    """A model in 32-bit floats. Raises NotHere where it cannot be loaded."""

    def __init__(self, model: Path) -> None:
        os.environ.setdefault("TQDM_DISABLE", "1")  # transformers draws one bar without asking its own switch
        try:
            import torch
            import transformers
        except ImportError as error:
            raise NotHere(f"{error}: {NEEDED}") from error
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_grad_enabled(False)
        torch.set_flush_denormal(True)  # else values near 0 make some products ten times slower
        try:
            self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                model.parent, gguf_file=model.name, dtype=torch.float32, attn_implementation="sdpa"
            ).eval()
        except (ImportError, ValueError, KeyError, OSError, RuntimeError) as error:
            raise NotHere(f"transformers does not load {model.name}: {' '.join(str(error).split())[:200]}") from error
        self._torch: Any = torch

    def read(self, tokens: Sequence[int]) -> Cache:
        """Prefill ``tokens`` and return the cache as 16-bit floats hold it."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for start in range(0, len(tokens), _PREFILL):
            piece = self._torch.tensor([list(tokens[start : start + _PREFILL])])
            self._model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        parts = [[part[0].transpose(0, 1).numpy() for part in (layer.keys, layer.values)] for layer in cache.layers]
        return Cache(np.stack([keys for keys, _ in parts]), np.stack([values for _, values in parts])).halved()

    def predictions(self, cache: Cache, following: Sequence[Following]) -> Iterator[NDArray[np.float32]]:
        """Yield, for each of ``following``, the logarithms of probabilities: float32 [positions, vocabulary]."""
        for batch in batches(following):
            logits = self._logits(cache, batch)
            start = 0
            for each in batch:
                count = len(each.positions)
                part = self._torch.log_softmax(logits[start : start + count].float(), -1)
                yield part.numpy()
                start += count

    def _logits(self, cache: Cache, batch: Sequence[Following]) -> Any:
        torch = self._torch
        sizes = [len(each.tokens) for each in batch]
        tokens = torch.tensor([[token for each in batch for token in each.tokens]])
        positions = torch.tensor([[cache.tokens + number for size in sizes for number in range(size)]])
        starts = np.cumsum([0, *sizes[:-1]])
        kept = [int(start) + at for start, each in zip(starts, batch, strict=True) for at in each.positions]
        mask = torch.from_numpy(each_alone(cache.tokens, sizes))[None, None]
        return self._model(
            tokens,
            past_key_values=self._held(cache),
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=torch.tensor(kept),
        ).logits[0]

    def _held(self, cache: Cache) -> Any:
        from transformers import DynamicCache

        held = DynamicCache()
        for layer, parts in enumerate(zip(cache.keys, cache.values, strict=True)):
            keys, values = (self._torch.from_numpy(part.copy()).transpose(0, 1)[None] for part in parts)
            held.update(keys, values, layer)
        return held


class Judge:
    """Compares caches of one context with the exact one."""

    def __init__(self, model: FloatModel, exact: Cache, following: Sequence[Following]) -> None:
        self._model, self._following = model, following
        self._exact = list(model.predictions(exact, following))

    @property
    def nothing(self) -> Damage:
        """The damage of a cache that comes back bit by bit."""
        positions = sum(len(each.positions) for each in self._following)
        return Damage(0.0, 0.0, 0.0, 0.0, positions, sum(each.answer for each in self._following))

    def judged(self, cache: Cache) -> Damage:
        """Return what ``cache`` does to the predictions."""
        answers: list[float] = []
        texts: list[float] = []
        kept = 0
        predicted = self._model.predictions(cache, self._following)
        for each, exact, now in zip(self._following, self._exact, predicted, strict=True):
            (answers if each.answer else texts).extend(divergences(exact, now))
            kept += each.answer and bool((exact.argmax(1) == now.argmax(1)).all())
        both = [*answers, *texts]
        return Damage(
            mean=float(np.mean(both)),
            worst=max(both),
            answers_mean=float(np.mean(answers)),
            text_mean=float(np.mean(texts)),
            positions=len(both),
            answers_kept=kept,
        )


def divergences(exact: NDArray[np.float32], other: NDArray[np.float32]) -> list[float]:
    """Return the KL divergence in nats of each row of logarithms of probabilities, from ``exact`` to ``other``."""
    found = []
    for one, two in zip(exact, other, strict=True):
        wide = one.astype(np.float64)
        found.append(max(0.0, float(np.exp(wide) @ (wide - two))))
    return found


def batches(following: Sequence[Following], most: int = _FOLLOWING) -> Iterator[list[Following]]:
    """Yield runs of ``following`` of at most so many tokens together, one at least."""
    batch: list[Following] = []
    for each in following:
        if batch and sum(len(other.tokens) for other in batch) + len(each.tokens) > most:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def uses_neighbours(rotation: Rotation | None) -> bool:
    """Say whether the engine keeps the two channels of a pair side by side."""
    return rotation is not None and rotation.pairs is Pairs.NEIGHBOURS
