"""The best of what a machine can do with a model: quantization, type of the KV cache, context and placement.

Every quantization and KV type is planned at the least context that will do and at the largest that still meets the
demands. Of these plans the frontier keeps those that no other beats in everything: quality of weights and cache,
context, speed. The goal then says which of them is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from quietmind.base.errors import QuietmindError, UsageError
from quietmind.base.units import format_bytes
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import DEFAULT_MICRO_BATCH
from quietmind.plan.interval import Interval
from quietmind.plan.kv import kv_type as kv_layout
from quietmind.plan.kv import padded
from quietmind.plan.placement import DISK
from quietmind.plan.plan import LARGEST_CONTEXT, LARGEST_DEFAULT_CONTEXT, Ask, Plan, plan, refuse_no_memory
from quietmind.plan.table import align, device_columns, interval_to_json, shown
from quietmind.plan.yarn import yarn_for

Goal = Literal["quality", "context", "speed"]
Planner = Callable[[Machine, ModelCard, Ask], Plan]

GOALS: tuple[Goal, ...] = get_args(Goal)

# KV types in the order of what they cost in quality, best first, with the divergence (KL, nats) of the next token from
# that of an f16 cache. Measured on a model of 0.5 billion parameters at 3,054 tokens, the 4 bits rotated as the engine
# rotates them; there 8 bits answered 16 of 16 questions about the text, 4 bits 15.
KV_PENALTIES = {"f16": 0.0, "q8_0": 0.00001, "q4_0": 0.0033}

# The divergence that quantized weights cost, as a function of bits a weight: it halves every 0.8 bits. Fitted to the
# published divergences of Llama 3 8B (llama.cpp, tools/perplexity/README.md): 0.0014 at 8.5 bits, 0.0055 at 6.6,
# 0.011 at 5.7, 0.031 at 4.9. It orders choices; it predicts no answers, and larger models suffer less.
_PENALTY_AT_4_85_BITS = 0.031
_BITS_THAT_HALVE_IT = 0.8

# Below this, quality falls off a cliff: a goal of context or speed does not go there while anything else will do.
_FEWEST_BITS = 4.0

_SHOWN = 10  # rows of the table

_FASTEST_THAT_MAKES_SENSE = 1e6  # tokens a second


@dataclass(frozen=True)
class Choice:
    """A plan that meets the demands. ``bits`` a weight on average, scales included."""

    quantization: str
    bits: float
    plan: Plan

    @property
    def decode(self) -> Interval | None:
        """Tokens a second, None while the machine's speed is unknown."""
        return self.plan.speed.decode if self.plan.speed else None

    @property
    def penalty(self) -> float:
        """What weights and cache together cost in quality, as a divergence of the next token; less is better."""
        return weights_penalty(self.bits) + kv_penalty(self.plan.kv_type)


@dataclass(frozen=True)
class Rejected:
    """Why a quantization with a KV type does not do."""

    quantization: str
    kv_type: str
    reason: str


@dataclass(frozen=True)
class Frontier:
    """What a search found. ``choices`` are best first by the goal; ``chosen`` is the first, None if nothing does.

    ``planned`` counts the plans that were made.
    """

    model: str
    machine: str
    goal: Goal
    min_decode: float | None
    min_context: int
    choices: tuple[Choice, ...]
    rejected: tuple[Rejected, ...]
    planned: int

    @property
    def chosen(self) -> Choice | None:
        """The best choice by the goal."""
        return self.choices[0] if self.choices else None


def weights_penalty(bits: float) -> float:
    """Return the divergence (KL, nats) that weights of so many bits on average cost, for the order of choices."""
    return float(_PENALTY_AT_4_85_BITS * 2.0 ** ((4.85 - bits) / _BITS_THAT_HALVE_IT))


def kv_penalty(kv_type: str) -> float:
    """Return what a KV type costs; one that was not measured costs what the nearest with no more bits costs."""
    bits = kv_layout(kv_type).bytes_per_element
    return min(penalty for name, penalty in KV_PENALTIES.items() if kv_layout(name).bytes_per_element <= bits)


def bits_per_weight(card: ModelCard) -> float:
    """Return the average bits of a weight, scales included."""
    return card.weight_bytes * 8 / card.parameters


