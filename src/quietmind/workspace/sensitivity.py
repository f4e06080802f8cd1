"""How much an error in each part of a cache costs: noise is added to it, and the answers say how far they move.

A part is the K or the V of a layer, head by head where that are few enough, and a band of the pairs that rotate
together, in all layers at once. Small noise costs in proportion to its variance, so that one measurement gives the
factor; the noise is made larger or smaller until its cost stands clear of the engine's own rounding and is still small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quietmind.base.progress import SILENT, Progress
from quietmind.kvstore.gathering import SINKS, Sensitivity
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import Plane, SlotLayout, put_rows, rows
from quietmind.workspace.trial import Trial

BANDS = 8
MOST_PARTS = 128  # of K and V that are measured head by head; of more, layers whole

# Noise is sought whose KL divergence lies within these.
LEAST, MOST = 0.003, 0.1
_ATTEMPTS = 3
_FIRST, _LARGEST = 0.25, 4.0  # sizes of noise, in deviations of a channel
_FURTHER = 8.0  # how far the next attempt goes from the last at most

_LEAST_DEVIATION = 1e-6  # of channels that are all the same
_ROUNDING = 1e-4  # noise, in deviations, that is nothing but another rounding of the same cache
_ROUNDINGS = 3  # that are tried

# A measurement rests on some dozens of positions in a few notes and is off by a third or so, where parts differ
# tenfold: pulled so far towards their mean, they come closer to the truth on average (James and Stein, 1961).
_TRUSTED = 0.85


@dataclass(frozen=True)
class _Stretch:
    """Channels of a plane, and the deviation of noise of size 1 there."""

    plane: Plane
    channels: NDArray[np.intp]
    deviation: float


_Part = Sequence[_Stretch]


@dataclass(frozen=True)
class Roundings:
    """The KL divergence that other roundings of the same cache make: what is less cannot be told from it.

    ``mean`` is of several where facts are said, ``most`` the largest of them; ``everywhere`` is the mean at all places
    and ``prose`` the largest where the model answers in its own words.
    """

    mean: float
    most: float
    everywhere: float
    prose: float


def roundings_of(trial: Trial) -> Roundings:
    """Return what the engine shows of ``trial`` when all of its K and V change in their last bits."""
    content = trial.file.read_bytes()
    everything = [_stretch(content, plane, np.arange(plane.width)) for plane in trial.rows.planes]
    damages = [trial.damage(partial(_shake, part=everything, size=_ROUNDING, seed=seed)) for seed in range(_ROUNDINGS)]
    means = [damage.mean for damage in damages]
    return Roundings(
        mean=sum(means) / len(means),
        most=max(means),
        everywhere=sum(damage.everywhere for damage in damages) / len(damages),
        prose=max(damage.prose or 0.0 for damage in damages),
    )


def runs_of(layout: SlotLayout, rotation: Rotation) -> int:
    """Return how many parts there are to measure."""
    return sum(len(_parts(plane, rotation, layout)) for plane in layout.planes) + _bands(rotation)


def sensitivity_of(
    trial: Trial, rotation: Rotation, floor: float, *, every: int = 1, progress: Progress = SILENT
) -> Sensitivity:
    """Return what a unit of error variance costs in each part. ``floor`` is what it is everywhere.

    Of the parts of a kind only each ``every``-th is measured; the others take the median. The noise is the same each
    time. Raises what a trial raises.
    """
    content = trial.file.read_bytes()
    progress.begin("measuring what errors cost", runs_of(trial.rows, rotation))
    measured: dict[str, list[NDArray[np.float64]]] = {}
    for kind, planes in (("k", trial.rows.keys), ("v", trial.rows.values)):
        if not planes:  # a model that keeps one row for both
            measured[kind] = [np.ones(1) for _ in trial.rows.keys]
            continue
        layers = [[_stretch(content, plane, each) for each in _parts(plane, rotation, trial.rows)] for plane in planes]
        parts = [[stretch] for layer in layers for stretch in layer]
        costs = _costs(trial, parts, floor, every, progress)
        each = [cost / (len(one.channels) * one.deviation**2) for cost, (one,) in zip(costs, parts, strict=True)]
        measured[kind] = [
            weights if len(weights) > 1 else np.repeat(weights, _heads(plane, rotation, trial.rows))
            for plane, weights in zip(planes, _by_layer(smoothed(each), layers), strict=True)
        ]
    keys = measured["k"]
    profile = _profile(trial, content, rotation, keys, floor, every, progress)
    return Sensitivity([weights[:, None] * profile for weights in keys], measured["v"])


def smoothed(weights: ArrayLike) -> NDArray[np.float64]:
    """Return ``weights``, at least one and all above 0, each a little closer to the geometric mean of all."""
    logarithms = np.log(np.asarray(weights, np.float64))
    found: NDArray[np.float64] = np.exp(logarithms.mean() + _TRUSTED * (logarithms - logarithms.mean()))
    return found


def _by_layer(weights: NDArray[np.float64], layers: Sequence[Sequence[object]]) -> list[NDArray[np.float64]]:
    ends = list(accumulate(len(layer) for layer in layers))
    return [weights[end - len(layer) : end] for end, layer in zip(ends, layers, strict=True)]


def _profile(
    trial: Trial,
    content: bytes,
    rotation: Rotation,
    keys: Sequence[NDArray[np.float64]],
    floor: float,
    every: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """Return what a pair's error costs beside the mean of all pairs: float64 [pairs].

    The noise is distributed over layers and heads as a codec would: more where it costs less, but nowhere more than
    what is there.
    """
    bands = np.array_split(np.arange(rotation.dimensions // 2), _bands(rotation))
    heads = [
        (plane, head * rotation.head_length, weight)
        for plane, weights in zip(trial.rows.keys, keys, strict=True)
        for head, weight in enumerate(weights)
    ]
    # With noise of this variance over its weight in each, all together cost about as much as is aimed at.
    variance = math.sqrt(LEAST * MOST) / (len(heads) * len(_rotating(rotation, bands[0])))
    parts = []
    for band in bands:
        part = []
        for plane, start, weight in heads:
            own = _stretch(content, plane, start + _rotating(rotation, band))
            part.append(replace(own, deviation=min(math.sqrt(variance / weight), own.deviation) / _FIRST))
        parts.append(part)
    costs = _costs(trial, parts, floor, every, progress)
    each = smoothed([cost / len(band) for cost, band in zip(costs, bands, strict=True)])
    found: NDArray[np.float64] = np.repeat(each, [len(band) for band in bands])
    found /= found.mean()
    return found


def _costs(trial: Trial, parts: Sequence[_Part], floor: float, every: int, progress: Progress) -> list[float]:
    """Return for each part what noise of size 1 would cost if all noise cost in proportion to its variance."""
    size, found = _FIRST, dict[int, float]()
    for number, part in enumerate(parts):
        if number % every == 0:
            size, cost = _cost(trial, part, size, floor)
            found[number] = cost / size**2
        progress.advance()
    middle = float(np.median(list(found.values()))) if found else 1.0
    return [found.get(number, middle) for number in range(len(parts))]


def _cost(trial: Trial, part: _Part, size: float, floor: float) -> tuple[float, float]:
    """Return a size of noise and its cost, clear of the floor. Begins at ``size``.

    Of a part where even large noise costs next to nothing, the most that it can cost and still not be seen.
    """
    least = max(LEAST, 2 * floor)
    aim = math.sqrt(least * MOST)
    tried = []
    for _ in range(_ATTEMPTS):
        cost = trial.damage(partial(_shake, part=part, size=size)).everywhere - floor
        tried.append((size, max(cost, least / 2)))
        if least <= cost <= MOST or (cost < least and size == _LARGEST):
            break
        size = min(_LARGEST, size * min(_FURTHER, max(1 / _FURTHER, math.sqrt(aim / tried[-1][1]))))
    return min(tried, key=lambda one: abs(math.log(one[1] / aim)))


def _shake(target: memoryview, part: _Part, size: float, seed: int = 0) -> None:
    """Add noise of ``size`` to ``part`` of the engine's file in ``target``, behind the tokens that stay exact."""
    generator = np.random.default_rng(seed)
    by_plane: dict[Plane, list[_Stretch]] = {}
    for stretch in part:
        by_plane.setdefault(stretch.plane, []).append(stretch)
    for plane, stretches in by_plane.items():
        found = rows(target, plane, SINKS)
        for stretch in stretches:
            noise = generator.standard_normal((len(found), len(stretch.channels)), np.float32)
            # K are rotated here; a rotation turns such noise into such noise.
            found[:, stretch.channels] += noise * np.float32(size * stretch.deviation)
        put_rows(target, plane, SINKS, found)


