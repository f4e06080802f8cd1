"""What each device reads, and how often it multiplies, for one decoded token and for one micro-batch of a prefill.

These are counts, not times: bytes from the tensor table and the cache's rows, multiplications from the shapes.
``speed`` turns them into seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from quietmind.base.errors import UsageError
from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.ggml_types import GgmlType
from quietmind.plan.kv import kv_type as layout_of
from quietmind.plan.placement import DISK, Placement

HOST = "cpu"
STATE_BYTES = 4  # recurrent states and convolutions are kept in f32

# llama.cpp brings weights from the host to a GPU for batches of at least this many tokens, and computes there
# (ggml-cuda.cu, ggml_backend_cuda_device_offload_op: min_batch_size).
UPLOAD_FROM_TOKENS = 32

Component = Literal["dense", "experts", "kv", "output", "embedding"]


@dataclass(frozen=True)
class Part:
    """One stream of work on a device: ``bytes`` read, ``products`` multiplications with addition (2 flops each).

    ``type`` is the element type that is read, which decides what a multiplication costs on a processor. ``rows`` tokens
    are multiplied with a matrix at once, on average: with an expert those that chose it. ``head`` is the length of an
    attention's heads, 0 of what has none.
    """

    component: Component
    type: str
    bytes: float
    products: float
    rows: float = 1.0
    head: int = 0


@dataclass(frozen=True)
class Traffic:
    """What one device does for one decoded token, or for one micro-batch of a prefill.

    ``layers`` counts the layers whose dense part is computed here, of them ``recurrent`` those with a recurrent state,
    ``mixtures`` those whose experts are multiplied here, ``handovers`` those whose experts live on another device than
    the dense part, so that every token waits for two crossings. ``uploaded_bytes`` cross the link to
    this device, once a micro-batch, because the host holds weights that this device multiplies with.
    """

    parts: tuple[Part, ...]
    layers: int = 0
    handovers: int = 0
    uploaded_bytes: float = 0.0
    mixtures: int = 0
    recurrent: int = 0

    @property
    def bytes(self) -> float:
        """Bytes read from this device's memory."""
        return sum(part.bytes for part in self.parts)

    @property
    def flops(self) -> float:
        """Floating-point operations: a multiplication and its addition count as two."""
        return 2 * sum(part.products for part in self.parts)

    def component(self, component: Component) -> float:
        """Return the bytes that one component reads here."""
        return sum(part.bytes for part in self.parts if part.component == component)


def distinct_experts(experts: int, used: int, tokens: int) -> float:
    """Return how many of ``experts`` at least one of ``tokens`` visits, if each chooses ``used`` of them at random.

    An expert is passed over by one token with probability 1 - used / experts, by all with that to the power of tokens.
    """
    return experts * (1.0 - (1.0 - used / experts) ** tokens)


def traffic(
    card: ModelCard, placement: Placement, *, kv_type: str, depth: int, experts_used: int | None = None
) -> Mapping[str, Traffic]:
    """Return, by device key, what decoding one token costs with ``depth`` tokens in the cache.

    ``experts_used`` None: as the model was trained. Raises UsageError for a KV type that the engine does not offer,
    and for more experts than there are.
    """
    return _counted(card, placement, layout_of(kv_type), depth, 1, _used(card, experts_used))


def prefill_traffic(
    card: ModelCard,
    placement: Placement,
    *,
    kv_type: str,
    depth: int,
    micro_batch: int,
    experts_used: int | None = None,
    uploads: bool = True,
) -> Mapping[str, Traffic]:
    """Return, by device key, what prefilling ``micro_batch`` tokens behind ``depth`` others costs.

    Weights are read once a micro-batch; of the experts, those that any of its tokens visits. Weights that the host
    holds are brought to a GPU, where there is one, and multiplied there. Logits are wanted of the last token of a whole
    prompt alone, so the output projection counts for nothing. ``uploads`` False: the engine leaves the host's weights
    where they are and multiplies there (``--no-op-offload``). Raises UsageError as ``traffic`` does.
    """
    return _counted(card, placement, layout_of(kv_type), depth, micro_batch, _used(card, experts_used), uploads=uploads)


def _used(card: ModelCard, experts_used: int | None) -> int:
    used = card.experts_used if experts_used is None else experts_used
    if card.experts and not 1 <= used <= card.experts:
        raise UsageError(f"{card.name} has {card.experts} experts; {used} of them cannot be used")
    return used


