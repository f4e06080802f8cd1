"""How much memory a compute graph takes: the engine's graph allocator, replayed on sizes alone.

ggml gives every intermediate result a place in one buffer, hands places back after their last use, takes the smallest
hole that fits, and lets some operations overwrite an operand. The buffer is as long as the furthest place ever used,
holes included, so no closed formula gives it; this replays the decisions. Source: ggml/src/ggml-alloc.c of llama.cpp
(ggml_gallocr_alloc_graph_impl, ggml_dyn_tallocr_alloc), autumn 2026.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

ALIGNMENT = 32  # of the CPU buffer type
ENDLESS = 1 << 62


# Where the buffer stands: offsets and lengths of its free blocks, and the place of a result.
State = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True)
class Replay:
    """``peak``: bytes of the buffer. ``states``: where it stood at every mark, in order.

    From equal states, equal operations lead to equal states: repeating them adds nothing to the peak.
    """

    peak: int
    states: tuple[State, ...]


class Graph:
    """A compute graph under construction. Results are numbered as they are added; sizes are in bytes.

    Views are not results of their own: an operation that reads a view of a result names that result.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._sources: list[tuple[int, ...]] = []
        self._overwrites: list[tuple[int, ...]] = []
        self._inputs: list[int] = []
        self._pinned: set[int] = set()
        self._marks: dict[int, int] = {}

    def input(self, size: int) -> int:
        """Add a tensor that is filled in before the graph runs, and so has its place from the start."""
        number = self._add(size, (), ())
        self._inputs.append(number)
        return number

    def result(self, size: int, *sources: int, overwrites: tuple[int, ...] = ()) -> int:
        """Add an operation on ``sources``. It takes the place of the first of ``overwrites`` in its last use."""
        return self._add(size, sources, overwrites)

    def consume(self, *sources: int) -> None:
        """Add an operation that only writes to memory outside the graph, such as the KV cache."""
        self._add(0, sources, ())

    def pin(self, number: int) -> None:
        """Keep the place of a result to the end of the graph."""
        self._pinned.add(number)

    def mark(self, number: int) -> None:
        """Note where the buffer stands here, with the result ``number`` in it; ``replay`` returns it."""
        self._marks[len(self._sizes)] = number

    def _add(self, size: int, sources: tuple[int, ...], overwrites: tuple[int, ...]) -> int:
        self._sizes.append(-(-size // ALIGNMENT) * ALIGNMENT)
        self._sources.append(sources)
        self._overwrites.append(overwrites)
        return len(self._sizes) - 1

    def peak(self) -> int:
        """Return the bytes of the buffer that holds every result while it is needed."""
        return self.replay().peak

    def replay(self) -> Replay:
        """Return what giving every result its place leads to."""
        uses = [0] * len(self._sizes)
        for sources in self._sources:
            for source in sources:
                uses[source] += 1
        place: dict[int, int] = {}
        buffer = _Buffer()
        states: list[State] = []
        for number in self._inputs:
            place[number] = buffer.take(self._sizes[number])
        for number, sources in enumerate(self._sources):
            if number in self._marks:
                states.append((*buffer.free(), place[self._marks[number]]))
            if number not in place and self._sizes[number]:
                heir = next(
                    (
                        source
                        for source in self._overwrites[number]
                        if source in place and uses[source] == 1 and source not in self._pinned
                    ),
                    None,
                )
                place[number] = buffer.take(self._sizes[number]) if heir is None else place.pop(heir)
            for source in sources:
                uses[source] -= 1
                if uses[source] == 0 and source in place and source not in self._pinned:
                    buffer.give(place.pop(source), self._sizes[source])
        return Replay(buffer.peak, tuple(states))


class _Buffer:
    """Free blocks by their offsets; the last one has no end."""

    def __init__(self) -> None:
        self._offsets = [0]
        self._lengths = [ENDLESS]
        self.peak = 0

    def take(self, size: int) -> int:
        """Return the offset of the smallest block that holds ``size`` bytes, the endless one only in need."""
        best = len(self._offsets) - 1
        for index in range(len(self._offsets) - 1):
            if size <= self._lengths[index] <= self._lengths[best]:  # of equal blocks, the last
                best = index
        offset = self._offsets[best]
        self._offsets[best] += size
        self._lengths[best] -= size
        if self._lengths[best] == 0:
            del self._offsets[best], self._lengths[best]
        self.peak = max(self.peak, offset + size)
        return offset

    def free(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the offsets and the lengths of the free blocks."""
        return tuple(self._offsets), tuple(self._lengths)

    def give(self, offset: int, size: int) -> None:
        """Return a block, joined with the free ones that touch it."""
        index = bisect_left(self._offsets, offset)
        if index < len(self._offsets) and offset + size == self._offsets[index]:
            size += self._lengths.pop(index)
            del self._offsets[index]
        if index > 0 and self._offsets[index - 1] + self._lengths[index - 1] == offset:
            self._lengths[index - 1] += size
            return
        self._offsets.insert(index, offset)
        self._lengths.insert(index, size)
