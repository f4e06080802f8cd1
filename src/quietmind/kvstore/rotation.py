"""Rotary position embedding, undone and done again: what a model's K were before their positions were turned into them.

Before the rotation a channel of K means the same at every position, and packs several times better. Formulas:
``ggml_rope_cache_init``, ``rope_yarn`` and ``rotate_pairs`` of ggml/src/ggml-cpu/ops.cpp, ``ggml_rope_yarn_corr_dims``
of ggml/src/ggml.c and ``llama_context::llama_context`` of src/llama-context.cpp, llama.cpp, autumn 2026; after Su et
al. (arXiv 2104.09864) and, for YaRN, Peng et al. (arXiv 2309.00071).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.floats import Floats
from quietmind.model.card import LayerKind, ModelCard, Rope, Tensor
from quietmind.model.gguf import read_gguf
from quietmind.plan.yarn import Yarn

Phases = NDArray[np.complex64]


class Pairs(StrEnum):
    """Which two channels of a head turn together: ``HALVES`` i and i + n/2 ("NEOX"), ``NEIGHBOURS`` 2i and 2i + 1."""

    HALVES = "halves"
    NEIGHBOURS = "neighbours"


@dataclass(frozen=True)
class Rotation:
    """How K of ``heads`` x ``head_length`` channels are rotated; the first ``dimensions`` of each head take part.

    Pair ``i`` of a head at position ``p`` turns by ``p * base^(-2i / dimensions) / factors[i] * scale`` radians
    (``factors`` is empty where there are none). With YaRN (``extrapolation`` above 0) pairs that turn more than
    ``beta_fast`` times within ``original_context`` are not scaled, those below ``beta_slow`` are, and those between
    are mixed; and all are multiplied by ``magnitude``.
    """

    pairs: Pairs
    head_length: int
    dimensions: int
    base: float
    scale: float = 1.0
    extrapolation: float = 0.0
    magnitude: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_context: int = 0
    factors: tuple[float, ...] = ()

    def phases(self, positions: Sequence[int] | array[int] | NDArray[Any]) -> Phases:
        """Return what pairs, as complex numbers, are multiplied by: complex64 [positions, dimensions / 2].

        In 32 bits and by repeated multiplication, as the engine does on a processor, so that the same bits come out;
        far from the start the rounding of the angles is what decides.
        """
        theta = np.asarray(positions, dtype=np.float32)
        step = np.float32(self.base) ** np.float32(-2.0 / self.dimensions)
        angles = np.empty((len(theta), self.dimensions // 2), np.float32)
        for pair in range(self.dimensions // 2):
            angles[:, pair] = theta
            theta = theta * step
        if self.factors:
            angles /= np.array(self.factors, np.float32)
        if self.extrapolation:
            mix = self._extrapolated()
            angles = angles * np.float32(self.scale) * (1 - mix) + angles * mix
        elif self.scale != 1.0:
            angles *= np.float32(self.scale)
        found = np.empty(angles.shape, np.complex64)
        np.cos(angles, out=found.real)
        np.sin(angles, out=found.imag)
        found *= np.float32(self.magnitude)
        return found

    def undo(self, keys: Floats, positions: Sequence[int] | array[int] | NDArray[Any]) -> Floats:
        """Return ``keys`` [n, heads, head_length] as they were before they were rotated to ``positions`` [n]."""
        phases = np.conj(self.phases(positions))
        phases *= np.float32(self.magnitude**-2)
        return self.turned(keys, phases)

    def redo(self, keys: Floats, positions: Sequence[int] | array[int] | NDArray[Any]) -> Floats:
        """Return ``keys`` [n, heads, head_length] rotated to ``positions`` [n]."""
        return self.turned(keys, self.phases(positions))

    def turned(self, keys: Floats, phases: Phases) -> Floats:
        """Return ``keys`` [n, heads, head_length] with their pairs multiplied by ``phases`` [n, dimensions / 2]."""
        turned = keys.copy()
        pairs = self.as_pairs(keys)
        pairs *= phases[:, None, :]
        half = self.dimensions // 2
        if self.pairs is Pairs.HALVES:
            turned[..., :half], turned[..., half : 2 * half] = pairs.real, pairs.imag
        else:
            turned[..., : 2 * half].view(np.complex64)[...] = pairs
        return turned

    def as_pairs(self, keys: Floats) -> Phases:
        """Return a copy of the rotating channels of ``keys`` [n, heads, head_length]: complex64 [n, heads, pairs]."""
        half = self.dimensions // 2
        if self.pairs is Pairs.NEIGHBOURS:
            return np.ascontiguousarray(keys[..., : 2 * half]).view(np.complex64).copy()
        pairs = np.empty((*keys.shape[:-1], half), np.complex64)
        pairs.real, pairs.imag = keys[..., :half], keys[..., half : 2 * half]
        return pairs

    def _extrapolated(self) -> Floats:
        """Return of each pair how much of it YaRN leaves as it is: float32 [dimensions / 2], from 0 to 1."""
        low = max(0.0, math.floor(self._pair_turning(self.beta_fast)))
        high = min(self.dimensions - 1.0, math.ceil(self._pair_turning(self.beta_slow)))
        ramp = (np.arange(self.dimensions // 2, dtype=np.float32) - np.float32(low)) / np.float32(
            max(0.001, high - low)
        )
        kept: Floats = (1 - np.clip(ramp, 0, 1)) * np.float32(self.extrapolation)
        return kept

    def _pair_turning(self, times: float) -> float:
        """Return which pair turns so many times within the original context (``ggml_rope_yarn_corr_dim``)."""
        turns = self.original_context / (times * 2 * math.pi)
        return self.dimensions * math.log(turns) / (2 * math.log(self.base))

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Any) -> Rotation:
        """Return the rotation that ``to_json`` was asked of. Raises SnapshotDamaged for anything else."""
        try:
            found = cls(**{**given, "pairs": Pairs(given["pairs"]), "factors": tuple(map(float, given["factors"]))})
            _require_sense(found)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise SnapshotDamaged(f"its rotation makes no sense ({error}); read the notebook again") from error
        return found


def _require_sense(rotation: Rotation) -> None:
    """Raise ValueError where arithmetic with ``rotation`` would not give numbers, TypeError for what is no number."""
    whole = (rotation.head_length, rotation.dimensions, rotation.original_context)
    if not all(isinstance(number, int) for number in whole):
        raise TypeError("lengths that are no whole numbers")
    if rotation.dimensions % 2 or not 0 < rotation.dimensions <= rotation.head_length <= 1 << 16:
        raise ValueError(f"{rotation.dimensions} of {rotation.head_length} channels")
    positive = [rotation.scale, rotation.magnitude, rotation.beta_fast, rotation.beta_slow, *rotation.factors]
    if not all(1e-9 < number < 1e9 for number in positive) or not 1 < rotation.base < 1e12:
        raise ValueError("factors that are not positive")
    if rotation.factors and len(rotation.factors) < rotation.dimensions // 2:
        raise ValueError(f"{len(rotation.factors)} factors")
    if not 0 <= rotation.extrapolation <= 1 or (rotation.extrapolation and rotation.original_context <= 0):
        raise ValueError("YaRN without a context")


# Architectures whose every layer rotates K with the model's one base and does nothing to K afterwards, and which
# channels make a pair: read in src/models/*.cpp and in llama_model_rope_type (src/llama-model.cpp).
_PAIRS = {
    "arcee": Pairs.NEIGHBOURS,
    "dots1": Pairs.HALVES,
    "ernie4_5": Pairs.NEIGHBOURS,
    "gemma": Pairs.HALVES,
    "internlm2": Pairs.NEIGHBOURS,
    "llama": Pairs.NEIGHBOURS,
    "minimax-m2": Pairs.HALVES,
    "olmoe": Pairs.HALVES,
    "phi2": Pairs.HALVES,
    "phi3": Pairs.HALVES,
    "qwen2": Pairs.HALVES,
    "qwen2moe": Pairs.HALVES,
    "qwen3": Pairs.HALVES,
    "qwen3moe": Pairs.HALVES,
    "seed_oss": Pairs.HALVES,
    "starcoder2": Pairs.HALVES,
}

_FACTORS = "rope_freqs.weight"  # Llama 3's scaling: what the angle of each pair is divided by
_CHOSEN_FACTORS = "rope_factors_"  # LongRoPE's two sets, between which the engine chooses by the context

_MOST_FACTORS = 1 << 12


def rotation_of(card: ModelCard, yarn: Yarn | None = None) -> Rotation:
    """Return how the engine rotates the K of ``card``, in a run whose plan stretches its context by ``yarn``.

    Raises SnapshotNotUnderstood, with the reason, where that is not known: such caches are kept losslessly.
    """
    pairs, rope = _PAIRS.get(card.arch), card.rope
    if pairs is None or rope is None:
        raise _refused(card, f"how the architecture {card.arch!r} rotates K is not known")
    if set(card.layer_kinds) != {LayerKind.FULL}:
        raise _refused(card, "it has layers of other kinds than full attention")
    if any(tensor.name.startswith(_CHOSEN_FACTORS) for tensor in card.tensors):
        raise _refused(card, "its positions are scaled by LongRoPE")
    common = Rotation(pairs, card.key_length, rope.dimensions, rope.base, factors=_factors(card))
    if yarn is not None:
        return _stretched(common, float(f"{yarn.factor:g}"), yarn.original)  # rounded as on the command line
    factor = rope.factor or 1.0
    if rope.scaling == "yarn":
        return _stretched(common, factor, rope.original_context or card.native_context)
    if rope.scaling not in (None, "linear") or (rope.scaling is None and factor != 1.0):
        raise _refused(card, f"its positions are scaled by {rope.scaling!r}")
    return _scaled(common, rope, factor)


def _scaled(rotation: Rotation, rope: Rope, factor: float) -> Rotation:
    return _with(rotation, scale=1.0 / factor) if rope.scaling == "linear" else rotation


def _stretched(rotation: Rotation, factor: float, original: int) -> Rotation:
    """Return ``rotation`` with YaRN; its magnitude is what the context's and the kernel's factors come to together."""
    magnitude = 1.0 + 0.1 * math.log(factor) if factor > 1.0 else 1.0
    return _with(rotation, scale=1.0 / factor, extrapolation=1.0, magnitude=magnitude, original_context=original)


def _with(rotation: Rotation, **changes: Any) -> Rotation:
    return Rotation(**{**asdict(rotation), **changes})


def _factors(card: ModelCard) -> tuple[float, ...]:
    """Read the factors of Llama 3's scaling out of the weights; empty where there are none."""
    stated = next((tensor for tensor in card.tensors if tensor.name == _FACTORS), None)
    if stated is None:
        return ()
    values = _read_factors(card, stated)
    if len(values) < card.key_length // 2 or not all(1e-3 < value < 1e6 for value in values):
        raise _refused(card, f"its tensor {_FACTORS} holds no factors")
    return values


def _read_factors(card: ModelCard, stated: Tensor) -> tuple[float, ...]:
    if not card.exact or card.path.suffix != ".gguf" or stated.type != "f32" or stated.bytes > 4 * _MOST_FACTORS:
        raise _refused(card, f"its tensor {_FACTORS} cannot be read")
    header = read_gguf(card.path)
    found = next(tensor for tensor in header.tensors if tensor.name == _FACTORS)
    return _floats_at(header.parts[found.part].path, found.offset, found.bytes)


def _floats_at(path: Path, offset: int, count: int) -> tuple[float, ...]:
    with path.open("rb") as weights:
        weights.seek(offset)
        content = weights.read(count)
    return tuple(np.frombuffer(content, "<f4").tolist())


def _refused(card: ModelCard, what: str) -> SnapshotNotUnderstood:
    return SnapshotNotUnderstood(f"{card.name}: {what}; its caches are kept losslessly")