# What a layer's weights are, by type: (bytes, elements).
Weights = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class _Layer:
    dense: Weights
    experts: Weights


@dataclass(frozen=True)
class _Model:
    """The tensor table, summed by layer and part: the layers that differ, and which of these each layer is like."""

    kinds: tuple[_Layer, ...]
    layers: tuple[int, ...]
    output: Weights
    embedding: str  # its type
    embedding_row: int  # bytes


class _SameTable:
    """A tensor table as a cache key: compared by identity, because comparing a thousand tensors costs more."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def __hash__(self) -> int:
        return id(self.card.tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameTable) and self.card.tensors is other.card.tensors


@lru_cache(maxsize=16)
def _model(table: _SameTable) -> _Model:
    card = table.card
    dense: list[dict[str, tuple[int, int]]] = [{} for _ in range(card.layers)]
    experts: list[dict[str, tuple[int, int]]] = [{} for _ in range(card.layers)]
    output: dict[str, tuple[int, int]] = {}
    embedding: Tensor | None = None
    for tensor in card.tensors:
        prefix, _, rest = tensor.name.partition(".")
        number = rest.partition(".")[0]
        if prefix == "blk" and number.isdecimal():
            if int(number) < card.layers:  # layers behind the last predict further tokens, and are not run
                _add((experts if "_exps" in tensor.name else dense)[int(number)], tensor)
        elif tensor.name == "token_embd.weight":
            embedding = tensor
        elif prefix in ("output", "output_norm"):
            _add(output, tensor)
    if embedding is not None and card.tied_output:
        _add(output, embedding)
    layers = [_Layer(*pair) for pair in zip(dense, experts, strict=True)]
    kinds = [layer for number, layer in enumerate(layers) if layer not in layers[:number]]
    return _Model(
        tuple(kinds),
        tuple(kinds.index(layer) for layer in layers),
        output,
        "f16" if embedding is None else embedding.type,
        0 if embedding is None else embedding.bytes // max(1, embedding.shape[-1]),
    )


def _add(weights: dict[str, tuple[int, int]], tensor: Tensor) -> None:
    size, elements = weights.get(tensor.type, (0, 0))
    weights[tensor.type] = (size + tensor.bytes, elements + prod(tensor.shape))


def _counted(
    card: ModelCard, placement: Placement, kv: GgmlType, depth: int, tokens: int, used: int, *, uploads: bool = True
) -> Mapping[str, Traffic]:
    model = _model(_SameTable(card))
    touched = distinct_experts(card.experts, used, tokens) / card.experts if card.experts else 0.0
    visits = used / card.experts if card.experts else 0.0
    tally = _Tally(placement, tokens, uploads=uploads)
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, kind in enumerate(model.layers):
        homes = placement.dense[number], placement.experts[number], placement.kv[number]
        alike.setdefault((*homes, kind, card.layer_kinds[number], card.kv_heads[number]), []).append(number)
    for number, *others in alike.values():
        layer, count = model.kinds[model.layers[number]], 1 + len(others)
        dense, experts = placement.dense[number], placement.experts[number]
        tally.layers(count, dense, experts, recurrent=card.layer_kinds[number] is LayerKind.LINEAR)
        tally.weights("dense", dense, layer.dense, read=1.0, visited=1.0, count=count)
        if experts:
            tally.weights("experts", experts, layer.experts, touched, visits, beside=dense, count=count)
        for read, products in _attention(card, number, kv, depth, tokens):
            part = Part("kv", kv.name, read * count, products * count, head=card.key_length)
            tally.add(placement.kv[number], part)
    if tokens == 1:
        tally.weights("output", placement.output, model.output, read=1.0, visited=1.0)
    tally.add(placement.embedding, Part("embedding", model.embedding, model.embedding_row * tokens, 0.0))
    return tally.traffic()


def _attention(card: ModelCard, layer: int, kv: GgmlType, depth: int, tokens: int) -> Iterator[tuple[float, float]]:
    """Yield what the attention of one layer reads and multiplies for ``tokens`` behind ``depth`` others."""
    kind, heads = card.layer_kinds[layer], card.kv_heads[layer]
    if kind is LayerKind.LINEAR:
        if card.recurrent is not None:
            yield (
                (card.recurrent.state_elements + card.recurrent.convolution_elements)
                * STATE_BYTES
                * (2 if tokens == 1 else 1),  # read and written a token; a prefill keeps it in registers for a chunk
                2.0 * card.recurrent.state_elements * tokens,  # one pass to update the state, one to read from it
            )
        return
    cells = float(depth + tokens)
    seen = depth + (tokens + 1) / 2  # a token attends to what is before it: on average half of its micro-batch
    if kind is LayerKind.SLIDING and card.sliding_window is not None:
        cells = min(cells, float(card.sliding_window + tokens - 1))
        seen = cells if tokens > 1 else min(seen, cells)  # the rest is masked, not left out
    if kind is LayerKind.LATENT and card.latent is not None:
        row = card.latent.kv_rank + card.latent.rope_length  # one row for all heads; the values are its first part
        yield (
            cells * row * kv.bytes_per_element,
            tokens
            * seen
            * card.heads  # every head attends in the compressed space
            * (row + card.latent.kv_rank),  # a product with the whole row, a sum over its values
        )
    elif heads:
        yield (
            cells * heads * (card.key_length + card.value_length) * kv.bytes_per_element,
            tokens * seen * card.heads * (card.key_length + card.value_length),
        )


@dataclass
class _Counts:
    bytes: float = 0.0
    products: float = 0.0
    rows: float = 0.0
    head: int = 0


class _Tally:
    """Sums parts by device, component and type, and brings weights to where they are multiplied."""

    def __init__(self, placement: Placement, tokens: int, *, uploads: bool) -> None:
        accelerators = [key for key in placement.devices if key not in (HOST, DISK, "metal")]
        # The host's weights go to a GPU only if there is one and the batch is worth the way.
        self._uploads = uploads and bool(accelerators) and tokens >= UPLOAD_FROM_TOKENS
        self._first = accelerators[0] if accelerators else HOST
        self._tokens = tokens
        self._counts: dict[str, dict[tuple[Component, str], _Counts]] = {}
        self._layers: Counter[str] = Counter()
        self._mixtures: Counter[str] = Counter()
        self._recurrent: Counter[str] = Counter()
        self._handovers: Counter[str] = Counter()
        self._uploaded: dict[str, float] = {}

    def layers(self, count: int, dense: str, experts: str, *, recurrent: bool) -> None:
        self._layers[dense] += count
        self._recurrent[dense] += count * recurrent
        if experts:
            self._mixtures[self._computed(experts, dense)] += count
        if experts and experts != dense and not self._uploads:
            self._handovers[experts] += count

    def _computed(self, key: str, beside: str | None) -> str:
        """Return where weights on ``key`` are multiplied: uploaded ones beside their layer's dense part on a GPU."""
        if not self._uploads or key not in (HOST, DISK):
            return key
        return self._first if beside is None or beside in (HOST, DISK, "metal") else beside

    def weights(
        self,
        component: Component,
        key: str,
        weights: Weights,
        read: float,
        visited: float,
        beside: str | None = None,
        count: int = 1,
    ) -> None:
        """Count weights of which ``read`` are read and ``visited`` are multiplied with each token, as shares.

        ``count`` layers have them.
        """
        computed = self._computed(key, beside)
        rows = self._tokens * visited / read if read else 0.0
        for kind, (size, elements) in weights.items():
            read_bytes = size * read * count
            if computed != key:
                self._uploaded[computed] = self._uploaded.get(computed, 0.0) + read_bytes
                self.add(key, Part(component, kind, read_bytes if key == DISK else 0.0, 0.0))
            self.add(computed, Part(component, kind, read_bytes, elements * visited * self._tokens * count, rows))

    def add(self, key: str, part: Part) -> None:
        counts = self._counts.setdefault(key, {}).setdefault((part.component, part.type), _Counts())
        counts.bytes += part.bytes
        counts.products += part.products
        counts.rows = max(counts.rows, part.rows)
        counts.head = max(counts.head, part.head)

    def traffic(self) -> dict[str, Traffic]:
        return {
            key: Traffic(
                tuple(
                    Part(component, kind, c.bytes, c.products, c.rows, c.head)
                    for (component, kind), c in counts.items()
                ),
                self._layers[key],
                self._handovers[key],
                self._uploaded.get(key, 0.0),
                self._mixtures[key],
                self._recurrent[key],
            )
            for key, counts in self._counts.items()
        }
