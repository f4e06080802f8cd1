"""K as they were before their rotation, from an engine's file and back into one.

What turns together lies side by side here, whatever the model's order: then a rotation is one complex product.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import SnapshotNotUnderstood
from quietmind.kvstore.floats import HALF_SCALE, Floats, half_bits
from quietmind.kvstore.rotation import Pairs, Phases, Rotation
from quietmind.kvstore.slots import Plane, put_rows

# What codecs with loss decode is nowhere larger, whatever its bytes: no model's K or V come near, and rotated, which
# makes it half as long again and LARGEST_MAGNITUDE times, it still is a 16-bit float.
LARGEST = 12_000.0
LARGEST_MAGNITUDE = 3.0


@dataclass(frozen=True)
class Straight:
    """How K at known positions turn: by ``phases``, complex64 [cells, pairs]; both None where they do not."""

    rotation: Rotation | None
    phases: Phases | None

    @classmethod
    def at(cls, rotation: Rotation | None, positions: Sequence[int] | array[int] | NDArray[Any]) -> Self:
        """Return how K at ``positions`` turn. Raises SnapshotNotUnderstood where that makes them much longer."""
        if rotation is None:
            return cls(None, None)
        if rotation.magnitude > LARGEST_MAGNITUDE:
            raise SnapshotNotUnderstood(
                f"a rotation that makes K {rotation.magnitude:g} times longer; they are kept losslessly"
            )
        return cls(rotation, rotation.phases(positions))

    def taken(self, numbers: Floats, plane: Plane, first: int) -> Floats:
        """Return ``numbers`` [cells, width] of ``plane`` from cell ``first`` on, K without their rotation."""
        if self.rotation is None or self.phases is None or plane.part == "v":
            return numbers
        phases = np.conj(self.phases[first : first + len(numbers)])
        phases *= np.float32(self.rotation.magnitude**-2)
        heads = numbers.reshape(len(numbers), -1, self.rotation.head_length)
        pairs = self.rotation.as_pairs(heads)
        pairs *= phases[:, None]
        straight, resting = pairs.view(np.float32), heads[..., self.rotation.dimensions :]
        if resting.size:
            straight = np.concatenate((straight, resting), axis=-1)
        return straight.reshape(numbers.shape)

    def turns(self, plane: Plane) -> Rotation | None:
        """Return how K turn; None for V, and where they do not."""
        return self.rotation if plane.part == "k" else None

    def put(self, target: memoryview, plane: Plane, first: int, numbers: Floats, scale: float = 1.0) -> None:
        """Write ``scale`` times ``numbers`` [cells, width] to ``plane`` from cell ``first`` on, K with their rotation.

        ``numbers`` is overwritten. What comes out must be smaller than the largest 16-bit float.
        """
        halves = halves_of(target, plane, first, len(numbers))
        rotation = self.turns(plane)
        if rotation is None or self.phases is None:
            numbers *= np.float32(scale) if halves is None else np.float32(scale) / HALF_SCALE
            heads = numbers[:, None]
        else:
            heads = numbers.reshape(len(numbers), -1, rotation.head_length)
            # The scale is multiplied in here, since the numbers have to be gone through for their phases anyway; that
            # of 16-bit floats is not: sines near 0 would get so small that processors take 100 times longer over them.
            phases = self.phases[first : first + len(numbers)] * np.float32(scale)
            pairs = heads[..., : rotation.dimensions].view(np.complex64)
            pairs *= phases[:, None]
            if rotation.dimensions < rotation.head_length:
                heads[..., rotation.dimensions :] *= np.float32(scale)
            if halves is not None:
                numbers *= 1 / HALF_SCALE
        if halves is not None:
            _put_halves(rotation, half_bits(heads), halves.reshape(heads.shape))
        else:
            ordered = np.empty_like(heads)
            _copy_in_order(rotation, heads, ordered)
            put_rows(target, plane, first, ordered.reshape(numbers.shape))


def halves_of(target: memoryview, plane: Plane, first: int, cells: int) -> NDArray[np.uint16] | None:
    """Return ``cells`` rows of a plane, from the ``first`` on, as they lie in ``target``: the bits of 16-bit floats.

    None where they lie in another way.
    """
    if plane.type != "f16" or plane.hadamard or plane.transposed:
        return None
    found = np.frombuffer(target, "<u2", cells * plane.width, plane.offset + first * plane.row_bytes)
    return found.reshape(cells, plane.width)


def _put_halves(rotation: Rotation | None, bits: NDArray[np.uint32], out: NDArray[np.uint16]) -> None:
    """Copy the lower halves of ``bits`` [cells, heads, head length] as :func:`_copy_in_order` does; they are lost.

    Two numbers that turn together are taken as one of 64 bits, of which NumPy cuts the lowest 16 by the vector; to
    pick every second number it goes one by one.
    """
    if rotation is None or rotation.pairs is Pairs.NEIGHBOURS:
        np.copyto(out, bits, casting="unsafe")
        return
    half = rotation.dimensions // 2
    pairs = bits[..., : 2 * half].view(np.uint64)
    np.copyto(out[..., :half], pairs, casting="unsafe")
    pairs >>= np.uint64(32)
    np.copyto(out[..., half : 2 * half], pairs, casting="unsafe")
    np.copyto(out[..., 2 * half :], bits[..., 2 * half :], casting="unsafe")


def _copy_in_order(rotation: Rotation | None, heads: Floats, out: Floats) -> None:
    """Copy ``heads`` [cells, heads, head length], with pairs side by side, to ``out`` as the model has them."""
    if rotation is None or rotation.pairs is Pairs.NEIGHBOURS:
        np.copyto(out, heads)
        return
    half = rotation.dimensions // 2
    np.copyto(out[..., :half], heads[..., 0 : 2 * half : 2])
    np.copyto(out[..., half : 2 * half], heads[..., 1 : 2 * half : 2])
    np.copyto(out[..., 2 * half :], heads[..., 2 * half :])
