"""The inverse question: which machine would run this model so, and which single upgrade of this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quietmind.base.errors import QuietmindError, UsageError
from quietmind.base.units import GIB, format_bytes
from quietmind.machine.machine import Device, Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import refuse_nonsense
from quietmind.plan.kv import padded
from quietmind.plan.placement import DISK
from quietmind.plan.plan import Ask, Plan, plan
from quietmind.plan.search import Planner, judged, paged_from_disk, refuse_absurd
from quietmind.plan.speed import Speed
from quietmind.plan.table import align, rates_to_json, shown_rates
from quietmind.plan.upgrades import with_gpu, with_memory, with_one_more_gpu
from quietmind.plan.yarn import yarn_for

Kind = Literal["here", "upgrade", "machine"]

MEMORY_STEPS_GIB = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class Candidate:
    """A machine that was tried. ``lacks`` says what it falls short of, "" if it does; ``plan`` None: refused.

    ``remark`` says where it only just does.
    """

    kind: Kind
    name: str
    plan: Plan | None
    lacks: str
    remark: str = ""

    @property
    def enough(self) -> bool:
        """Whether it does."""
        return not self.lacks

    @property
    def speed(self) -> Speed | None:
        """How fast it is; None where that is not known, or where the model is not held at all."""
        return self.plan.attainable if self.plan is not None else None


@dataclass(frozen=True)
class Hardware:
    """The answer. ``candidates``: this machine first, then what does, fastest first, then what does not."""

    model: str
    quantization: str | None
    context: int
    min_decode: float | None
    candidates: tuple[Candidate, ...]


def hardware(
    card: ModelCard,
    ask: Ask,
    min_decode: float | None,
    here: Machine | None,
    machines: Sequence[Machine],
    gpus: Sequence[Device] = (),
    planner: Planner = plan,
) -> Hardware:
    """Return which of ``machines``, and which single upgrade of ``here``, holds ``card`` as asked and is fast enough.

    ``gpus`` are those that could be put into ``here``.
    ``min_decode`` tokens a second are compared with the middle of the prediction, with the asked context full.
    Raises UsageError if ``ask`` has no context: without one there is nothing to hold machines to.
    """
    if ask.context is None:
        raise UsageError("which context should the machine hold? give --context, such as 128k")
    refuse_nonsense(ask, card)
    refuse_absurd(min_decode, ask.context)
    yarn_for(card, padded(ask.context))  # else every machine would refuse it, each in its own line
    tried = [
        _candidate(kind, name, machine, card, ask, min_decode, planner)
        for kind, name, machine in _all(here, machines, gpus)
    ]
    return Hardware(
        card.name, card.quantization, ask.context, min_decode, tuple(sorted(_without_idle(tried), key=_rank))
    )


def _all(
    here: Machine | None, machines: Sequence[Machine], gpus: Sequence[Device]
) -> Iterator[tuple[Kind, str, Machine]]:
    if here is not None:
        yield "here", here.name, here
        yield from _upgrades(here, gpus)
    for machine in machines:
        if here is None or machine.devices != here.devices:
            yield "machine", machine.name, machine


def _upgrades(here: Machine, gpus: Sequence[Device]) -> Iterator[tuple[Kind, str, Machine]]:
    """Yield ``here`` with more memory, one more GPU, or another GPU. Unified memory cannot be upgraded."""
    if any(device.unified for device in here.accelerators):
        return
    for gib in MEMORY_STEPS_GIB:
        if gib * GIB > (here.cpu.memory_bytes or 0) * 1.1:  # a "128 GB" machine shows a little less
            yield "upgrade", f"{gib:,} GB of RAM, as fast as now", with_memory(here, gib * GIB)
    more = with_one_more_gpu(here)
    if more is not None:
        yield "upgrade", f"one more {more.accelerators[-1].name}", more
    own = {device.name for device in here.accelerators}
    for gpu in gpus:
        if gpu.name not in own:
            verb = "in place of the GPUs now" if own else "added"
            yield "upgrade", f"{gpu.name}, {verb}", with_gpu(here, gpu)


def _candidate(
    kind: Kind, name: str, machine: Machine, card: ModelCard, ask: Ask, min_decode: float | None, planner: Planner
) -> Candidate:
    try:
        planned, lacks = judged(planner, machine, card, ask, min_decode)
    except QuietmindError as error:
        return Candidate(kind, name, None, str(error))
    return Candidate(kind, name, planned, lacks, _remark(machine, planned))


def _without_idle(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Leave out memory that stays empty: where this machine does, past the first size that does, or where nothing more
    of the model comes into it.
    """
    enough = any(candidate.kind == "here" and candidate.enough for candidate in candidates)
    last: tuple[dict[str, int], Speed | None] | None = None
    for candidate in candidates:
        if candidate.kind != "upgrade" or "of RAM" not in candidate.name:
            yield candidate
            continue
        planned = candidate.plan
        outcome = ({use.device: use.needed_bytes for use in planned.devices}, planned.speed) if planned else None
        if not enough and (outcome is None or outcome != last):
            yield candidate
        last = outcome
        enough = enough or candidate.enough


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    speed = candidate.speed
    return candidate.kind != "here", not candidate.enough, -(speed.decode.mid if speed and speed.decode else 0.0)


