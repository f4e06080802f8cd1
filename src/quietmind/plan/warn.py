"""What a person should know of a plan before they start it, one line each."""

from __future__ import annotations

from collections.abc import Iterator

from quietmind.base.units import format_bytes
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.ask import Run
from quietmind.plan.graph_limit import most_experts
from quietmind.plan.ledger import Ledger
from quietmind.plan.place import available
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.yarn import Yarn, documented_context


def warnings_of(machine: Machine, card: ModelCard, placement: Placement, run: Run, ledger: Ledger) -> tuple[str, ...]:
    """Return the warnings of a placed model, the costliest mistake first."""
    return (
        *unsure(card),
        *_too_many_experts(card, run),
        *_past_native(card, run),
        *_other_experts(card, run),
        *_from_disk(machine, ledger),
        *_unknown(machine),
        *_idle(machine, placement),
    )


def _past_native(card: ModelCard, run: Run) -> Iterator[str]:
    if run.yarn is not None:
        trained = "" if run.yarn.original == card.native_context else f" of the {run.yarn.original:,} trained on"
        yield (
            f"context {run.context:,} is past the model's native {card.native_context:,}: it takes YaRN with a factor "
            f"of {run.yarn.factor:,.2f}{trained} (and an override of {card.arch}.context_length), and answers to short "
            f"prompts get worse{past_known(card, run.yarn)}"
        )

    elif (promised := documented_context(card)) < min(run.context, card.native_context):
        yield (
            f"context {run.context:,} is within the native {card.native_context:,} of the model's file, but past the "
            f"{promised:,} that its makers document"
        )


def unsure(card: ModelCard) -> Iterator[str]:
    """Yield where the numbers of a model are from, if not from its own file."""
    if card.basis:
        yield f"the numbers of {card.name} are {card.basis}, not of its own file; plan the file itself to be sure"


def past_known(card: ModelCard, yarn: Yarn) -> str:
    """Return what to add where nobody has published that such a factor works."""
    if yarn.factor <= yarn.known:
        return ""
    scaling = card.rope.scaling if card.rope else None
    if scaling == "yarn":
        return f"; nothing is known to work past the {yarn.known:,.2f} that it was trained with"
    if scaling == "linear":
        return (
            "; it takes the place of the linear scaling that the model was trained with, without which it is not known "
            "to work at any length"
        )
    if scaling is not None:
        return f"; nothing is known to work on top of the {scaling} scaling that it was trained with"
    return (
        f"; nothing is known to work past a factor of {yarn.known:,.2f} without training for it "
        "(the most that Qwen documents, for its own models)"
    )


def _too_many_experts(card: ModelCard, run: Run) -> Iterator[str]:
    most = most_experts(card, run)
    if most is not None and card.experts_used > most:
        yield (
            f"with {card.experts_used} experts at work llama.cpp may end at its start, because its graph has room for "
            f"only so many steps: up to {most} are known to start with these settings; use no more"
        )


def _other_experts(card: ModelCard, run: Run) -> Iterator[str]:
    if run.experts_used is not None:
        yield (
            f"{run.experts_used} of {card.experts} experts are used, not as many as in training: the bytes read for a "
            "token change with them, the bytes held do not, and answers may get worse"
        )


def _from_disk(machine: Machine, ledger: Ledger) -> Iterator[str]:
    held = ledger.total(DISK)
    if not held:
        return
    read = sum(row.read_per_token for row in ledger.rows if row.device == DISK)
    speed = machine.disk.read_bytes_per_s if machine.disk else None
    cost = f"at least {read / speed:.1f} s a token" if speed else "how fast the disk is, the machine does not say"
    if speed and machine.disk is not None and machine.disk.assumed:
        cost += f" (assumed: {machine.disk.path}, {speed / 1e9:.1f} GB/s)"
    yield (
        f"{format_bytes(held)} of experts exceed all memory and are read from the disk again and again, "
        f"{format_bytes(read)} for each token: {cost}"
    )


def _unknown(machine: Machine) -> Iterator[str]:
    if available(machine.cpu) is None:
        yield "how much memory this machine has could not be found out; the verdict is a guess"
    for device in machine.accelerators:
        if available(device) is None:
            yield f"{device.name}: how much memory it has could not be found out, so nothing is placed there unasked"


def _idle(machine: Machine, placement: Placement) -> Iterator[str]:
    idle = [device for device in machine.accelerators if device.key not in placement.devices and available(device)]
    if idle:
        keys: dict[str, list[str]] = {}
        for device in idle:
            keys.setdefault(device.name, []).append(device.key)
        names = ", ".join(f"{name} ({', '.join(alike)})" for name, alike in keys.items())
        others = any(device.key in placement.devices for device in machine.accelerators)
        why = "the model fits without" if others else "no part of the model fits there, or it was asked so"
        yield f"{names} stays unused: {why}"
