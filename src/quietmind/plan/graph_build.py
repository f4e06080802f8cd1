"""The compute graph under construction: what every part of a layer is handed, and the steps that all of them share.

The engine's operations are added in the engine's order. Left out are views, which take no room, and operations that
always overwrite their only operand (biases, scaling, activations, the product of a norm with its weight, RoPE on what
a norm left): they change neither a place nor when it falls free. What reads a tensor through a view never overwrites
it, so such a step has a place of its own.
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

# Architectures whose RoPE works in sections, for time and place in a picture, each with positions of its own.
_SECTIONED = frozenset({"qwen35", "qwen35moe"})
_POSITIONS = 4  # of each token


@dataclass(frozen=True)
class CacheInputs:
    """What attention over one cache is handed: where to write K and V, and the mask over its ``cells`` tokens.

    ``value_cells`` is None where values are part of the keys.
    """

    cells: int
    key_cells: int
    value_cells: int | None
    mask: int


class Build:
    """A graph and what it is built for. ``tokens`` falls to one a sequence in the last layer: no others are wanted.

    Inputs are reserved where they are first read: the engine gives them their places in that order.
    """

    def __init__(
        self, shape: GraphShape, context: int, micro_batch: int, kind: GgmlType, flash: bool, sequences: int = 1
    ) -> None:
        self.shape = shape
        self.context = context
        self.kind = kind
        self.flash = flash
        self.tokens = micro_batch
        self.sequences = sequences
        self.graph = Graph()
        self._positions: int | None = None
        self._scales: int | None = None
        self._state_copies: int | None = None
        self._rotations: dict[tuple[LayerKind, str], int] = {}
        self._caches: dict[LayerKind, CacheInputs] = {}

    def wide(self, elements: int) -> int:
        """Return the bytes of ``elements`` f32 values for every token of the micro-batch."""
        return F32 * elements * self.tokens

    def project(self, elements: int, *sources: int) -> int:
        """Add a matrix product, or another step that never overwrites what it reads: ``elements`` a token."""
        return self.graph.result(self.wide(elements), *sources)

    def normed(self, stream: int) -> int:
        """Add a norm over the residual ``stream``, in its place where nothing reads it later."""
        return self.graph.result(self.wide(self.shape.hidden), stream, overwrites=(stream,))

    def query_scales(self) -> tuple[int, ...]:
        """Return the input that scales queries by their position, nothing where they are not scaled."""
        if not self.shape.scaled_queries:
            return ()
        if self._scales is None:
            self._scales = self.graph.input(F32 * self.tokens)
        return (self._scales,)

    def positions(self) -> int:
        """Return the input of RoPE."""
        if self._positions is None:
            each = _POSITIONS if self.shape.arch in _SECTIONED else 1
            self._positions = self.graph.input(I32 * self.tokens * each)
        return self._positions

    def state_copies(self) -> int:
        """Return the input that says which recurrent state each sequence goes on from."""
        if self._state_copies is None:
            self._state_copies = self.graph.input(I32 * self.sequences)
        return self._state_copies

    def rotation(self, kind: LayerKind, length: int, part: str) -> int | None:
        """Return the matrix that rotates heads of ``length`` before a quantized cache, None where there is none.

        Keys and queries ("key") are rotated whole, values ("value") in stretches of ROTATION.
        """
        if self.kind.block == 1 or length % ROTATION:
            return None
        if (kind, part) not in self._rotations:
            size = length & -length if part == "key" else ROTATION  # the largest power of two that divides it
            self._rotations[kind, part] = self.graph.input(F32 * size * size)
        return self._rotations[kind, part]

    def rotated(self, vectors: int, elements: int, rotation: int | None) -> int:
        """Add the product with a rotation, if there is one."""
        return vectors if rotation is None else self.project(elements, rotation, vectors)

    def cache(self, kind: LayerKind) -> CacheInputs:
        """Return the inputs of attention over the cache of layers of ``kind``."""
        if kind not in self._caches:
            self._caches[kind] = self._inputs(kind)
        return self._caches[kind]

    def _inputs(self, kind: LayerKind) -> CacheInputs:
        shape, tokens = self.shape, self.tokens
        key_cells = self.graph.input(I64 * tokens)
        value_cells = None
        if kind is not LayerKind.LATENT:
            widest = max(layer.kv_heads for layer in shape.layers) * shape.value_length
            value_cells = self.graph.input(
                I64
                * tokens
                * (1 if self.flash else widest)  # without flash attention V is stored transposed, one index an element
            )
        cells = self.context
        if kind is LayerKind.SLIDING and shape.window is not None:
            cells = window_cells(shape.window, cells, tokens)
        mask = self.graph.input(
            (F16 if self.flash else F32)  # flash attention reads a half-precision mask
            * cells  # one value for every token in the cache
            * tokens  # and every token of the micro-batch
        )
        return CacheInputs(cells, key_cells, value_cells, mask)
