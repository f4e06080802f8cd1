"""The compute graph under construction: what every part of a layer is handed, and the steps that all of them share.

Operations that always overwrite their operand (biases, RoPE, scaling, activations in place) take no room and are left
out; so are views, which are never overwritten. A norm and the product with its weight are two results: the sources let
the second overwrite the first, but only without that do the sizes agree with what the engine reports.
"""

from __future__ import annotations

from dataclasses import dataclass

from quietmind.model.card import LayerKind
from quietmind.model.ggml_types import GgmlType
from quietmind.plan.allocator import Graph
from quietmind.plan.graph_shape import GraphShape
from quietmind.plan.kv import window_cells

F32, F16, I32, I64 = 4, 2, 4, 8  # bytes

# Quantized heads are rotated by a Hadamard matrix when their length is a multiple of this.
ROTATION = 64


@dataclass(frozen=True)
class CacheInputs:
    """What attention over one cache is handed: the mask, where to write K and V, and rotations (None: not rotated).

    ``cells`` is how many tokens the cache holds, ``value_cells`` None where values are part of the keys.
    """

    cells: int
    mask: int
    key_cells: int
    value_cells: int | None
    key_rotation: int | None
    value_rotation: int | None


class Build:
    """A graph and what it is built for. ``tokens`` falls to 1 in the last layer: only the last token is wanted."""

    def __init__(self, shape: GraphShape, context: int, micro_batch: int, kind: GgmlType, flash: bool) -> None:
        self.shape = shape
        self.context = context
        self.kind = kind
        self.flash = flash
        self.tokens = micro_batch
        self.graph = Graph()
        self.state_copies: int | None = None
        self._caches: dict[LayerKind, CacheInputs] = {}

    def wide(self, elements: int) -> int:
        """Return the bytes of ``elements`` f32 values for every token of the micro-batch."""
        return F32 * elements * self.tokens

    def normed(self, stream: int, elements: int) -> int:
        """Add a norm of ``elements`` a token and the product with its weight."""
        size = self.wide(elements)
        return self.graph.result(size, self.graph.result(size, stream))

    def rotated(self, vectors: int, size: int, rotation: int | None) -> int:
        """Add the product with a rotation, if there is one."""
        return vectors if rotation is None else self.graph.result(size, rotation, vectors)

    def cache(self, kind: LayerKind) -> CacheInputs:
        """Return the inputs of attention over the cache of layers of ``kind``, reserved at the first use."""
        if kind not in self._caches:
            self._caches[kind] = self._latent_inputs() if kind is LayerKind.LATENT else self._inputs(kind)
        return self._caches[kind]

    def reserve_state_copies(self) -> None:
        """Reserve the input that says which recurrent state each sequence goes on from: one sequence."""
        self.state_copies = self.graph.input(I32)

    def _mask(self, cells: int) -> int:
        return self.graph.input(
            (F16 if self.flash else F32)  # flash attention reads a half-precision mask
            * cells  # one value for every token in the cache
            * self.tokens  # and every token of the micro-batch
        )

    def _latent_inputs(self) -> CacheInputs:
        key_cells = self.graph.input(I64 * self.tokens)
        return CacheInputs(self.context, self._mask(self.context), key_cells, None, None, None)

    def _inputs(self, kind: LayerKind) -> CacheInputs:
        graph, shape, tokens = self.graph, self.shape, self.tokens
        key_rotation = value_rotation = None
        if self.kind.block > 1:
            if shape.key_length % ROTATION == 0:
                size = shape.key_length & -shape.key_length  # the largest power of two that divides it
                key_rotation = graph.input(F32 * size * size)
            if shape.value_length % ROTATION == 0:
                value_rotation = graph.input(F32 * ROTATION * ROTATION)
        key_cells = graph.input(I64 * tokens)
        widest = max(layer.kv_heads for layer in shape.layers) * shape.value_length
        value_cells = graph.input(
            I64
            * tokens
            * (1 if self.flash else widest)  # without flash attention V is stored transposed, one index an element
        )
        cells = self.context
        if kind is LayerKind.SLIDING and shape.window is not None:
            cells = window_cells(shape.window, cells, tokens)
        return CacheInputs(cells, self._mask(cells), key_cells, value_cells, key_rotation, value_rotation)