def _stretch(content: bytes, plane: Plane, channels: NDArray[np.intp]) -> _Stretch:
    """Return channels of a plane with the deviation that the middle one of them has over the tokens."""
    deviations = rows(content, plane, SINKS)[:, channels].std(axis=0)
    return _Stretch(plane, channels, max(float(np.median(deviations)), _LEAST_DEVIATION))


def _parts(plane: Plane, rotation: Rotation, layout: SlotLayout) -> list[NDArray[np.intp]]:
    """Return the channels of each head of ``plane``, or all of them where heads are too many to measure."""
    heads = _heads(plane, rotation, layout)
    return np.array_split(np.arange(plane.width), heads if 2 * len(layout.keys) * heads <= MOST_PARTS else 1)


def _heads(plane: Plane, rotation: Rotation, layout: SlotLayout) -> int:
    """Return how many heads ``plane`` has: a layer's V as many as its K, where its width can be divided so."""
    heads = layout.keys[plane.layer].width // rotation.head_length
    return heads if plane.width % heads == 0 else 1


def _rotating(rotation: Rotation, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the channels of a head in which these pairs turn."""
    if rotation.pairs is Pairs.HALVES:
        return np.concatenate([pairs, pairs + rotation.dimensions // 2])
    return np.concatenate([2 * pairs, 2 * pairs + 1])


def _bands(rotation: Rotation) -> int:
    return min(BANDS, rotation.dimensions // 2)
