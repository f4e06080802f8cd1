"""A beginning of notes that was read once, and what a change to its cache does to the answers, through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from quietmind.base.errors import EngineRefused
from quietmind.engine.port import Engine, Finished, Prompt, Request, saving
from quietmind.kvstore.arrays import layout_of
from quietmind.kvstore.mapping import mapped
from quietmind.kvstore.slots import SlotLayout
from quietmind.workspace.damage import Continuation, Damage, Probes, measure
from quietmind.workspace.layout import Layout


@dataclass(frozen=True)
class Trial:
    """The exact cache of ``prefix`` in ``file``, where its rows lie in it, and the ``answers`` to ``probes`` from it.

    To ask all probes once takes at most about ``seconds``.
    """

    engine: Engine
    prefix: Prompt
    probes: Probes
    file: Path
    rows: SlotLayout
    answers: tuple[Continuation, ...]
    seconds: float

    @classmethod
    def of(cls, engine: Engine, layout: Layout, blocks: int, file: Path, probes: Probes) -> Self:
        """Read the first ``blocks`` of ``layout``, keep their cache in ``file`` and ask ``probes``.

        The engine holds nothing but exact caches meanwhile: what it held before must be one. Raises EngineError,
        SnapshotNotUnderstood for a cache that is not, OSError.
        """
        prefix, tokens = layout.prefix(blocks), len(layout.prefix_tokens(blocks))
        read_exactly(engine, prefix, tokens, file)
        with file.open("rb") as source:
            rows = layout_of(source)
        # Restored, as every other cache will be: how a prompt is cut into batches changes the last bits of answers.
        saving(engine).restore(file)
        began = time.monotonic()
        probes, answers = probes.known(measure(engine, prefix, probes))
        return cls(engine, prefix, probes, file, rows, answers, time.monotonic() - began)

    def damage(self, change: Callable[[memoryview], None]) -> Damage:
        """Return the damage of what ``change`` makes of the engine's file, which it is given to write to.

        The engine holds the changed cache afterwards: whatever is read next must not go on from it.
        """
        changed, size = self.file.with_suffix(".changed"), self.rows.size
        with self.file.open("rb") as source, changed.open("w+b") as sink, mapped(sink, size) as target:
            if source.readinto(target) != size:
                raise EOFError(f"{self.file.name} has become shorter")
            change(target)
        saving(self.engine).restore(changed)
        return Damage.between(self.answers, measure(self.engine, self.prefix, self.probes), self.probes)


def read_exactly(
    engine: Engine, prefix: Prompt, tokens: int, file: Path, prefilled: Callable[[int], None] | None = None
) -> float:
    """Have ``engine`` read ``prefix`` and save its cache to ``file``; return the seconds that the prefill took.

    Raises EngineRefused where what it saves is not ``tokens`` long.
    """
    seconds = 0.0
    for event in engine.generate(Request(prefix, max_tokens=1, prefilled=prefilled)):
        if isinstance(event, Finished):
            seconds = event.timings.prompt_ms / 1000
    saved = saving(engine).save(file)
    if saved != tokens:
        raise EngineRefused(f"{engine.model}: the engine saved {saved:,} tokens where {tokens:,} were read")
    return seconds
