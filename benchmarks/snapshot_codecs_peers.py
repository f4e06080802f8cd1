"""What others do with K and V, on the same cache: for the leg in 32-bit floats of benchmarks/snapshot_codecs.py.

Each peer takes an exact cache and gives back what its decoder would, with the bytes that it stores. Those that are not
packages are rebuilt from their papers, as far as these say, with what was chosen here named in their docstrings. The
cache types of llama.cpp are rounded as the engine rounds them, after its Hadamard matrix; only the context passes
through them, which the engine itself prefills with its rounded cache.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from snapshot_codecs_float import Cache, NotHere, as_halves
from snapshot_codecs_table import Row

from quietmind.base.errors import UsageError
from quietmind.kvstore.arrays import layout_of
from quietmind.kvstore.floats import Bytes, Floats
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import rows

SINKS = 4  # first tokens, kept exact by KVTC, and left out of what is calibrated on
NEWEST = 128  # tokens that KVTC keeps exact besides
_GROUP = 64  # values that share a scale in QuantizedCache
_EVEN = 8  # tokens: hqq packs no other number of them
_BLOCKS = (16, 64, 256, 1024)  # components that KVTC quantizes with one scale
_BITS = (2, 4, 8)
_SAMPLE = 512  # tokens of the calibration on which the error of each block is measured
_MOST_CHANNELS = 8192  # of K or V in all layers: the basis would take hours past that

# What their authors report, to stand beside what is measured here.
PUBLISHED = (
    Row("CacheGen", "published", 0, ratio=3.5, source="3.5 to 4.3 times smaller (Liu et al., arXiv 2310.07240)"),
    Row("KVQuant", "published", 0, ratio=4.8, source="4.8 times smaller at 3 bits (Hooper et al., arXiv 2401.18079)"),
    Row("KVTC", "published", 0, ratio=20.0, source="up to 20 times smaller (Staniszewski et al., arXiv 2511.01815)"),
)


@dataclass(frozen=True)
class Coded:
    """What a peer's decoder gives back, and how many bytes it had stored."""

    cache: Cache
    size: int


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


# KVTC


@dataclass(frozen=True)
class Runs:
    """Runs of ``count`` components: where each begins, its length and bits, its squared error and its bits a token.

    By where they begin. ``tail`` [count + 1] is the squared error where all from there on are left out.
    """

    count: int
    options: list[tuple[int, int, int, float, float]]
    tail: NDArray[np.float64]


