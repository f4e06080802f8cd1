"""Learning a basis: means and covariances of a model's K and V over saved caches, and their principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.arrays import layout_of
from quietmind.kvstore.basis import MOST_WIDTH, NARROWING, Basis, Group, Widths, grouped, widths_of
from quietmind.kvstore.codec.straight import Straight
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Rotation
from quietmind.kvstore.slots import Plane, SlotLayout, read_cells, rows

# The first tokens are unlike all others and exact in every snapshot (Xiao et al., "attention sinks", arXiv 2309.17453).
SINKS = 4

# Fewer tokens than this for each channel of a group would give components of the sample and not of the model.
LEAST_TOKENS_A_CHANNEL = 1.0

_RIDGE = 0.003

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

    Memory: 4 bytes for each two channels of a group and of it and the one before, 34 MB a group of 2,048, and a stretch
    of 1,024 tokens.
    """

    def __init__(self, layout: SlotLayout, rotation: Rotation | None, most_width: int = MOST_WIDTH) -> None:
        self.widths = widths_of(layout)
        self.rotation = rotation
        self.tokens = 0
        self._bounds = tuple(grouped(self.widths, most_width))
        self._origins: list[Floats] = []  # what is near the mean, so that squares do not cancel
        self._sums: list[NDArray[np.float64]] = []
        self._products: list[Floats] = []  # of a group with itself: [width, width]
        self._across: list[Floats] = []  # of the group before and a group: [width before, width]

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
            before = np.empty((last - first, 0), np.float32)
            for number, bounds in enumerate(self._bounds):
                found = vectors(source, start, layout, self.rotation, bounds, first, last)
                before = self._count(number, found, before)
            self.tokens += last - first

    def _count(self, number: int, found: Floats, before: Floats) -> Floats:
        """Add the vectors of a group, and how they go with those of the group before; return what that is next."""
        if number == len(self._sums):
            width = found.shape[1]
            self._origins.append(found.mean(axis=0))
            self._sums.append(np.zeros(width))
            self._products.append(np.zeros((width, width), np.float32))
            self._across.append(np.zeros((before.shape[1], width), np.float32))
        found = found - self._origins[number]
        self._sums[number] += found.sum(axis=0, dtype=np.float64)
        self._products[number] += found.T @ found
        self._across[number] += before.T @ found
        return found

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
        scales = [
            (np.sqrt(np.concatenate(weights[first:last])) * unit).astype(np.float32) for first, last in self._bounds
        ]
        groups = tuple(self._group(number, scales) for number in range(len(self._bounds)))
        made = Basis(fingerprint, self.rotation, self.widths, groups, {}, dict(note or {}))
        return made.with_steps(steps)

    def _offset(self, number: int) -> Floats:
        found: Floats = (self._sums[number] / self.tokens).astype(np.float32)
        return found

    def _covariance(self, number: int, scale: Floats) -> Floats:
        """Return the covariance of a group's weighted channels, float32 [width, width]."""
        offset = self._offset(number)
        found = self._products[number] / np.float32(self.tokens)
        found -= np.outer(offset, offset)
        found *= np.outer(scale, scale)
        return found

    def _covariance_across(self, number: int, scales: Sequence[Floats]) -> Floats:
        """Return the same of the group before and this one, float32 [width before, width]."""
        found = self._across[number] / np.float32(self.tokens)
        found -= np.outer(self._offset(number - 1), self._offset(number))
        found *= np.outer(scales[number - 1], scales[number])
        return found

    def _group(self, number: int, scales: Sequence[Floats]) -> Group:
        """Return a group with its components. Takes 20 w^3 operations or so."""
        first, last = self._bounds[number]
        scale = scales[number]
        covariance = self._covariance(number, scale)
        narrow, widen = self._expected(number, scales)
        if narrow.shape[1]:
            before = self._covariance(number - 1, scales[number - 1])
            across = self._covariance_across(number, scales)
            expecting = narrow @ widen
            told = expecting.T @ across
            covariance += expecting.T @ before @ expecting - told - told.T
        variances, components = np.linalg.eigh(covariance)
        return Group(
            first,
            last,
            mean=self._origins[number] + self._offset(number),
            scale=scale,
            matrix=np.ascontiguousarray(components[:, ::-1]).astype(np.float16),
            spread=np.sqrt(np.maximum(variances[::-1], 0)).astype(np.float32),
            narrow=narrow.astype(np.float16),
            widen=widen.astype(np.float16),
        )

    def _expected(self, number: int, scales: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return how a group is expected from the one before: through its principal directions, by least squares.

        float32 [width before, p] and [p, width]. A share of the mean variance is added (ridge regression), since there
        are not many more tokens than directions.
        """
        if not number:
            return np.zeros((0, 0), np.float32), np.zeros((0, len(scales[0])), np.float32)
        before = self._covariance(number - 1, scales[number - 1])
        across = self._covariance_across(number, scales)
        variances, directions = np.linalg.eigh(before)
        count = max(1, len(before) // NARROWING)
        narrow = np.ascontiguousarray(directions[:, ::-1][:, :count])
        kept = np.maximum(variances[::-1][:count], 0)
        widen = (narrow.T @ across) / (kept + _RIDGE * kept.mean() + np.float32(1e-12))[:, None]
        return narrow, widen


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
    straight = Straight.at(rotation, positions)
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
