"""What others do with K and V, on the same cache: for the leg in 32-bit floats of benchmarks/snapshot_codecs.py.

Each peer takes an exact cache and gives back what its decoder would, with the bytes that it stores. Those that are not
packages are rebuilt from their papers, as far as these say, with what was chosen here named in their docstrings. The
cache types of llama.cpp are rounded as the engine rounds them, after its Hadamard matrix; only the context passes
through them, which the engine itself prefills with its rounded cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from snapshot_codecs_float import Cache, Coded, NotHere, as_halves
from snapshot_codecs_kvtc import SINKS, Kvtc, Principal
from snapshot_codecs_table import Row

from quietmind.base.errors import UsageError
from quietmind.kvstore.arrays import layout_of
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import rows

_GROUP = 64  # values that share a scale in QuantizedCache
_EVEN = 8  # tokens: hqq packs no other number of them

# What their authors report, to stand beside what is measured here.
PUBLISHED = (
    Row("CacheGen", "published", 0, ratio=3.5, source="3.5 to 4.3 times smaller (Liu et al., arXiv 2310.07240)"),
    Row("KVQuant", "published", 0, ratio=4.8, source="4.8 times smaller at 3 bits (Hooper et al., arXiv 2401.18079)"),
    Row("KVTC", "published", 0, ratio=20.0, source="up to 20 times smaller (Staniszewski et al., arXiv 2511.01815)"),
)


@dataclass(frozen=True)
class Peer:
    """A peer at one level."""

    name: str
    level: str
    code: Callable[[Cache], Coded]


@dataclass(frozen=True)
class Calibration:
    """Caches of other texts: K before their rotation, and V, float32 [tokens, layers, heads, head_length]."""

    keys: Floats
    values: Floats
    rotation: Rotation  # with halves for pairs, as transformers has them

    @classmethod
    def of(cls, slots: Sequence[Path], heads: int, rotation: Rotation) -> Calibration:
        """Return what the engine's files hold, without their first tokens."""
        halves = replace(rotation, pairs=Pairs.HALVES)
        keys, values = [], []
        for slot in slots:
            with slot.open("rb") as source:
                layout = layout_of(source)
            content = memoryview(slot.read_bytes())
            shape = (layout.cells, heads, -1)
            k, v = ([rows(content, plane).reshape(shape) for plane in part] for part in (layout.keys, layout.values))
            if rotation.pairs is Pairs.NEIGHBOURS:
                k = [as_halves(layer) for layer in k]
            keys.append(np.stack([halves.undo(layer, layout.positions) for layer in k], 1)[SINKS:])
            values.append(np.stack(v, 1)[SINKS:])
        return cls(np.concatenate(keys), np.concatenate(values), halves)


def peers(names: Sequence[str], calibration: Calibration | None) -> Iterator[Peer]:
    """Yield the peers of these names that can run here, and say of the others why not. Raises UsageError."""
    for name in names:
        if name not in PEERS:
            raise UsageError(f"{name!r} is no peer; choose some of {', '.join(PEERS)}")
        try:
            yield from PEERS[name](calibration)
        except (NotHere, ImportError, ValueError) as error:
            print(f"warning: {name} is left out ({' '.join(str(error).split())[:120]})")


def _types(_calibration: Calibration | None) -> Iterator[Peer]:
    yield Peer("llama.cpp", "q8_0", lambda cache: _rounded(cache, q8_0, 34))
    yield Peer("llama.cpp", "q4_0", lambda cache: _rounded(cache, q4_0, 18))


def _quanto(_calibration: Calibration | None) -> Iterator[Peer]:
    for bits in (4, 2):
        yield Peer("QuantizedCache quanto", f"{bits} bit", quantized_cache(_quantized_layer("quanto", bits, 0), bits))


def _hqq(_calibration: Calibration | None) -> Iterator[Peer]:
    for bits in (4, 2):
        yield Peer("QuantizedCache hqq", f"{bits} bit", quantized_cache(_quantized_layer("hqq", bits, 1), bits))


