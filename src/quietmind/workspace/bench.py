"""Takes speeds on purpose: what a model was predicted to do at some depths, then what it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quietmind.base.errors import DoesNotFit, UsageError
from quietmind.base.units import format_bytes
from quietmind.engine.port import Engine, Finished, Request, Timings
from quietmind.plan.ask import Ask
from quietmind.plan.kv import padded
from quietmind.plan.measured import Measurement
from quietmind.plan.speed import Speed
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.measurements import RunLabel, of_process, of_timings, remember

PROBE_TOKENS = 512  # prefilled behind the depth and timed: one micro-batch of the default size, or of a larger one
DECODED_TOKENS = 48
# What the prompt may be longer than its parts, where tokens join differently, and room for the start token.
SLACK_TOKENS = 32
RUNS = 2  # the better one counts: other programs only ever slow a run down

SMALLEST_CONTEXT = PROBE_TOKENS + DECODED_TOKENS + SLACK_TOKENS
_TEXT = "The hub wakes every sensor in turn, asks it how it has slept, and writes the answer into the log. "


@dataclass(frozen=True)
class Expected:
    """What is predicted for a context that is full, before anything runs. ``speed`` is None where nothing can be."""

    context: int
    depth: int
    speed: Speed | None


@dataclass(frozen=True)
class Shown:
    """What the engine showed there, in tokens a second; None where the model stopped too early to tell."""

    context: int
    depth: int
    prefill: float | None
    decode: float | None


def bench(
    model: str, ask: Ask, contexts: Sequence[int], logs: Path, folder: Path
) -> Iterator[Expected | Shown | Measurement]:
    """Yield what is expected at each of ``contexts`` tokens, then what is shown, and at last the resident bytes.

    Everything shown is appended to the workspace in ``folder``. Raises UsageError for a context that is too short to
    measure in or past the native one, DoesNotFit without a ledger, and whatever starting and running the model raises.
    """
    wanted = sorted(set(contexts))
    for context in wanted:
        if context < SMALLEST_CONTEXT:
            raise UsageError(f"a context of {context:,} is too short to measure in; give at least {SMALLEST_CONTEXT:,}")
    start = prepare(model, replace(ask, context=wanted[-1]), folder)
    _refuse_unrunnable(start, model)
    probes = {context: _probe(context, start.plan.micro_batch) for context in wanted}
    depths = {context: context - DECODED_TOKENS - SLACK_TOKENS - probe for context, probe in probes.items()}
    for context in wanted:
        yield Expected(context, depths[context], start.speed(depths[context]))
    with start.engine(logs) as engine:
        for context in wanted:
            best = measure(engine, depths[context], start.label, probe=probes[context])
            remember(folder, list(best.values()))
            yield Shown(context, depths[context], _value(best.get("prefill")), _value(best.get("decode")))
        pid = getattr(engine, "pid", None)
        held = of_process(pid, start.label) if pid is not None else None
    if held is not None:
        remember(folder, [held])
        yield held


def _refuse_unrunnable(start: Start, model: str) -> None:
    """Raise for what the engine that we start cannot do, before anything is predicted of it."""
    context, native, cores = start.plan.context, start.card.native_context, start.machine.host.logical_cores
    if native < SMALLEST_CONTEXT:
        raise UsageError(
            f"the native {native:,} of {start.card.name} are too short to measure in, which takes "
            f"{SMALLEST_CONTEXT:,} tokens; name another model"
        )
    if context > padded(native):
        raise UsageError(
            f"a context of {context:,} is past the native {native:,} of {start.card.name}, where no speed can be taken "
            f"yet; give at most {native:,}"
        )
    if start.ask.threads is not None and cores is not None and start.ask.threads > cores:
        raise UsageError(
            f"{start.ask.threads:,} threads are more than the {cores:,} cores here; give at most {cores:,}"
        )
    if start.plan.verdict == "does not fit":
        needed = format_bytes(sum(use.needed_bytes for use in start.plan.devices))
        raise DoesNotFit(
            f"{start.card.name} takes {needed} at a context of {context:,}, which does not fit into this machine; "
            f"give a smaller --context (`quietmind plan {model} --context {context}` shows what takes how much)"
        )


def measure(
    engine: Engine, depth: int, label: RunLabel, *, runs: int = RUNS, first: int = 1, probe: int = PROBE_TOKENS
) -> dict[str, Measurement]:
    """Return the best prefill of ``probe`` tokens, and decode, of ``runs`` behind ``depth`` tokens, by their names.

    The tokens before the depth are prefilled once and stay in the engine's cache. ``first`` numbers the first run: a
    later call on the same engine must give numbers that were not used.
    """
    each = len(engine.tokenize(_TEXT * 20)) / 20
    before = _TEXT * int(depth / each)
    if before:
        _timed(engine, before, 1)
    best: dict[str, Measurement] = {}
    for number in range(first, first + runs):
        # A first word that differs keeps the engine from finding the rest in its cache.
        timings = _timed(engine, f"{before}Round {number}. {_TEXT * int(probe / each)}", DECODED_TOKENS)
        for measurement in of_timings(timings, label):
            known = best.get(measurement.what)
            if known is None or measurement.value > known.value:
                best[measurement.what] = measurement
    return best


def _timed(engine: Engine, prompt: str, tokens: int) -> Timings:
    for event in engine.generate(Request(prompt, tokens)):
        if isinstance(event, Finished):
            return event.timings
    raise AssertionError("a generation ends with Finished or raises")


def _probe(context: int, micro_batch: int) -> int:
    """Return how many tokens are prefilled and timed: a whole micro-batch, where a context of this size has room."""
    return min(max(PROBE_TOKENS, micro_batch), context - DECODED_TOKENS - SLACK_TOKENS)


def _value(measurement: Measurement | None) -> float | None:
    return None if measurement is None else measurement.value
