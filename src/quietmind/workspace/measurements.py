"""What real runs showed, kept in the workspace's database, and an engine that notes it of every run by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from quietmind.base.sqlite import connect, database_exists, transaction, translated
from quietmind.engine.in_front import InFront
from quietmind.engine.port import (
    Delta,
    Engine,
    Finished,
    Position,
    Request,
    Timings,
    probing,
)
from quietmind.plan.ask import DEFAULT_MICRO_BATCH
from quietmind.plan.measured import Measurement, What
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE

# Shorter stretches say more about starting and stopping than about speed.
LEAST_PREFILLED = 128
FILLED = 0.75  # of a larger micro-batch than the engine's default: one that is not full takes as long and does less
LEAST_DECODED = 16

# Of one run (plan_id, what and depth), so many last measurements count: a machine changes.
KEPT = 20


def remembered(folder: Path, machine: str) -> tuple[Measurement, ...]:
    """Return what the workspace in ``folder`` holds about the machine of that fingerprint, oldest first.

    A folder without a database holds nothing, and none is made. Raises WorkspaceError and its kin.
    """
    database = folder / DATABASE
    if not database_exists(database):
        return ()
    with translated(database), closing(connect(database, ALL_MIGRATIONS)) as connection:
        return load(connection, machine)


def remember(folder: Path, measurements: Sequence[Measurement]) -> None:
    """Append ``measurements`` to the workspace in ``folder``, which exists. Raises WorkspaceError and its kin."""
    database = folder / DATABASE
    with translated(database), closing(connect(database, ALL_MIGRATIONS)) as connection:
        save(connection, measurements)


def load(connection: sqlite3.Connection, machine: str) -> tuple[Measurement, ...]:
    """Return the measurements of a machine, the last ``KEPT`` of each kind, oldest first."""
    rows = connection.execute(
        """
        SELECT plan_id, what, value, unit, at, machine, depth, predicted FROM (
            SELECT *, row_number() OVER (PARTITION BY plan_id, what, depth ORDER BY id DESC) AS age
            FROM measurements WHERE machine = ?
        ) WHERE age <= ? ORDER BY id
        """,
        (machine, KEPT),
    )
    return tuple(Measurement(*row) for row in rows)


def save(connection: sqlite3.Connection, measurements: Sequence[Measurement]) -> None:
    """Append ``measurements`` in one transaction."""
    with transaction(connection):
        connection.executemany(
            "INSERT INTO measurements (plan_id, what, value, unit, at, machine, depth, predicted) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(m.plan_id, m.what, m.value, m.unit, m.when, m.machine, m.depth, m.predicted) for m in measurements],
        )


@dataclass(frozen=True)
class RunLabel:
    """Under what a run's measurements are filed, and how it computes: ``micro_batch`` tokens of a prompt at a time.

    ``predict`` gives the uncorrected prediction of "decode" or "prefill" at a depth in tokens a second, None where
    there is none.
    """

    plan_id: str
    machine: str
    micro_batch: int
    predict: Callable[[What, int], float | None] = lambda _what, _depth: None


def of_timings(timings: Timings, label: RunLabel) -> Iterator[Measurement]:
    """Yield what one generation shows: prefill and decode, each at the depth it had on average, if long enough."""
    now = _now()
    least = FILLED * label.micro_batch if label.micro_batch > DEFAULT_MICRO_BATCH else LEAST_PREFILLED
    if timings.prompt >= least and timings.prompt_ms > 0:
        # A prompt's micro-batches begin from the cached tokens on; the depth is that of the middle one.
        depth = timings.cached + max(0, timings.prompt - label.micro_batch) // 2
        yield _speed("prefill", timings.prefill_per_second, depth, now, label)
    if timings.predicted >= LEAST_DECODED and timings.predicted_ms > 0:
        depth = timings.cached + timings.prompt + timings.predicted // 2
        yield _speed("decode", timings.decode_per_second, depth, now, label)


def of_process(pid: int, label: RunLabel) -> Measurement | None:
    """Return the bytes that the process and its children hold resident; None when it is gone."""
    try:
        process = psutil.Process(pid)
        held = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return None
    return Measurement(label.plan_id, "resident", float(held), "B", _now(), label.machine)


def _speed(kind: What, value: float, depth: int, now: str, label: RunLabel) -> Measurement:
    return Measurement(label.plan_id, kind, value, "tok/s", now, label.machine, depth, label.predict(kind, depth))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Noting(InFront):
    """An engine that hands on what every finished generation showed. Implements Probing too.

    ``note`` is called after the last item was made and before it is handed out. It must not raise: a measurement is
    never worth an answer.
    """

    def __init__(self, engine: Engine, label: RunLabel, note: Callable[[Sequence[Measurement]], None]) -> None:
        self._engine = engine
        self._label = label
        self._note = note

    @property
    def behind(self) -> Engine:
        """The engine."""
        return self._engine

    @property
    def pid(self) -> int | None:
        """Process id of what serves the model; None where it is none of ours."""
        return getattr(self._engine, "pid", None)

    def generate(self, request: Request) -> Generator[Delta | Finished]:
        """Continue ``request.prompt``; see the port."""
        events = self._engine.generate(request)
        try:
            for event in events:
                if isinstance(event, Finished):
                    self._note(list(self._shown(event.timings)))
                yield event
        finally:
            events.close()

    def probe(self, prompt: str, tokens: int, top: int) -> tuple[Position, ...]:
        """Continue ``prompt`` and say what was likely; see the port."""
        return probing(self._engine).probe(prompt, tokens, top)

    def _shown(self, timings: Timings) -> Iterator[Measurement]:
        yield from of_timings(timings, self._label)
        pid = getattr(self._engine, "pid", None)  # of the adapters that start a process of their own
        if pid is not None and (held := of_process(pid, self._label)) is not None:
            yield held