def _kvquant(calibration: Calibration | None) -> Iterator[Peer]:
    for bits in (4, 3, 2):
        yield Peer("KVQuant recipe", f"{bits} bit", KvQuant(_required(calibration), bits))


def _kvtc(calibration: Calibration | None) -> Iterator[Peer]:
    learned = _required(calibration)
    bases = tuple(Principal.of(part) for part in (learned.keys, learned.values))
    for target in (8, 12, 16, 32):
        yield Peer("KVTC recipe", f"{target}-fold and Deflate", Kvtc(learned.rotation, bases, 16 / target))


def _required(calibration: Calibration | None) -> Calibration:
    if calibration is None:
        raise NotHere("it learns from other pages: give --calibrate")
    return calibration


# A peer is one entry here: its name, and what makes it at each of its levels.
PEERS: dict[str, Callable[[Calibration | None], Iterator[Peer]]] = {
    "llama.cpp": _types,
    "quanto": _quanto,
    "hqq": _hqq,
    "KVQuant": _kvquant,
    "KVTC": _kvtc,
}


# llama.cpp's own types


def q8_0(values: Floats) -> Floats:
    """Return blocks of 32 values [..., 32] as ``quantize_row_q8_0_ref`` keeps them (ggml/src/ggml-quants.c)."""
    scale = np.abs(values).max(-1, keepdims=True) / np.float32(127)
    return _steps(values, scale, -127, 127)


def q4_0(values: Floats) -> Floats:
    """Return blocks of 32 values [..., 32] as ``quantize_row_q4_0_ref`` keeps them: the largest becomes -8."""
    at = np.abs(values).argmax(-1)[..., None]
    scale = np.take_along_axis(values, at, -1) / np.float32(-8)
    return _steps(values, scale, -8, 7)


def _steps(values: Floats, scale: Floats, least: int, most: int) -> Floats:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    steps: Floats = np.clip(np.rint(values * inverse), least, most) * scale.astype(np.float16).astype(np.float32)
    return steps