def render_hardware(answer: Hardware) -> str:
    """Return the answer as a table: what does, fastest first, then what does not and why."""
    name = answer.model if answer.quantization is None else f"{answer.model} {answer.quantization}"
    wanted = f"context {answer.context:,}"
    if answer.min_decode is not None:
        wanted += f", at least {answer.min_decode:g} tokens/s with it full"
    lines = [f"{name}: {wanted}", ""]
    rows = [["", "", "machine", "decode tokens/s", "prefill tokens/s", "on GPUs", "in RAM", ""]]
    for candidate in answer.candidates:
        decode, prefill = shown_rates(candidate.plan) if candidate.plan else ("-", "-")
        rows.append(
            [
                "yes" if candidate.enough else "no",
                {"here": "here", "upgrade": "here with", "machine": ""}[candidate.kind],
                candidate.name,
                decode,
                prefill,
                *_where(candidate.plan),
                candidate.lacks or candidate.remark,
            ]
        )
    lines += align(rows, left={0, 1, 2, 7})
    if not any(candidate.enough for candidate in answer.candidates):
        lines += ["", "none of these does; a smaller --quant or --context asks less"]
    if any("unknown bandwidth" in candidate.lacks for candidate in answer.candidates):
        lines += ["", "a bandwidth is not known: `quietmind machine --measure` takes those of this computer"]
    return "\n".join(lines)


def _remark(machine: Machine, planned: Plan) -> str:
    """Return how a plan fits that only just does: "tight", and what it reads from the disk all the time."""
    if planned.verdict != "tight":
        return ""
    return f"tight: {reading}" if (reading := paged_from_disk(machine, planned)) else "tight"


def _where(planned: Plan | None) -> tuple[str, str]:
    """Return the bytes on accelerators and in main memory, without what stays on the disk."""
    if planned is None or planned.verdict == "does not fit":
        return "-", "-"
    total = sum(use.needed_bytes for use in planned.devices)
    host = sum(use.needed_bytes for use in planned.devices if use.device in ("cpu", DISK))
    return (format_bytes(total - host) if total > host else "-"), format_bytes(host - planned.ledger.total(DISK))


def hardware_to_json(answer: Hardware) -> dict[str, Any]:
    """Return the answer as JSON-ready values, in the order of the table."""
    return {
        "model": answer.model,
        "quantization": answer.quantization,
        "context": answer.context,
        "min_decode": answer.min_decode,
        "candidates": [
            {
                "kind": candidate.kind,
                "name": candidate.name,
                "enough": candidate.enough,
                "lacks": candidate.lacks,
                "verdict": candidate.plan.verdict if candidate.plan else None,
                "remark": candidate.remark,
                **rates_to_json(candidate.plan),
                "devices": {use.device: use.needed_bytes for use in candidate.plan.devices} if candidate.plan else {},
            }
            for candidate in answer.candidates
        ],
    }
