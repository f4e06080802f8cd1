"""KVTC as its paper describes it, for the peers of benchmarks/snapshot_codecs.py: see :class:`Kvtc`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from snapshot_codecs_float import Cache, Coded, NotHere

from quietmind.kvstore.floats import Bytes, Floats
from quietmind.kvstore.rotation import Rotation

SINKS = 4  # first tokens, kept exact, and left out of what is calibrated on
NEWEST = 128  # tokens that are kept exact besides
_BLOCKS = (16, 64, 256, 1024)  # components that share a scale
_BITS = (2, 4, 8)
_SAMPLE = 512  # tokens of the calibration on which the error of each block is measured
_MOST_CHANNELS = 8192  # of K or V in all layers: the basis would take hours past that


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