def _rounded(cache: Cache, kind: Callable[[Floats], Floats], block_bytes: int) -> Coded:
    """Round K and V in blocks of 32 after the Hadamard matrix of a head, which is its own inverse."""
    parts = []
    for part in (cache.keys, cache.values):
        matrix = hadamard(part.shape[-1] & -part.shape[-1])
        turned = part.reshape(-1, len(matrix)) @ matrix
        parts.append((kind(turned.reshape(-1, 32)).reshape(turned.shape) @ matrix).reshape(part.shape))
    return Coded(Cache(*parts), cache.numbers // 32 * block_bytes)


def hadamard(size: int) -> Floats:
    """Return the orthonormal Walsh-Hadamard matrix of a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    scaled: Floats = (matrix / np.sqrt(size)).astype(np.float32)
    return scaled


# transformers


def _quantized_layer(backend: str, bits: int, axis: int) -> Any:
    """Return a layer of transformers' QuantizedCache. Raises ImportError where its package is not there.

    ``axis`` is the one that its documentation recommends for the backend.
    """
    from transformers import cache_utils

    kind = {"quanto": "QuantoQuantizedLayer", "hqq": "HQQQuantizedLayer"}[backend]
    return getattr(cache_utils, kind)(nbits=bits, axis_key=axis, axis_value=axis, q_group_size=_GROUP)


def quantized_cache(layer: Any, bits: int) -> Callable[[Cache], Coded]:
    """Return what that layer makes of a context that is prefilled in one piece: all of it is quantized.

    Each group of 64 values stores a scale and a shift; in a 16-bit model they take 16 bits each, and are counted so.
    """

    def code(cache: Cache) -> Coded:
        import torch

        parts = [np.empty_like(cache.keys), np.empty_like(cache.values)]
        more = ((0, -cache.tokens % _EVEN), (0, 0), (0, 0))
        for number, pair in enumerate(zip(cache.keys, cache.values, strict=True)):
            padded = [np.pad(part, more, mode="edge") for part in pair]
            tensors = [torch.from_numpy(part).transpose(0, 1)[None].contiguous() for part in padded]
            layer.lazy_initialization(*tensors)
            for out, tensor, axis in zip(parts, tensors, (layer.axis_key, layer.axis_value), strict=True):
                found = layer._dequantize(layer._quantize(tensor, axis))
                out[number] = found.reshape(tensor.shape)[0].transpose(0, 1).float().numpy()[: cache.tokens]
        return Coded(Cache(*parts), cache.numbers * (bits * _GROUP + 32) // _GROUP // 8)

    return code


# KVQuant


@dataclass(frozen=True)
class KvQuant:
    """K before its rotation by channel, V by token, in steps of no equal size, the furthest hundredth kept apart.

    After Hooper et al. (arXiv 2401.18079): offsets and scales of K come from the calibration, those of V from the
    token; the steps are cluster centres of a layer's scaled values, here unweighted (the paper weights them by the
    Fisher information); a value kept apart takes 32 bits with its place, a token's scale and offset 32, the first
    token is exact.
    """

    calibration: Calibration
    bits: int

    def __call__(self, cache: Cache) -> Coded:
        """Code a cache, a layer at a time."""
        rotation = self.calibration.rotation
        positions = range(cache.tokens)
        parts = Cache(cache.keys.copy(), cache.values.copy())
        apart = 0
        for layer in range(len(cache.keys)):
            known = self.calibration.keys[:, layer]
            middle, reach = spans(known, 0)
            centres = clustered((known - middle) / reach, 1 << self.bits)
            keys, count = coded_by(rotation.undo(cache.keys[layer], positions), (middle, reach), centres)
            parts.keys[layer, 1:] = rotation.redo(keys, positions)[1:]
            apart += count
            flat = self.calibration.values[:, layer].reshape(len(known), -1)
            middle, reach = spans(flat, 1)
            centres = clustered((flat - middle) / reach, 1 << self.bits)
            flat = cache.values[layer].reshape(cache.tokens, -1)
            values, count = coded_by(flat, spans(flat, 1), centres)
            parts.values[layer, 1:] = values.reshape(cache.values[layer].shape)[1:]
            apart += count
        scales = 32 * len(cache.keys) * cache.tokens
        return Coded(parts, (self.bits * cache.numbers + 32 * apart + scales) // 8)


def spans(values: Floats, axis: int) -> tuple[Floats, Floats]:
    """Return the middle and half the width of what 99 of 100 values lie in, along an axis."""
    low, high = np.quantile(values, (0.005, 0.995), axis=axis, keepdims=True).astype(np.float32)
    return (low + high) / 2, np.maximum((high - low) / 2, 1e-6)


def clustered(values: Floats, count: int) -> Floats:
    """Return the centres of ``count`` clusters of the values within -1 and 1 (Lloyd), rising."""
    sample = np.sort(values.reshape(-1)[:: max(1, values.size // 50_000)])
    sample = sample[np.abs(sample) <= 1]
    centres: Floats = np.quantile(sample, (np.arange(count) + 0.5) / count).astype(np.float32)
    for _ in range(30):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, sample)
        sums, sizes = np.bincount(nearest, sample, count), np.bincount(nearest, minlength=count)
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres).astype(np.float32)
    return centres


def coded_by(values: Floats, span: tuple[Floats, Floats], centres: Floats) -> tuple[Floats, int]:
    """Return values as their nearest centres within ``span``, those outside it as they are, and how many these were."""
    scaled = (values - span[0]) / span[1]
    outside = np.abs(scaled) > 1
    nearest = centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, scaled)]
    return np.where(outside, values, nearest * span[1] + span[0]).astype(np.float32), int(outside.sum())
