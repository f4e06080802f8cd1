"""Notices when a model that should stay in memory is read from the disk while it decodes, or is far too slow."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Protocol

from quietmind.base.units import MIB, format_bytes
from quietmind.engine.port import Delta, Engine, Finished, Timings
from quietmind.engine.vitals import Vitals, processes_of, vitals

if TYPE_CHECKING:
    import psutil

# A shorter answer says more about starting and stopping than about speed.
LEAST_TOKENS = 16
# Bytes from the disk for each token past which a model is being paged in. Logs and the like are far below.
PAGED_FROM = MIB
# So many times its weights may an engine read from disks while it is kept running: once to load them, and what else it
# reads is little beside them.
WEIGHTS_READ = 2.0
# The share of the slowest predicted speed below which something else must be wrong.
FAR_UNDER = 0.5


class Expectation(Protocol):
    """What the plan says of a run."""

    @property
    def pages(self) -> bool:
        """Whether the plan itself reads weights from the disk for each token."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's weights; 0 where they are not known."""

    def decode_at_least(self, depth: int) -> float | None:
        """Return the tokens a second that the plan is sure of at ``depth``; None where it has no opinion."""


class Paging:
    """Looks at each generation of an engine, and tells about paging and slowness once a run."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._processes: weakref.WeakKeyDictionary[Engine, tuple[psutil.Process, ...]] = weakref.WeakKeyDictionary()
        self._told: weakref.WeakSet[Engine] = weakref.WeakSet()

    def watch(
        self, engine: Engine, events: Generator[Delta | Finished], expected: Expectation
    ) -> Generator[Delta | Finished]:
        """Hand on ``events``; closing this closes them."""
        before: Vitals | None = None
        try:
            for event in events:
                if isinstance(event, Finished):
                    self._judge(engine, before, event.timings, expected)
                yield event
                if before is None:  # after the first token is out: looking takes a moment
                    before = self._look(engine)
        finally:
            events.close()

    def look(self, engine: Engine, expected: Expectation) -> None:
        """Judge an engine whose generations pass by without us, from all that it has read since it was started."""
        if engine in self._told or expected.pages or not expected.weight_bytes:
            return
        read = self._look(engine).read
        if read is not None and read > WEIGHTS_READ * expected.weight_bytes:
            self._told.add(engine)
            self._tell(
                f"{engine.model}: {format_bytes(read)} were read from the disk since it was started, "
                f"{read / expected.weight_bytes:.1f} times its weights, so the model does not stay in memory; close "
                "other programs, or choose a smaller model, context or KV type"
            )

    def _look(self, engine: Engine) -> Vitals:
        if engine not in self._processes:
            pid: int | None = getattr(engine, "pid", None)  # not ours: an address that somebody else serves
            self._processes[engine] = processes_of(pid) if pid is not None else ()
        return vitals(self._processes[engine])

    def _judge(self, engine: Engine, before: Vitals | None, timings: Timings, expected: Expectation) -> None:
        tokens = timings.predicted
        if before is None or tokens < LEAST_TOKENS or engine in self._told:
            return
        line = self._paged(before, self._look(engine), tokens, expected) or _slow(timings, expected)
        if line:
            self._told.add(engine)
            self._tell(f"{engine.model}: {line}")

    @staticmethod
    def _paged(before: Vitals, after: Vitals, tokens: int, expected: Expectation) -> str:
        if before.read is None or after.read is None or expected.pages:
            return ""
        each = (after.read - before.read) // tokens
        if each < PAGED_FROM:
            return ""
        return (
            f"{format_bytes(each)} were read from the disk for each token of the last answer, so the model does not "
            "stay in memory; close other programs, or choose a smaller model, context or KV type"
        )


def _slow(timings: Timings, expected: Expectation) -> str:
    least = expected.decode_at_least(timings.cached + timings.prompt + timings.predicted // 2)
    if least is None or timings.decode_per_second >= FAR_UNDER * least:
        return ""
    return (
        f"{timings.decode_per_second:.1f} tokens a second, where the plan says at least {least:.1f}; other programs "
        "may be using the processor or the memory: see `quietmind doctor`"
    )