def search(
    machine: Machine,
    cards: Sequence[ModelCard],
    goal: Goal = "quality",
    min_decode: float | None = None,
    min_context: int | None = None,
    ask: Ask | None = None,
    planner: Planner = plan,
    kv_types: Sequence[str] = (),
) -> Frontier:
    """Return the frontier of one model in the quantizations ``cards`` on ``machine``.

    ``min_decode`` tokens a second are compared with the middle of the prediction; ``min_context`` tokens default to
    the model's own, at most 32,768. ``ask`` gives everything that is not searched (threads, experts, micro-batch), and
    ``kv_types``, unless empty, those to choose from.
    Raises UsageError for demands that make no sense.
    """
    if not cards:
        raise UsageError("no quantization was given to choose from")
    refuse_absurd(min_decode, min_context)
    refuse_no_memory(machine)
    for kv_type in kv_types:
        kv_layout(kv_type)  # refuses an unknown one
    native = max(card.native_context for card in cards)
    least = padded(min_context or min(native, LARGEST_DEFAULT_CONTEXT))
    yarn_for(cards[0], least)  # refuses what no rotary embedding was ever stretched to
    found = _Search(machine, ask or Ask(), min_decode, least, planner)
    for card in sorted(cards, key=bits_per_weight, reverse=True):
        for kv_type in kv_types or KV_PENALTIES:
            found.try_pair(card, kv_type)
    return Frontier(
        model=cards[0].name,
        machine=machine.name,
        goal=goal,
        min_decode=min_decode,
        min_context=least,
        choices=tuple(sorted(_undominated(found.choices), key=lambda choice: _rank(choice, goal))),
        rejected=tuple(found.rejected),
        planned=found.planned,
    )


def goal_named(name: str) -> Goal:
    """Return the goal called ``name``. Raises UsageError."""
    for goal in GOALS:
        if goal == name:
            return goal
    raise UsageError(f"{name!r} is not a goal; choose one of {', '.join(GOALS)}")


def refuse_absurd(min_decode: float | None, min_context: int | None) -> None:
    """Raise UsageError for a demand that makes no sense."""
    if min_decode is not None and not 0 < min_decode <= _FASTEST_THAT_MAKES_SENSE:
        raise UsageError(f"at least {min_decode:g} tokens a second makes no sense; give a number above 0, such as 3")
    if min_context is not None and not 1 <= min_context <= LARGEST_CONTEXT:
        raise UsageError(f"a context of at least {min_context:,} makes no sense; give a number such as 32k or 128k")


class _Search:
    """Tries pairs of a quantization and a KV type, and keeps what does and why the rest does not."""

    def __init__(
        self, machine: Machine, ask: Ask, min_decode: float | None, least: int, planner: Planner = plan
    ) -> None:
        self._machine = machine
        self._ask = ask
        self._min_decode = min_decode
        self._least = least
        self._planner = planner
        self.choices: list[Choice] = []
        self.rejected: list[Rejected] = []
        self.planned = 0

    def _too_large(self, card: ModelCard) -> str:
        """Return why no plan is worth making: weights larger than all memory are read from the disk, token by token."""
        there = memory_of(self._machine)
        if there is None or card.weight_bytes <= there:
            return ""
        return f"the weights alone take {format_bytes(card.weight_bytes)} of {format_bytes(there)}"

    def try_pair(self, card: ModelCard, kv_type: str) -> None:
        """Plan the least context and the largest that will do."""
        name = card.quantization or card.name
        if hopeless := self._too_large(card):
            self.rejected.append(Rejected(name, kv_type, hopeless))
            return
        try:
            smallest, reason = self._plan(card, kv_type, self._least)
            if reason:
                self.rejected.append(Rejected(name, kv_type, reason))
                return
            largest = self._largest(card, kv_type)
        except QuietmindError as error:  # such as a KV type that these heads cannot be packed into
            self.rejected.append(Rejected(name, kv_type, str(error)))
            return
        for planned in {smallest.context: smallest, (largest or smallest).context: largest or smallest}.values():
            self.choices.append(Choice(name, bits_per_weight(card), planned))

    def _largest(self, card: ModelCard, kv_type: str) -> Plan | None:
        """Halve the ladder of contexts: what holds at one rung holds at every lower one."""
        rungs = list(_ladder(self._least, card.native_context))
        low, high, best = -1, len(rungs), None
        while high - low > 1:
            middle = (low + high) // 2
            planned, reason = self._plan(card, kv_type, rungs[middle])
            if reason:
                high = middle
            else:
                low, best = middle, planned
        return best

    def _plan(self, card: ModelCard, kv_type: str, context: int) -> tuple[Plan, str]:
        """Return the plan and why it does not do, "" if it does."""
        self.planned += 1
        ask = replace(self._ask, context=context, kv_type=kv_type)
        return judged(self._planner, self._machine, card, ask, self._min_decode)


