"""Reading a notebook: what of it is cached is restored, the rest is prefilled, and what is held then is stored.

The store is told only of what an engine has really saved. Killed at any moment, the next reading begins at the last
point that was stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quietmind.base.errors import EngineRefused, SnapshotDamaged, SnapshotError, SnapshotForeign
from quietmind.base.progress import SILENT, Progress
from quietmind.engine.port import Engine, Finished, Request, saving
from quietmind.kvstore.container import Header
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Snapshot, Store
from quietmind.workspace.keeping import Cache, Keeping, Kept
from quietmind.workspace.layout import Layout
from quietmind.workspace.levels import LOSSLESS, Measured, Packing

# What is read between two points that are stored: a kill costs at most so much. Seconds, since speeds differ a
# thousandfold between machines; the first stretch is so many tokens, from which the speed is known.
STRETCH_SECONDS = 120.0
FIRST_STRETCH_TOKENS = 1024

# Where a stretch ends, the engine begins a batch, and how a prompt is cut into batches may change the last bits of what
# is computed, as of any sum. So stretches end where batches of the whole notebook would: read in ten or in one, it is
# computed alike.
BATCH = 512  # as engines are started, unless the plan has chosen a larger micro-batch


@dataclass(frozen=True)
class Restored:
    """What the engine holds before it reads: ``tokens`` of a snapshot begin as the notebook does.

    ``seconds`` is what reading those took once, ``refused`` why better snapshots were not used.
    """

    tokens: int = 0
    seconds: float = 0.0
    milliseconds: float = 0.0
    snapshot: Snapshot | None = None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadReport:
    """What a reading did. ``seconds`` is what the whole notebook costs from nothing, ``spent`` what this took.

    Of that, packing with loss and asking what is lost took ``check_seconds``; ``finer`` says why it was not packed
    smaller, attempt by attempt.
    """

    tokens: int
    restored: int
    prefilled: int
    seconds: float
    spent: float
    snapshot: Snapshot | None
    finished: bool
    refused: tuple[str, ...] = ()
    check_seconds: float = 0.0
    finer: tuple[str, ...] = ()


def restore(
    engine: Engine,
    store: Store,
    fingerprint: Fingerprint,
    tokens: list[int],
    more_than: int = 0,
    accept: Callable[[Header], bool] = lambda _header: True,
) -> Restored:
    """Have ``engine`` hold the longest stored beginning of ``tokens``. Snapshots that are damaged are passed over.

    Only one that shares ``more_than`` so many tokens is worth unpacking: all notebooks begin with the same head. And
    only one that ``accept`` takes.
    """
    began = time.monotonic()
    refused: list[str] = []
    while (match := store.find(fingerprint, tokens, accept)) is not None and match.common > more_than:
        with store.scratch() as folder:
            file = folder / "cache"
            try:
                store.restore(match.snapshot, fingerprint, file)
                saving(engine).restore(file)
            except SnapshotForeign as error:
                refused.append(str(error))
                store.remove(match.snapshot)
            except SnapshotDamaged as error:
                refused.append(str(error))  # the store has removed it
            except EngineRefused as error:
                refused.append(f"{match.snapshot.path.name}: {error}")
                if match.snapshot.header.tokens > engine.context:  # it is good, and serves again in a larger context
                    return Restored(refused=tuple(refused))
                store.remove(match.snapshot)
            except SnapshotError as error:  # removed by another process, or no room to unpack it
                return Restored(refused=(*refused, str(error)))
            else:
                header = match.snapshot.header
                return Restored(
                    match.common,
                    header.seconds * match.common / header.tokens,
                    (time.monotonic() - began) * 1000,
                    match.snapshot,
                    tuple(refused),
                )
    return Restored(refused=tuple(refused))


def read(  # noqa: PLR0913 - what a reading depends on, each given by its name
    engine: Engine,
    store: Store,
    fingerprint: Fingerprint,
    layout: Layout,
    *,
    label: str,
    cut: bool,
    progress: Progress = SILENT,
    until: float | None = None,
    batch: int = BATCH,
    packing: Packing = LOSSLESS,
) -> ReadReport:
    """Read a notebook that is laid out for ``engine`` and store what it holds then, and at points along the way.

    The engine computes ``batch`` tokens at once. ``cut`` says whether it can go back to a shorter prefix of what it
    holds. Read to its end it is stored by ``packing``, and that is what the engine then holds. Ends early, at a point
    that is stored, once the monotonic clock has passed ``until``. Raises EngineError, SnapshotError, DiskFull.
    """
    began = time.monotonic()
    tokens = layout.prefix_tokens()
    head = len(layout.prefix_tokens(1)) - 1
    held = restore(engine, store, fingerprint, tokens, more_than=head, accept=packing.goes_on_from)
    before = (Measured.of(held.snapshot.header).loss or 0.0) if held.snapshot else 0.0
    keeping = Keeping(engine, store, fingerprint, label, cut, packing)
    progress.begin(f"{label}: reading", len(tokens))
    progress.advance(held.tokens)
    run = _Run(held.tokens, held.seconds)
    for end in _stretches(len(tokens), held, run, until, batch):
        if until is not None and time.monotonic() >= until:
            break
        shown = _Shown(progress, run.tokens)
        run.seconds += _prefill(engine, layout, end, shown.reach)
        run.tokens = end
        with store.scratch() as folder:
            file = folder / "cache"
            _require_whole(engine, saving(engine).save(file), run.tokens)
            cache = Cache(file, layout, run.tokens, run.seconds, before)
            if end < len(tokens):
                run.kept = keeping.along_the_way(cache)
                shown.reach(run.tokens)
            else:
                shown.reach(run.tokens)
                run.kept = keeping.whole(cache, progress)
            run.checking += run.kept.check_seconds
    return ReadReport(
        tokens=len(tokens),
        restored=held.tokens,
        prefilled=run.tokens - held.tokens,
        seconds=run.seconds,
        spent=time.monotonic() - began,
        snapshot=run.kept.snapshot if run.kept else held.snapshot,
        finished=run.tokens == len(tokens),
        refused=held.refused,
        check_seconds=run.checking,
        finer=run.kept.refused if run.kept else (),
    )


@dataclass
class _Run:
    """How far a reading has come: so many tokens, which took so many seconds, the earlier ones included."""

    tokens: int
    seconds: float
    kept: Kept | None = None
    checking: float = 0.0


class _Shown:
    """Tells ``progress`` of a stretch, batch by batch, from its first token on; it never goes back."""

    def __init__(self, progress: Progress, first: int) -> None:
        self._progress = progress
        self._reached = first

    def reach(self, tokens: int) -> None:
        """Say that the first ``tokens`` of the notebook are held."""
        if tokens > self._reached:
            self._progress.advance(tokens - self._reached)
            self._reached = tokens


def _require_whole(engine: Engine, saved: int, tokens: int) -> None:
    if saved != tokens:
        raise EngineRefused(
            f"{engine.model}: the engine saved {saved:,} tokens where {tokens:,} were read; nothing of it is kept"
        )


def _prefill(engine: Engine, layout: Layout, tokens: int, prefilled: Callable[[int], None]) -> float:
    """Have the engine hold the first ``tokens`` of a notebook; return the seconds that its prefill took."""
    # One token has to be asked for; it is sampled and not computed, so that it is not in the cache.
    for event in engine.generate(Request(layout.beginning(tokens), max_tokens=1, prefilled=prefilled)):
        if isinstance(event, Finished):
            return event.timings.prompt_ms / 1000
    raise AssertionError("a generation ends with Finished or an error")


def _stretches(total: int, held: Restored, run: _Run, until: float | None, batch: int) -> Iterator[int]:
    """Yield after how many tokens to store, so that a stretch of what is not held yet takes about STRETCH_SECONDS.

    Less where ``until`` comes before; always at the end of a batch.
    """
    while run.tokens < total:
        seconds, tokens = run.seconds - held.seconds, run.tokens - held.tokens
        lasting = STRETCH_SECONDS if until is None else max(0.0, min(STRETCH_SECONDS, until - time.monotonic()))
        stretch = int(lasting * tokens / max(seconds, 1e-9)) if tokens else FIRST_STRETCH_TOKENS
        batches = -(-(run.tokens + max(1, stretch)) // batch)
        yield min(total, batches * batch)
