"""Storing what an engine has read: packed at a level, looked at through the engine's own answers, and only then kept.

What is packed with loss is unpacked again, given to the engine and asked the same as the exact cache (see
workspace/damage.py). Where the answers differ by more than the level promises it is packed finer, and at last all is
kept losslessly: no codec can make a reading fail. An engine that goes on to answer holds what was stored,
not something that nobody will ever see again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import EngineRefused, SnapshotNotUnderstood
from quietmind.base.progress import SILENT, Progress
from quietmind.engine.port import Engine, saving
from quietmind.kvstore.draft import Draft
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Snapshot, Store
from quietmind.workspace.damage import Continuation, Damage, Probes, measure
from quietmind.workspace.floor import write_with_noise
from quietmind.workspace.layout import Layout
from quietmind.workspace.levels import BOUNDS, EXACT, LOSSLESS, Floor, Measured, Packing


@dataclass(frozen=True)
class Cache:
    """What the engine holds of a notebook: its first ``tokens`` tokens, which it has saved to ``file``.

    They took ``seconds`` to read; ``before`` is the divergence of the beginning that they were read on (see Measured).
    The file lies in a scratch folder of the store, where there is room for more.
    """

    file: Path
    layout: Layout
    tokens: int
    seconds: float
    before: float = 0.0


@dataclass(frozen=True)
class Kept:
    """What was stored; packing and asking took ``check_seconds``, ``refused`` says why it was not packed smaller."""

    snapshot: Snapshot
    check_seconds: float = 0.0
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keeping:
    """Where the caches of one notebook go: ``store``, under ``label`` and ``fingerprint``, by ``packing``.

    ``cut`` says whether ``engine``, which holds them, can go back to a shorter prefix.
    """

    engine: Engine
    store: Store
    fingerprint: Fingerprint
    label: str
    cut: bool
    packing: Packing = LOSSLESS

    def along_the_way(self, cache: Cache) -> Kept:
        """Store what a reading has come to, and have the engine hold what it held. Raises SnapshotError, DiskFull.

        Losslessly: what is read behind it is then the same whether or not it was killed here. Only where the budget
        has no room for that beside what is stored, as it will be in the end.
        """
        room = self.store.room()
        if not self.packing.codecs or room is None or cache.file.stat().st_size <= room:
            return Kept(self._losslessly(cache))
        kept = self.whole(cache)
        if Measured.of(kept.snapshot.header).level != EXACT:
            saving(self.engine).restore(cache.file)
        return kept

    def whole(self, cache: Cache, progress: Progress = SILENT) -> Kept:
        """Store a notebook that is read to its end, as small as its level allows; the engine then holds what is stored.

        ``progress`` is told each time that the probes have been answered. Raises SnapshotError, DiskFull; EngineError
        only once all is stored.
        """
        began = time.monotonic()
        asking = _Asking(self.engine, cache, progress)
        if self.packing.codecs:
            progress.begin(f"{self.label}: checking that it answers alike", None)
        refused: list[str] = []
        for number, codec in enumerate(self.packing.codecs):
            packed = cache.file.with_name(f"packed-{number}")
            unpacked = packed.with_suffix(".cache")
            try:
                draft = Draft(cache.file, codec, packed)
                ratio = draft.raw_bytes / max(1, draft.bytes)
                draft.unpack(unpacked, self.store.bases)
                measured, broken = self._measured(cache, asking, unpacked)
                if not broken:
                    asking.hold(unpacked)
            except Exception as error:  # whatever is wrong with a codec: what took hours to read is not lost for it
                refused.append(str(error) or type(error).__name__)
                continue
            finally:
                unpacked.unlink(missing_ok=True)
            if broken:
                refused.append(f"packed {ratio:.1f} times smaller it shows {broken}")
                continue
            return Kept(self._saved(cache, measured, ratio, draft), time.monotonic() - began, tuple(refused))
        snapshot = self._losslessly(cache)
        asking.hold(cache.file)
        return Kept(snapshot, time.monotonic() - began if refused else 0.0, tuple(refused))

    def _measured(self, cache: Cache, asking: _Asking, unpacked: Path) -> tuple[Measured, str]:
        """Return what the engine shows of what was ``unpacked``, and which promise of the level that breaks."""
        bound, damage = BOUNDS[self.packing.level], asking.damage_of(unpacked)
        floor = self.packing.floor
        broken = bound.broken_by(damage, floor or Floor())
        if broken:  # else the floor makes no difference, and costs as much to measure as a check
            floor = asking.floor()
            broken = bound.broken_by(damage, floor)
        return Measured(self.packing.level, damage, floor, cache.before, self.packing.basis), broken

    def _losslessly(self, cache: Cache) -> Snapshot:
        return self._saved(cache, Measured(EXACT, before=cache.before))

    def _saved(
        self, cache: Cache, measured: Measured, ratio: float | None = None, draft: Draft | None = None
    ) -> Snapshot:
        return self.store.save(
            cache.file,
            self.fingerprint,
            cache.layout.prefix_tokens()[: cache.tokens],
            label=self.label,
            seconds=cache.seconds,
            cut=self.cut,
            codec=draft,
            note=measured.note(ratio),
        )


class _Asking:
    """Asks the engine the same of several caches of one notebook, the exact one first, which it holds at the start."""

    def __init__(self, engine: Engine, cache: Cache, progress: Progress) -> None:
        self._engine = engine
        self._progress = progress
        self._cache = cache
        self._held = cache.file
        self._probes = Probes(())
        self._exact: tuple[Continuation, ...] = ()
        self._floor: Floor | None = None

    def damage_of(self, file: Path) -> Damage:
        """Return how far answers from ``file`` differ from those of the exact cache; it is held afterwards."""
        if not self._exact:
            self.hold(self._cache.file)
            every = self._every()
            self._probes, self._exact = every.known(self._answers(every))
        self.hold(file)
        return Damage.between(self._exact, self._answers(self._probes), self._probes)

    def floor(self) -> Floor:
        """Return how far answers differ where the last bits of the exact cache do."""
        if self._floor is None:
            noisy = self._cache.file.with_name("noisy")
            try:
                write_with_noise(self._cache.file, noisy)
                damage = self.damage_of(noisy)
                self._floor = Floor(damage.mean, damage.same, damage.prose or 0.0)
            except SnapshotNotUnderstood:  # nothing is excused then
                self._floor = Floor()
            finally:
                noisy.unlink(missing_ok=True)
        return self._floor

    def hold(self, file: Path) -> None:
        """Have the engine hold ``file``, unless it does. Raises EngineError."""
        if file == self._held:
            return
        self._held = Path()  # whatever it holds if this fails
        restored = saving(self._engine).restore(file)
        if restored != self._cache.tokens:
            said = f"{restored:,} tokens of {self._cache.tokens:,}"
            raise EngineRefused(f"{self._engine.model}: the engine restored {said}; start it again")
        self._held = file

    def _every(self) -> Probes:
        """Return all that can be asked of the whole blocks that are held."""
        layout, left, blocks = self._cache.layout, self._cache.tokens - len(self._cache.layout.tokens[0]), 0
        for ids in layout.tokens[1:]:
            if len(ids) > left:
                break
            left, blocks = left - len(ids), blocks + 1
        return Probes.of(layout, blocks)

    def _answers(self, probes: Probes) -> tuple[Continuation, ...]:
        answers = measure(self._engine, self._cache.layout.beginning(self._cache.tokens), probes)
        self._progress.advance()
        return answers