def memory_of(machine: Machine) -> int | None:
    """Return the bytes of all memory, unified memory counted once; None if some of it is not known."""
    sizes = [device.memory_bytes for device in machine.devices if not device.unified]
    return None if None in sizes else sum(size or 0 for size in sizes)


def judged(planner: Planner, machine: Machine, card: ModelCard, ask: Ask, min_decode: float | None) -> tuple[Plan, str]:
    """Return the plan of an ask, and what it lacks.

    Where it just decodes too slowly, the little that a larger micro-batch costs may be what it lacks: then the default.
    """
    planned = planner(machine, card, ask)
    lacks = shortfall(machine, planned, min_decode)
    if lacks and ask.micro_batch is None and planned.micro_batch > DEFAULT_MICRO_BATCH:
        plain = planner(machine, card, replace(ask, micro_batch=DEFAULT_MICRO_BATCH))
        if not shortfall(machine, plain, min_decode):
            return plain, ""
    return planned, lacks


def shortfall(machine: Machine, planned: Plan, min_decode: float | None) -> str:
    """Return what a plan on ``machine`` lacks: memory, or tokens a second. "" if nothing."""
    if planned.verdict == "does not fit":
        needed = sum(use.needed_bytes for use in planned.devices)
        there = memory_of(machine)
        if there is not None and needed > there:
            return f"takes {format_bytes(needed)} at {planned.context:,}, and there are {format_bytes(there)}"
        return f"does not fit at {planned.context:,}: {_overfull(planned)}"
    if min_decode is None:
        return ""
    if planned.speed is None or planned.speed.decode is None:
        paged = planned.ledger.total(DISK)
        why = f"{format_bytes(paged)} on a disk" if paged else "memory"
        return f"no speed can be predicted: {why} of unknown bandwidth"
    if planned.speed.decode.mid < min_decode:
        reading = paged_from_disk(machine, planned)
        return f"decodes {planned.speed.decode} tokens/s at {planned.context:,}" + (
            f", with {reading}" if reading else ""
        )
    return ""


def paged_from_disk(machine: Machine, planned: Plan) -> str:
    """Return what a plan reads from the disk all the time, "" if nothing."""
    paged = planned.ledger.total(DISK)
    if not paged:
        return ""
    assumed = machine.disk is not None and machine.disk.assumed
    return f"{format_bytes(paged)} read from {'an assumed' if assumed else 'the'} disk"


def _overfull(planned: Plan) -> str:
    for use in planned.devices:
        if use.capacity_bytes is not None and use.needed_bytes > use.capacity_bytes:
            return f"{use.device} takes {format_bytes(use.needed_bytes)} of {format_bytes(use.capacity_bytes)}"
    return "no device has room left"


def _ladder(least: int, native: int) -> Iterator[int]:
    """Yield contexts above ``least``, doubling, up to the native one, which is the last."""
    rung = least * 2
    while rung < native:
        yield rung
        rung *= 2
    if least < native:
        yield native


