"""Learning a basis: means and covariances of a model's K and V over saved caches, and their principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.arrays import layout_of
from quietmind.kvstore.basis import Basis, Group, Widths, grouped, widths_of
from quietmind.kvstore.codec.straight import Straight
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Rotation
from quietmind.kvstore.slots import Plane, SlotLayout, read_cells, rows

# The first tokens are unlike all others and exact in every snapshot (Xiao et al., "attention sinks", arXiv 2309.17453).
SINKS = 4

# Fewer tokens than this for each channel of a group would give components of the sample and not of the model.
LEAST_TOKENS_A_CHANNEL = 1.0

_CELLS = 1024  # that are worked on at once


@dataclass(frozen=True)
class Sensitivity:
    """What a unit of error variance costs in KL divergence, for each layer that has a cache.

    ``keys`` are float64 [heads, pairs] for the channels that rotate together, or [heads, 1] where a head is one
    number; ``values`` are float64 [heads].
    """

    keys: Sequence[NDArray[np.float64]]
    values: Sequence[NDArray[np.float64]]

    @classmethod
    def same(cls, widths: Widths) -> Sensitivity:
        """Return that of a model of which nothing is known."""
        return cls([np.ones((1, 1)) for _ in widths], [np.ones(1) for _ in widths])


class Gathering:
    """The statistics of caches of one shape; ``rotation`` is how their K were rotated, None for not at all.

    Memory: 4 bytes for each two channels of a group, 38 MB a group of 3,072, and a stretch of 1,024 tokens.
    """

    def __init__(self, layout: SlotLayout, rotation: Rotation | None) -> None:
        self.widths = widths_of(layout)
        self.rotation = rotation
        self.tokens = 0
        self._bounds = tuple(grouped(self.widths))
        self._origins: list[Floats] = []  # what is near the mean, so that squares do not cancel
        self._sums: list[NDArray[np.float64]] = []
        self._products: list[Floats] = []

    def add(self, source: BinaryIO) -> None:
        """Add the cache in the engine's file ``source``, which can seek, or in a file of arrays.

        Raises SnapshotNotUnderstood for one of another shape or with numbers that are none, EOFError.
        """
        start = source.tell()
        layout = layout_of(source)
        if widths_of(layout) != self.widths:
            raise SnapshotNotUnderstood("caches of two shapes cannot be learned from together")
        for first in range(SINKS, layout.cells, _CELLS):
            last = min(first + _CELLS, layout.cells)
            for number, bounds in enumerate(self._bounds):
                self._count(number, vectors(source, start, layout, self.rotation, bounds, first, last))
            self.tokens += last - first

    def _count(self, number: int, found: Floats) -> None:
        if number == len(self._sums):
            width = found.shape[1]
            self._origins.append(found.mean(axis=0))
            self._sums.append(np.zeros(width))
            self._products.append(np.zeros((width, width), np.float32))
        found = found - self._origins[number]
        self._sums[number] += found.sum(axis=0, dtype=np.float64)
        self._products[number] += found.T @ found

    def basis(
        self,
        sensitivity: Sensitivity,
        *,
        fingerprint: Fingerprint,
        steps: Mapping[str, float],
        note: Mapping[str, float | str] | None = None,
    ) -> Basis:
        """Return the basis of what was added. A step of 1 makes an error of about the geometric mean of all channels.

        Raises SnapshotNotUnderstood where there are fewer tokens than channels in a group.
        """
        widest = max((len(total) for total in self._sums), default=1)
        if self.tokens < LEAST_TOKENS_A_CHANNEL * widest:
            raise SnapshotNotUnderstood(
                f"{self.tokens:,} tokens were read and a basis takes {int(LEAST_TOKENS_A_CHANNEL * widest):,}; "
                "calibrate with more notes"
            )
        weights = _of_channels(sensitivity, self.widths, self.rotation)
        logarithms = np.concatenate([np.log(weight) for weight in weights])
        unit = np.exp(-logarithms.mean() / 2)
        groups = []
        for number, (first, last) in enumerate(self._bounds):
            scale = (np.sqrt(np.concatenate(weights[first:last])) * unit).astype(np.float32)
            groups.append(self._group(number, first, last, scale))
        made = Basis(fingerprint, self.rotation, self.widths, tuple(groups), {}, dict(note or {}))
        return made.with_steps(steps)

    def _group(self, number: int, first: int, last: int, scale: Floats) -> Group:
        """Return a group with its components. Takes 9 w^3 operations."""
        offset = (self._sums[number] / self.tokens).astype(np.float32)
        covariance = self._products[number] / self.tokens - np.outer(offset, offset)
        covariance *= np.outer(scale, scale)
        variances, vectors_ = np.linalg.eigh(covariance)
        spread = np.sqrt(np.maximum(variances[::-1], 0)).astype(np.float32)
        matrix = np.ascontiguousarray(vectors_[:, ::-1]).astype(np.float16)
        return Group(first, last, self._origins[number] + offset, scale, matrix, spread)


def vectors(
    source: BinaryIO,
    start: int,
    layout: SlotLayout,
    rotation: Rotation | None,
    layers: tuple[int, int],
    first: int,
    last: int,
) -> Floats:
    """Return the cells from ``first`` to before ``last`` of a group of layers: float32 [cells, width].

    ``source`` holds the file from ``start`` on. Raises SnapshotNotUnderstood, EOFError.
    """
    positions = np.asarray(layout.positions, np.int32)[first:last]
    straight = Straight(rotation, None if rotation is None else rotation.phases(positions))
    found = []
    for plane in planes_of(layout, layers):
        content = read_cells(source, start, plane, first, last)
        found.append(straight.taken(rows(content, plane.alone(last - first)), plane, 0))
    return np.concatenate(found, axis=1)


def planes_of(layout: SlotLayout, layers: tuple[int, int]) -> list[Plane]:
    """Return the planes of a group of layers in the order of its channels: each layer's K and then its V."""
    values = {plane.layer: plane for plane in layout.values}
    found = []
    for plane in layout.keys[slice(*layers)]:
        found.append(plane)
        if plane.layer in values:
            found.append(values[plane.layer])
    return found


def _of_channels(sensitivity: Sensitivity, widths: Widths, rotation: Rotation | None) -> list[NDArray[np.float64]]:
    """Return the sensitivity of every channel of each layer, in the order of :func:`vectors`."""
    found = []
    for (key_width, value_width), keys, values in zip(widths, sensitivity.keys, sensitivity.values, strict=True):
        parts = [_spread_over(keys, key_width, rotation)]
        if value_width:
            parts.append(np.repeat(values, value_width // len(values)))
        found.append(np.concatenate(parts))
    return found


def _spread_over(keys: NDArray[np.float64], width: int, rotation: Rotation | None) -> NDArray[np.float64]:
    """Return numbers [heads, pairs] for each channel; those that do not rotate take their head's mean."""
    heads, pairs = keys.shape
    length = width // heads
    turning = length if rotation is None or pairs == 1 else rotation.dimensions
    channels = np.repeat(keys, turning // pairs, axis=1)
    resting = np.repeat(keys.mean(axis=1, keepdims=True), length - channels.shape[1], axis=1)
    return np.concatenate([channels, resting], axis=1).reshape(-1)