@dataclass(frozen=True)
class Principal:
    """The principal components of K or of V over all layers and heads, and what they are on a calibration's sample."""

    mean: Floats  # [channels]
    matrix: Floats  # [channels, channels], a component a column, by falling variance
    sample: Floats  # [tokens, channels]

    @cached_property
    def runs(self) -> Runs:
        """Every run of components that may be quantized, each way."""
        return runs_of(self.sample)

    @classmethod
    def of(cls, values: Floats) -> Principal:
        """Return them for values [tokens, ...]. Raises NotHere where there are too many channels."""
        flat = values.reshape(len(values), -1)
        if flat.shape[1] > _MOST_CHANNELS:
            raise NotHere(f"its basis over {flat.shape[1]:,} channels of K would take hours here")
        mean = flat.mean(0)
        centred = flat - mean
        _, vectors = np.linalg.eigh(centred.T @ centred / np.float32(len(flat)))
        matrix = np.ascontiguousarray(vectors[:, ::-1])
        return cls(mean, matrix, centred[:: max(1, len(flat) // _SAMPLE)] @ matrix)


Allocation = list[tuple[int, int]]  # runs of components: how many, and the bits of each; 16 for one as it is


@dataclass(frozen=True)
class Kvtc:
    """Principal components, bits by dynamic programming, Deflate: Staniszewski et al., arXiv 2511.01815.

    One basis for K before its rotation and one for V, over all layers and heads, without weights. Runs of 1, 16, 64,
    256 or 1,024 components are left out or quantized to 2, 4 or 8 bits (uniform, where the paper has FP8) with a scale
    and a shift of 16 bits for each token; a run of one is a 16-bit float. The paper's programme minimizes the error
    under a budget; here its Lagrangian form does, by bisection. Deflate is zlib's in the place of nvCOMP's. The first
    4 and the newest 128 tokens stay exact; the basis is not counted.
    """

    rotation: Rotation
    bases: tuple[Principal, ...]
    bits: float  # a value, before Deflate

    def __call__(self, cache: Cache) -> Coded:
        """Code a cache."""
        last = max(SINKS, cache.tokens - NEWEST)
        positions = np.arange(cache.tokens)
        keys = np.stack([self.rotation.undo(layer, positions) for layer in cache.keys])
        size, parts = 0, []
        for part, basis in zip((keys, cache.values), self.bases, strict=True):
            middle = part[:, SINKS:last].swapaxes(0, 1)
            flat = middle.reshape(len(middle), -1)
            components = np.matmul(flat - basis.mean, basis.matrix, dtype=np.float32)
            content, restored = stored(components, allocated(basis.runs, self.bits))
            size += len(zlib.compress(content, 6))
            decoded = (restored @ basis.matrix.T + basis.mean).reshape(middle.shape).swapaxes(0, 1)
            parts.append(np.concatenate([part[:, :SINKS], decoded, part[:, last:]], 1))
        turned = np.stack([self.rotation.redo(layer, positions) for layer in parts[0]])
        turned[:, :SINKS], turned[:, last:] = cache.keys[:, :SINKS], cache.keys[:, last:]
        exact = 2 * cache.numbers // cache.tokens * (cache.tokens - (last - SINKS))
        return Coded(Cache(turned, parts[1]), size + exact)


def runs_of(sample: Floats) -> Runs:
    """Return what each run of the components of ``sample`` [tokens, components] costs, quantized and left out."""
    count = sample.shape[1]
    options = [
        (start, run, kind, *_cost(sample[:, start : start + run], kind))
        for run in (1, *_BLOCKS)
        for start in range(0, count - run + 1, min(run, 16))
        for kind in ((16,) if run == 1 else _BITS)
    ]
    tail = np.append(np.cumsum((sample.astype(np.float64) ** 2).sum(0)[::-1])[::-1], 0.0) / len(sample)
    return Runs(count, sorted(options), tail)


def allocated(runs: Runs, bits: float) -> Allocation:
    """Return the runs that give the least error for ``bits`` a component; the components behind them get none."""
    low, high = 1e-12, 1e12
    best: Allocation = []
    for _ in range(60):
        price = float(np.sqrt(low * high))
        taken, spent = _cheapest(runs, price)
        if spent > bits * runs.count:
            low = price
        else:
            high, best = price, taken
    return best


def _cost(block: Floats, kind: int) -> tuple[float, float]:
    """Return the squared error and the bits a token of a run quantized so."""
    if kind == 16:
        return 0.0, 16.0
    return float(((block - quantized(block, kind)[2]) ** 2).sum() / len(block)), float(kind * block.shape[1] + 32)


def _cheapest(runs: Runs, price: float) -> tuple[Allocation, float]:
    """Return the runs with the least error + price x bits, and their bits; from any place on, the rest may be left."""
    least = np.full(runs.count + 1, np.inf)
    least[0] = 0.0
    came: dict[int, tuple[int, int, int, float]] = {}
    for start, run, kind, error, bits in runs.options:
        total = least[start] + error + price * bits
        if total < least[start + run]:
            least[start + run] = total
            came[start + run] = (start, run, kind, bits)
    at, taken, spent = int(np.argmin(least + runs.tail)), [], 0.0
    while at:
        at, run, kind, bits = came[at]
        taken.append((run, kind))
        spent += bits
    return taken[::-1], spent


def stored(components: Floats, allocation: Allocation) -> tuple[bytes, Floats]:
    """Return the bytes before Deflate of components [tokens, channels], and what is restored from them."""
    restored = np.zeros_like(components)
    content, start = [], 0
    for run, kind in allocation:
        block = components[:, start : start + run]
        if kind == 16:
            halves = block.astype(np.float16)
            content.append(halves.tobytes())
            restored[:, start : start + run] = halves
        else:
            steps, scales, restored[:, start : start + run] = quantized(block, kind)
            content += [_packed(steps, kind).tobytes(), scales.tobytes()]
        start += run
    return b"".join(content), restored


def quantized(block: Floats, bits: int) -> tuple[Bytes, NDArray[np.float16], Floats]:
    """Return the steps of each token's values from its least to its largest, scale and shift, and what they mean."""
    least, most = block.min(1, keepdims=True), block.max(1, keepdims=True)
    scales = np.concatenate([(most - least) / ((1 << bits) - 1), least], 1).astype(np.float16)
    scale, shift = (part.astype(np.float32) for part in (scales[:, :1], scales[:, 1:]))
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    steps = np.clip(np.rint((block - shift) * inverse), 0, (1 << bits) - 1)
    return steps.astype(np.uint8), scales, (steps * scale + shift).astype(np.float32)


def _packed(steps: Bytes, bits: int) -> Bytes:
    """Return steps of 2, 4 or 8 bits, several in a byte; one component's after the other, which deflates better."""
    flat = np.ascontiguousarray(steps.T).reshape(-1)
    each = 8 // bits
    padded = np.append(flat, np.zeros(-len(flat) % each, np.uint8)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    whole: Bytes = np.bitwise_or.reduce(padded << shifts, 1).astype(np.uint8)
    return whole