def _undominated(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices that no other is at least as good as in everything, and better in something."""
    merits = [_merits(choice) for choice in choices]
    return [
        choice
        for choice, own in zip(choices, merits, strict=True)
        if not any(other != own and all(b >= a for a, b in zip(own, other, strict=True)) for other in merits)
    ]


def _merits(choice: Choice) -> tuple[float, ...]:
    return (
        float(choice.plan.verdict == "fits"),
        -choice.penalty,
        choice.plan.context,
        choice.decode.mid if choice.decode else 0.0,
    )


def _rank(choice: Choice, goal: Goal) -> tuple[float, ...]:
    """Return what to sort by, least first. What is only tight now comes after all that fits."""
    tight = float(choice.plan.verdict != "fits")
    poor = float(choice.bits < _FEWEST_BITS)
    context, decode = -choice.plan.context, -(choice.decode.mid if choice.decode else 0.0)
    if goal == "quality":
        return tight, choice.penalty, context, decode
    if goal == "context":
        return tight, poor, context, choice.penalty, decode
    return tight, poor, decode, choice.penalty, context


def render_frontier(frontier: Frontier) -> str:
    """Return the frontier as a table, the chosen one marked, and under it why the others fail."""
    demands = f"goal {frontier.goal}, context at least {frontier.min_context:,}"
    if frontier.min_decode is not None:
        demands += f", at least {frontier.min_decode:g} tokens/s"
    lines = [f"{frontier.model} on {frontier.machine}: {demands}", ""]
    if frontier.choices:
        lines += _table(frontier.choices)
        if frontier.goal != "quality" and any(choice.bits < _FEWEST_BITS for choice in frontier.choices):
            lines.append(
                f"weights under {_FEWEST_BITS:g} bits come last, however fast: below, quality falls off a cliff"
            )
    else:
        lines.append("nothing does; what comes nearest is a smaller --min-context, a lower --min-decode or more memory")
    if frontier.rejected:
        lines += ["", "not these:", *_grouped(frontier.rejected)]
    return "\n".join(lines)


def _table(choices: Sequence[Choice]) -> list[str]:
    columns = device_columns(list(dict.fromkeys(use.device for choice in choices for use in choice.plan.devices)))
    rows = [["", "weights", "bits", "KV", "context", "decode tokens/s", "prefill tokens/s", *columns, ""]]
    for number, choice in enumerate(choices[:_SHOWN]):
        speed = choice.plan.speed
        needed = {use.device: use.needed_bytes for use in choice.plan.devices}
        held = (sum(needed.get(key, 0) for key in keys) for keys in columns.values())
        rows.append(
            [
                ">" if number == 0 else "",
                choice.quantization,
                f"{choice.bits:.2f}",
                choice.plan.kv_type,
                f"{choice.plan.context:,}",
                shown(speed.decode if speed else None),
                shown(speed.prefill if speed else None),
                *(format_bytes(size) if size else "-" for size in held),
                "" if choice.plan.verdict == "fits" else choice.plan.verdict,
            ]
        )
    lines = align(rows, left={0, 1, 3, len(columns) + 7})
    if len(choices) > _SHOWN:
        lines.append(f"   and {len(choices) - _SHOWN} that the goal likes less (--json lists all)")
    return lines


def _grouped(rejected: Sequence[Rejected]) -> Iterator[str]:
    """Yield a line for each quantization: the KV types that fail, and why the last of them, the smallest, does."""
    for name in dict.fromkeys(each.quantization for each in rejected):
        own = [each for each in rejected if each.quantization == name]
        yield f"  {name} with KV {', '.join(each.kv_type for each in own)}: {own[-1].reason}"


def frontier_to_json(frontier: Frontier) -> dict[str, Any]:
    """Return the frontier as JSON-ready values; the first choice is the chosen one."""
    return {
        "model": frontier.model,
        "machine": frontier.machine,
        "goal": frontier.goal,
        "min_decode": frontier.min_decode,
        "min_context": frontier.min_context,
        "planned": frontier.planned,
        "choices": [
            {
                "chosen": number == 0,
                "quantization": choice.quantization,
                "bits_per_weight": choice.bits,
                "kv_type": choice.plan.kv_type,
                "context": choice.plan.context,
                "verdict": choice.plan.verdict,
                "decode": interval_to_json(choice.decode),
                "prefill": interval_to_json(choice.plan.speed.prefill if choice.plan.speed else None),
                "devices": {use.device: use.needed_bytes for use in choice.plan.devices},
            }
            for number, choice in enumerate(frontier.choices)
        ],
        "rejected": [
            {"quantization": each.quantization, "kv_type": each.kv_type, "reason": each.reason}
            for each in frontier.rejected
        ],
    }
