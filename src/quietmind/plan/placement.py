"""Where the parts of a model live: what placement decides, the ledger counts and the speed is computed from."""

from __future__ import annotations

from dataclasses import dataclass

# A part that is larger than all memory is read from the disk again for every token (mapped, never resident).
DISK = "disk"


@dataclass(frozen=True)
class Placement:
    """One device key for each part; the per-layer fields have one entry a layer.

    ``dense`` holds what every token reads of a layer: attention, norms, router, dense and shared feed-forward.
    ``experts`` holds the layer's routed experts, "" where it has none; an engine keeps a layer's experts together.
    ``kv`` holds its cache. ``embedding`` is read a row a token; ``output`` is the output norm and projection.
    """

    dense: tuple[str, ...]
    experts: tuple[str, ...]
    kv: tuple[str, ...]
    embedding: str
    output: str

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that holds something, in order of first use."""
        parts = (*self.dense, *self.experts, *self.kv, self.embedding, self.output)
        return tuple(key for key in dict.fromkeys(parts) if key)


def everything_on(key: str, layers: int, expert_layers: frozenset[int] = frozenset()) -> Placement:
    """Return the placement of a model that lives on one device whole. ``expert_layers`` are those with experts."""
    return Placement(
        dense=(key,) * layers,
        experts=tuple(key if layer in expert_layers else "" for layer in range(layers)),
        kv=(key,) * layers,
        embedding=key,
        output=key,
    )
